"""What a run needs: memory on each GPU and in the host, bytes on disk; and what would fit. Pure.

The parts are those that the engine really keeps. With w bytes a weight (2 in bf16, 4 in fp32) and N
ranks, a trained weight costs under ZeRO 1

    bf16: w + w (gradient of a micro-batch) + 4 (fp32 accumulator) + (4 + optimizer state) / N
    fp32: w + 4 (gradient)                                         + (4 + optimizer state) / N

ZeRO 2 also divides the accumulators, ZeRO 3 the weights (arXiv 1910.02054, section 5; there,
without fp32 accumulation, 16 bytes for Adam in mixed precision). A frozen weight costs w, or half
a byte and its scale in QLoRA. Activations are what autograd keeps of transformers' layers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.config import TrainConfig
from trainer.flops import SIZE_FIELDS, Shape, shape_of
from trainer.machine import free_at, host_memory, smallest_gpu

GIB = 1024**3

FRAMEWORK_BYTES = int(1.25 * GIB)
"""CUDA context, kernels, cuBLAS workspace and NCCL's buffers of one process."""
HOST_BYTES = GIB
"""Python, torch, transformers and DeepSpeed in one process."""
BUCKET_ELEMENTS = 200_000_000
"""Most gradients that are reduced at once."""
LIVE_ELEMENTS = 1_000_000_000
"""ZeRO 3: most weights that are gathered at once."""
LOSS_LOGITS = 2**26
"""Most logits that the loss keeps at once."""

_STATE_BYTES: Mapping[str, float] = {
    "adamw": 8,
    "adam": 8,
    "nadam": 8,
    "radam": 8,
    "rmsprop": 4,
    "sgd": 4,
    "lion": 4,
    "adamw_8bit": 2.05,
}
"""Optimizer state of one trained weight; fp32 moments, or 8 bits and a scale a block of 256."""
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in 4 bits: half a byte, an 8-bit scale for 64, and an fp32 one for 256 of those."""


# --- the estimate -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on one GPU (or, on CPU, of one process), and what lies elsewhere.

    `weights`: the model as it computes. `gradients`: of a micro-batch and accumulated. `optimizer`:
    fp32 master weights and moments. `activations`: most that the backward pass holds, with the
    slices of logits. `buffers`: for reducing gradients and gathering weights. `framework`: what
    the process needs besides. `host`: offloaded, on each rank's host. `checkpoint` and `export`:
    on disk, of one of them.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    framework: int
    host: int
    checkpoint: int
    export: int
    ranks: int

    @property
    def total(self) -> int:
        """Bytes on one GPU."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.buffers)
        return sum(parts) + self.framework

    def summary(self) -> str:
        """A few lines for people."""
        rows = [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("buffers", self.buffers),
            ("framework", self.framework),
            ("per GPU", self.total),
        ]
        if self.host:
            rows.append(("host memory per rank", self.host))
        rows += [("a checkpoint on disk", self.checkpoint), ("the export on disk", self.export)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {readable(size):>9}" for name, size in rows)


def estimate(
    config: TrainConfig,
    model_config: Mapping[str, Any],
    parameters: int,
    *,
    ranks: int,
    device: Literal["gpu", "cpu"] = "gpu",
    tokens: int | None = None,
) -> Estimate:
    """What a run needs.

    Args:
        config: the run.
        model_config: the model's `config.json`.
        parameters: all weights of the model.
        ranks: processes that train together.
        device: where they compute.
        tokens: of the largest micro-batch; None: the configured cap, or `data.max_length` where
            that is found by trying.

    Returns:
        The parts in bytes. If `model_config` doesn't give the model's sizes, activations are 0.
    """
    shape = shape_of(model_config)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device == "gpu")
    width = 2 if bf16 else 4
    if tokens is None:
        cap = config.max_tokens_per_microbatch
        tokens = config.data.max_length if cap == "auto" else cap

    trained, frozen_bytes = _weights(config, shape, parameters, width)
    states = _STATE_BYTES[config.optimizer]
    stage = max(1, config.zero_stage)
    share = 1 / ranks
    weights_kept = (trained * width + frozen_bytes) * (share if stage == 3 else 1)
    accumulated = 4 * trained * (share if stage >= 2 else 1)
    # In bf16, ZeRO 1 keeps each micro-batch's own gradient until it is added up.
    gradients = accumulated + (width * trained if bf16 and stage == 1 else 0)
    optimizer = (4 + states) * trained * share
    bucket = min(2 * trained, BUCKET_ELEMENTS)
    # fp32 under ZeRO 1 and 2 flattens this rank's gradients once more in the optimizer's step.
    buffers = bucket * (4 if bf16 and stage == 1 else 2 * width)
    if stage == 3:
        buffers += min(parameters, LIVE_ELEMENTS) * width
    host = 0.0
    if config.offload != "none":
        host, optimizer = optimizer, 0.0
        if stage >= 2:  # under ZeRO 1, whole gradients are accumulated on the GPU
            host, gradients = host + gradients, 0.0
    if config.offload == "all":
        host, weights_kept = host + weights_kept, 0.0

    activations = 0
    if shape is not None:
        activations = _activations(config, shape, tokens, width, adapters=config.method != "full")
    saved = 2 if _saved_in_half(model_config) else 4
    adapter_export = 4 * trained if config.method != "full" else 0
    return Estimate(
        weights=int(weights_kept),
        gradients=int(gradients),
        optimizer=int(optimizer),
        activations=int(activations),
        buffers=int(buffers),
        framework=FRAMEWORK_BYTES if device == "gpu" else HOST_BYTES,
        host=int(host),
        checkpoint=int((4 + states) * trained),
        export=int(saved * parameters + adapter_export),
        ranks=ranks,
    )


def _weights(
    config: TrainConfig, shape: Shape | None, parameters: int, width: int
) -> tuple[int, float]:
    """(trained weights, bytes of the frozen ones)."""
    if config.method == "full":
        return parameters, 0.0
    adapters = adapter_weights(config, shape) if shape is not None else parameters // 100
    if config.method == "lora" or shape is None:
        return adapters, parameters * (width if config.method == "lora" else _NF4_BYTES)
    in_four_bits = min(parameters, shape.body_weights)
    return adapters, in_four_bits * _NF4_BYTES + (parameters - in_four_bits) * width


def adapter_weights(config: TrainConfig, shape: Shape) -> int:
    """Trained weights of the low-rank adapters: rank · (inputs + outputs) of each target."""
    hidden, inner = shape.hidden, shape.intermediate
    query, key = shape.attention_width, shape.kv_heads * shape.head_dim
    layers = {
        "q_proj": hidden + query,
        "k_proj": hidden + key,
        "v_proj": hidden + key,
        "o_proj": query + hidden,
        "gate_proj": shape.experts * (hidden + inner) if shape.gated else 0,
        "up_proj": shape.experts * (hidden + inner),
        "down_proj": shape.experts * (hidden + inner),
    }
    chosen = layers.values()
    if config.lora_targets != "all-linear":
        chosen = [layers.get(name, hidden + inner) for name in config.lora_targets]
    return config.lora_rank * shape.layers * sum(chosen)


def _activations(
    config: TrainConfig, shape: Shape, tokens: int, width: int, *, adapters: bool
) -> float:
    """Bytes that autograd keeps of a micro-batch, at the moment when they are most.

    Of a layer it keeps, a token: the inputs of both norms (in fp32) and what they normalise, the
    inputs of the matrices, queries, keys, values and attention's result, and four times the
    feed-forward width (gate, its activation, up, their product).
    """
    hidden = shape.hidden
    key = shape.kv_heads * shape.head_dim
    norms = 2 * (4 * hidden + 2 * width * hidden)
    attention = width * (2 * shape.attention_width + 2 * key)
    inner = (4 if shape.gated else 2) * shape.intermediate * shape.active_experts
    layer = norms + attention + width * inner
    if adapters:  # a second path to the same products, through `rank` numbers each
        layer += width * (2 * hidden + shape.attention_width + 2 * key)
    if config.activation_checkpointing:
        body = shape.layers * width * hidden + layer
    else:
        body = shape.layers * layer
    logits = min(tokens * shape.vocab, max(LOSS_LOGITS, shape.vocab)) * (width + 4 + 4)
    return tokens * body + logits + 3 * tokens * hidden * width


def _saved_in_half(model_config: Mapping[str, Any]) -> bool:
    dtype = str(model_config.get("dtype") or model_config.get("torch_dtype") or "float32")
    return dtype.endswith("16")


def readable(size: float) -> str:
    """Bytes for people, in binary units."""
    for unit, factor in (("TiB", GIB * 1024), ("GiB", GIB), ("MiB", GIB / 1024)):
        if size >= 0.95 * factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"


# --- what can't fit ---------------------------------------------------------------------------


def problems(
    config: TrainConfig,
    folder: Path,
    longest: int,
    *,
    gpu_bytes: int | None = None,
    ranks: int | None = None,
    disk_free: int | None = None,
    device: Literal["gpu", "cpu"] | None = None,
    parameters: int | None = None,
) -> list[tuple[str, str]]:
    """Why a run can't fit: (JSON pointer, message that says what would fit).

    Only what surely doesn't fit is refused. Under ZeRO 0 and 1 a smaller micro-batch than the
    configured one is found on the way, so there the longest sample has to fit.

    Args:
        config: the run.
        folder: the model's folder.
        longest: tokens of the longest sample.
        gpu_bytes: memory of one GPU; None: of this machine's smallest, asked of its driver.
        ranks: GPUs that train together; None: 1.
        disk_free: bytes free for `output_dir`; None: asked of the file system, if it is there.
        device: `cpu`: it runs on the CPU, and host memory is what counts. None: on a GPU; if this
            machine has none, nothing is known about the one that will train, and it may fit.
        parameters: all weights of the model; None: counted in its files.
    """
    model_config = _read_config(folder)
    if parameters is None:
        parameters = _count_parameters(folder)
    if model_config is None or not parameters:
        return []
    run = _Candidate(config, model_config, parameters, max(1, longest), ranks or 1)
    found: list[tuple[str, str]] = []
    if device == "cpu":
        found += _host_problems(run)
    else:
        memory = gpu_bytes if gpu_bytes is not None else smallest_gpu()
        if memory is not None:
            found += _gpu_problems(run, memory)
    free = disk_free if disk_free is not None else free_at(config.output_dir)
    if free is not None:
        found += _disk_problems(run, free)
    return found


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A configuration whose size is in question."""

    config: TrainConfig
    model_config: Mapping[str, Any]
    parameters: int
    longest: int
    ranks: int

    def changed(self, **fields: Any) -> _Candidate | None:
        """The same run with some fields changed; None if they don't go together."""
        settings = self.config.model_dump() | fields
        try:
            config = TrainConfig.model_validate(settings)
        except ValueError:
            return None
        return _Candidate(config, self.model_config, self.parameters, self.longest, self.ranks)

    def needs(self, device: Literal["gpu", "cpu"] = "gpu") -> Estimate:
        cap, tokens = self.config.max_tokens_per_microbatch, self.longest
        if cap != "auto" and self.config.zero_stage >= 2:
            tokens = max(tokens, cap)
        return estimate(
            self.config,
            self.model_config,
            self.parameters,
            ranks=self.ranks,
            device=device,
            tokens=tokens,
        )


def _gpu_problems(run: _Candidate, memory: int) -> list[tuple[str, str]]:
    needed = run.needs()
    if needed.total <= memory:
        return []
    where = f"each of {run.ranks} GPUs" if run.ranks > 1 else "the GPU"
    message = (
        f"{_what(run)} needs about {readable(needed.total)} on {where}, which has "
        f"{readable(memory)} ({_largest_parts(needed)})"
    )
    ways = list(_ways(run, memory))
    if not ways:
        return [("/model", f"{message}; use a smaller model, larger GPUs, or more of them")]
    texts = "; or ".join(way.text for way in ways)
    return [(ways[0].pointer, f"{message}; what would fit: {texts}")]


@dataclass(frozen=True, slots=True)
class _Way:
    """A change that makes a run fit."""

    pointer: str
    text: str


_Change = tuple[dict[str, Any], str]
"""Fields with their new values, and how to say it."""


def _ways(run: _Candidate, memory: int) -> Iterator[_Way]:
    """Changes that make the run fit, the cheapest first.

    First what costs speed only, then what trains fewer weights. Where a change isn't enough by
    itself, a smaller micro-batch and activation checkpointing help it.
    """
    config = run.config
    changes: list[_Change] = [({}, "")]
    if run.ranks > 1:
        changes += [
            ({"zero_stage": stage}, f"zero_stage: {stage}")
            for stage in (2, 3)
            if config.zero_stage < stage
        ]
    if config.offload == "none":
        shard = {"zero_stage": 2} if config.zero_stage < 2 else {}
        text = "offload: optimizer" + (" and zero_stage: 2" if shard else "")
        changes.append(({"offload": "optimizer", **shard}, text))
    if config.method == "full":
        changes.append(({"method": "lora"}, "method: lora"))
    if config.method != "qlora":
        shards = config.zero_stage == 3
        fields = {"zero_stage": 2, "offload": "none"} if shards else {}
        text = "method: qlora and zero_stage: 2" if shards else "method: qlora"
        changes.append(({"method": "qlora", **fields}, text))
    if config.offload != "all":
        fields = {"offload": "all", "zero_stage": 3}
        changes.append((fields, "offload: all and zero_stage: 3"))
    for fields, text in changes:
        for help_fields, help_text in _helps(run):
            both = {**fields, **help_fields}
            candidate = run.changed(**both) if both else None
            if candidate is not None and candidate.needs().total <= memory:
                yield _Way(f"/{next(iter(both))}", " with ".join(filter(None, (text, help_text))))
                break


def _helps(run: _Candidate) -> list[_Change]:
    """Nothing, a smaller micro-batch, activation checkpointing, or both."""
    helps: list[_Change] = [({}, "")]
    cap = run.config.max_tokens_per_microbatch
    if cap != "auto" and cap > run.longest:
        text = f"max_tokens_per_microbatch: {run.longest}"
        helps.append(({"max_tokens_per_microbatch": run.longest}, text))
    if not run.config.activation_checkpointing:
        on, say = {"activation_checkpointing": True}, "activation_checkpointing: true"
        helps += [
            ({**fields, **on}, f"{text} and {say}" if text else say) for fields, text in helps
        ]
    return helps


def _host_problems(run: _Candidate) -> list[tuple[str, str]]:
    memory = host_memory()
    needed = run.needs("cpu")
    total = (needed.total + needed.host) * run.ranks
    if memory is None or total <= memory:
        return []
    message = (
        f"{_what(run)} on CPU needs about {readable(total)} of memory, and this machine has "
        f"{readable(memory)} ({_largest_parts(needed)})"
    )
    lora = run.changed(method="lora") if run.config.method == "full" else None
    if lora is not None and lora.needs("cpu").total * run.ranks <= memory:
        return [("/method", f"{message}; what would fit: method: lora")]
    return [("/model", f"{message}; use a smaller model, or a GPU")]


def _disk_problems(run: _Candidate, free: int) -> list[tuple[str, str]]:
    """Checkpoints that are kept, the one that is being written, and the export."""
    config, needed = run.config, run.needs()
    points = len(config.checkpoint_at) + (len(config.eval_at) if config.keep_best else 0)
    kept = config.keep_checkpoints + config.keep_best
    if config.checkpoint_every_seconds is None:
        kept = min(kept, points)
    # A pause writes one too, so there is always room needed for one.
    size = (kept + 1) * needed.checkpoint + (needed.export if config.export else 0)
    if size <= free:
        return []
    message = (
        f"output_dir has {readable(free)} free, and this run needs about {readable(size)}: "
        f"{kept + 1} checkpoints of {readable(needed.checkpoint)}"
        + (f" and an export of {readable(needed.export)}" if config.export else "")
    )
    return [("/output_dir", f"{message}; free some space, choose another folder, or {_less(run)}")]


def _less(run: _Candidate) -> str:
    if run.config.keep_checkpoints > 1:
        return "set keep_checkpoints: 1"
    return "use method: lora" if run.config.method == "full" else "set export: false"


def _what(run: _Candidate) -> str:
    size = run.parameters
    name = f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:.0f}M"
    kind = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}[run.config.method]
    return f"{kind} of {name} weights"


def _largest_parts(needed: Estimate) -> str:
    names = ("weights", "gradients", "optimizer", "activations", "buffers")
    parts = sorted(((getattr(needed, name), name) for name in names), reverse=True)
    return ", ".join(f"{name} {readable(size)}" for size, name in parts[:3] if size)


def model_sizes(folder: Path) -> dict[str, Any]:
    """Of a model's `config.json`, what `estimate` needs; empty if it can't be read."""
    config = _read_config(folder) or {}
    text = config.get("text_config")
    whole = {**config, **text} if isinstance(text, Mapping) else config
    return {k: v for k, v in whole.items() if k in SIZE_FIELDS or k in ("dtype", "torch_dtype")}


def _read_config(folder: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _count_parameters(folder: Path) -> int:
    from trainer.model import count_parameters

    try:
        return count_parameters(folder)
    except (OSError, ValueError, KeyError, struct.error):
        return 0
