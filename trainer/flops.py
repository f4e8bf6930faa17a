"""Arithmetic of a training step, and what devices can do: model FLOPs utilisation (MFU). Pure.

Counted is what the model needs, not what was computed: recomputation (activation checkpointing, the
loss in slices) doesn't count, nor does padding. A matrix of n weights takes 2 n FLOPs a token
forward and twice that backward, once for the inputs and once for the weights: 6 n in all, and 4 n
where the weights are frozen (Kaplan et al., arXiv 2001.08361; PaLM's MFU, arXiv 2204.02311, B).
Attention over a sample of n tokens takes 2 n² · heads · head_dim FLOPs a layer forward: two
products of which causality leaves half. Embedding look-ups, norms and softmax aren't counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# --- devices ----------------------------------------------------------------------------------

_T = 1e12

# Device name pattern, dense bf16 peak with fp32 accumulation, fp32 peak outside tensor cores (as
# torch computes by default). From the makers' data sheets; the first pattern that matches counts.
_PEAKS: tuple[tuple[str, float | None, float | None], ...] = (
    (r"GB200|GB300", 2500 * _T, 80 * _T),
    (r"B200|B300", 2250 * _T, 75 * _T),
    (r"GH200", 989.4 * _T, 66.9 * _T),
    (r"H200 NVL", 835.5 * _T, 60 * _T),
    (r"H200", 989.4 * _T, 66.9 * _T),
    (r"H100 PCIe", 756.5 * _T, 51.2 * _T),
    (r"H100 NVL", 835.5 * _T, 60 * _T),
    (r"H100|H800", 989.4 * _T, 66.9 * _T),
    (r"H20", 148 * _T, 44 * _T),
    (r"A100|A800", 311.9 * _T, 19.5 * _T),
    (r"A40", 149.7 * _T, 37.4 * _T),
    (r"A30", 165.0 * _T, 10.3 * _T),
    (r"A10G", 70.0 * _T, 35.0 * _T),
    (r"A10", 125.0 * _T, 31.2 * _T),
    (r"L40S", 362.1 * _T, 91.6 * _T),
    (r"L40", 181.1 * _T, 90.5 * _T),
    (r"L4", 121.0 * _T, 30.3 * _T),
    (r"RTX PRO 6000", 503.8 * _T, 126.0 * _T),
    (r"RTX 6000 Ada", 364.2 * _T, 91.1 * _T),
    (r"RTX A6000", 154.8 * _T, 38.7 * _T),
    (r"RTX 5090", 209.5 * _T, 104.8 * _T),
    (r"RTX 4090", 165.2 * _T, 82.6 * _T),
    (r"RTX 3090 Ti", 80.0 * _T, 40.0 * _T),
    (r"RTX 3090", 71.0 * _T, 35.6 * _T),
    (r"V100", None, 15.7 * _T),
    (r"T4", None, 8.1 * _T),
    (r"MI355X", 2516.6 * _T, 157.3 * _T),
    (r"MI350X", 2306.9 * _T, 144.2 * _T),
    (r"MI3(00|25)X", 1307.4 * _T, 163.4 * _T),
    # A device is one of the card's two dies.
    (r"MI250X", 191.5 * _T, 23.9 * _T),
)


def peak_flops(device_name: str, precision: str) -> float | None:
    """Most FLOP/s that a device can do in dense matrix products; None if unknown.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it, e.g. `NVIDIA H100 80GB HBM3`.
        precision: `bf16` or `fp32`. fp32 is without TF32.

    Returns:
        The published peak; None for a CPU, an unknown device, or a precision that it hasn't got.
    """
    for pattern, bf16, fp32 in _PEAKS:
        if re.search(rf"(?<![A-Za-z0-9])({pattern})(?![A-Za-z0-9])", device_name):
            return {"bf16": bf16, "fp32": fp32}.get(precision)
    return None


# --- models -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's sizes, as far as arithmetic and memory depend on them.

    `window` is the sliding window of `windowed_layers` layers, 0 if there is none. `experts` and
    `active_experts` are those of a layer and of a token, 1 if the model is dense. `gated`: the
    feed-forward part has three matrices, not two.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    gated: bool = True
    experts: int = 1
    active_experts: int = 1
    window: int = 0
    windowed_layers: int = 0

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def attention_weights(self) -> int:
        """Weights of one layer's four attention matrices."""
        return 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim

    @property
    def mlp_weights(self) -> int:
        """Weights of one expert's feed-forward part in one layer."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def head_weights(self) -> int:
        return self.vocab * self.hidden

    @property
    def body_weights(self) -> int:
        """All weights of the layers' matrices, of all experts."""
        return self.layers * (self.attention_weights + self.experts * self.mlp_weights)

    @property
    def parameters(self) -> int:
        """All weights, embeddings too; without norms and biases."""
        return self.body_weights + self.head_weights * (1 if self.tied else 2)


_NOT_GATED = re.compile(
    r"gpt2|gpt_neo|gptj|gpt_bigcode|codegen|opt|bloom|falcon|mpt|phi$|phi-msft|starcoder2|nemotron"
    r"|persimmon|xglm|biogpt"
)
_SIZES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "intermediate": ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "active": ("num_experts_per_tok", "num_experts_per_token", "moe_topk"),
}


SIZE_FIELDS = frozenset(
    {name for names in _SIZES.values() for name in names}
    | {"model_type", "vocab_size", "head_dim", "multi_query", "tie_word_embeddings"}
    | {"sliding_window", "use_sliding_window", "layer_types"}
)
"""All fields that `shape_of` reads, but for `text_config`, which holds the same ones."""


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """The sizes in a model's `config.json`; None if it doesn't give them.

    A field that is absent has the default that transformers gives it for most models: as many key
    heads as heads, head_dim = hidden / heads, tied embeddings unless said otherwise for GPT-2.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}

    def size(name: str, default: int | None = None) -> int | None:
        for key in _SIZES[name]:
            value = config.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return default

    layers, hidden, heads = size("layers"), size("hidden"), size("heads")
    vocab = config.get("vocab_size")
    if layers is None or hidden is None or heads is None or not isinstance(vocab, int):
        return None
    kind = str(config.get("model_type", ""))
    gated = _NOT_GATED.match(kind) is None
    head_dim = config.get("head_dim")
    windowed, window = _windowed(config, layers)
    return Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=size("kv_heads", 1 if config.get("multi_query") else heads) or heads,
        head_dim=head_dim if isinstance(head_dim, int) else max(1, hidden // heads),
        intermediate=size("intermediate", 4 * hidden) or 4 * hidden,
        vocab=vocab,
        tied=bool(config.get("tie_word_embeddings", kind in _TIED)),
        gated=gated,
        experts=size("experts", 1) or 1,
        active_experts=min(size("active", 1) or 1, size("experts", 1) or 1),
        window=window,
        windowed_layers=windowed,
    )


_TIED = frozenset({"gpt2", "gpt_neo", "opt", "bloom", "gemma", "gemma2", "gemma3_text", "cohere"})


def _windowed(config: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """(layers with a sliding window, its length in tokens)."""
    window = config.get("sliding_window")
    if not isinstance(window, int) or window <= 0 or config.get("use_sliding_window") is False:
        return 0, 0
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return sum(kind == "sliding_attention" for kind in kinds[:layers]), window
    return layers, window


# --- counting ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FlopCounter:
    """FLOPs of training steps of one model.

    `body` and `head` are the weights that a token, and a target, is multiplied with. `per_weight`
    is 6, or 4 where they are frozen; `adapters` are the trained weights beside frozen ones.
    """

    shape: Shape
    body: int
    head: int
    per_weight: int = 6
    adapters: int = 0

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        *,
        parameters: int | None = None,
        adapters: int | None = None,
    ) -> FlopCounter | None:
        """The counter for a model, or None if its `config.json` doesn't give its sizes.

        Args:
            config: the model's `config.json`.
            parameters: all weights of the model, if known: exact also for unusual layers.
            adapters: trained weights if the model's own are frozen (LoRA, QLoRA); None: all train.
        """
        shape = shape_of(config)
        if shape is None:
            return None
        body = shape.body_weights
        embeddings = shape.head_weights * (1 if shape.tied else 2)
        if parameters is not None and parameters > embeddings:
            body = parameters - embeddings
        body -= shape.layers * (shape.experts - shape.active_experts) * shape.mlp_weights
        return cls(
            shape=shape,
            body=max(0, body),
            head=shape.head_weights,
            per_weight=6 if adapters is None else 4,
            adapters=adapters or 0,
        )

    def step(self, lengths: Iterable[int], targets: int | None = None) -> float:
        """FLOPs of forward and backward of some samples.

        Args:
            lengths: tokens of each sample.
            targets: positions whose logits are needed; None: all.
        """
        tokens, square, windowed = 0, 0.0, 0.0
        window = self.shape.window
        for length in lengths:
            length = int(length)
            tokens += length
            square += length * length
            if window:
                outside = max(0, length - window)
                windowed += length * length - outside * outside
        wanted = tokens if targets is None else targets
        weights = self.per_weight * (self.body * tokens + self.head * wanted)
        shape = self.shape
        full_layers = shape.layers - shape.windowed_layers
        attended = full_layers * square + shape.windowed_layers * windowed
        attention = 3 * 2 * shape.attention_width * attended
        return float(weights + 6 * self.adapters * tokens + attention)


def training_flops(
    config: Mapping[str, Any], lengths: Iterable[int], *, targets: int | None = None
) -> float:
    """FLOPs of training all weights of a model on samples of the given lengths, once.

    Args:
        config: the model's `config.json`.
        lengths: tokens of each sample.
        targets: positions whose logits are needed; None: all.

    Raises:
        ValueError: the configuration doesn't give the model's sizes.
    """
    counter = FlopCounter.of(config)
    if counter is None:
        raise ValueError("config.json names no layers, hidden size, heads or vocabulary")
    return counter.step(lengths, targets)


def utilisation(flops: float, seconds: float, peak: float | None, ranks: int = 1) -> float | None:
    """Model FLOPs utilisation, 0 … 1; None where the peak is unknown."""
    if peak is None or seconds <= 0.0:
        return None
    return flops / (seconds * peak * ranks)
