"""Token loss of a causal language model, summed over target tokens.

The sum, not the mean, is what accumulates exactly: the loop divides it by the target count of the
whole effective batch over all ranks. Logits exist for target positions only, and a slice at a time:
the gradients of a slice are made while its logits are there, so that nothing is kept or computed
twice. Liger's kernel does the same on a GPU. A head that isn't a bare matrix (one with adapters, or
in 4 bits) goes through its module in slices that are computed again in the backward pass.

Torch's own `linear_cross_entropy` has the same structure and speed, but in bf16 (2.13) it adds up
losses, and the weight's gradients of slices, in bf16: off by 2 % and 0.9 % with 47 slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from trainer.attention import MicroBatch, attending
from trainer.errors import ConfigError

MAX_LOGITS = 2**26
"""Most logits kept at once: 256 MiB in fp32."""
CPU_LOGITS, CPU_ROWS = 2**22, 256
"""The same on CPU, for the cache; but rows enough that the products are efficient."""


@dataclass(frozen=True, slots=True)
class Head:
    """How logits come from the last hidden state: cap · tanh(scale · embedding(hidden) / cap)."""

    scale: float = 1.0
    cap: float | None = None


class TokenLoss(nn.Module):
    """A language model as a function from a micro-batch to its summed loss in nats (scalar, fp32).

    Backward of a packed one belongs inside `attending(batch.segments)` too. It may be called once:
    gradients are made in the forward pass.

    Args:
        model: a causal language model.
        head: how it makes logits, so that they are made for target positions alone; see `head_of`.
            None: it is asked for all logits.
        liger: use Liger's kernel on a GPU.

    Raises:
        ConfigError: Liger was asked for and isn't installed, or there is no GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        head: Head | None = None,
        liger: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self._liger = _liger_kernel() if liger else None

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
        if batch.position_ids is not None:
            inputs["position_ids"] = batch.position_ids
        model: Any = self.model
        with attending(batch.segments):
            if self.head is None:
                logits = model(**inputs).logits.flatten(0, 1)
                return _summed(logits.index_select(0, batch.keep), batch.targets)
            hidden = model.base_model(**inputs)[0].flatten(0, 1).index_select(0, batch.keep)
        embedding: nn.Module = model.get_output_embeddings()
        return _summed_by_head(embedding, self.head, hidden, batch.targets, self._liger)


_Kernel = Callable[..., Any]


def _summed_by_head(
    embedding: nn.Module,
    head: Head,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    liger: _Kernel | None,
) -> torch.Tensor:
    """Summed loss of hidden states, (targets, width)."""
    training = torch.is_grad_enabled()
    if type(embedding) is nn.Linear and training and len(targets):
        if liger is not None:
            return _within(embedding, _by_liger(liger, embedding, head), hidden, targets)
        if hidden.dtype == embedding.weight.dtype:
            return _within(embedding, _fused(embedding, head), hidden, targets)
    return _by_slices(embedding, head, hidden, targets)


def _fused(embedding: nn.Linear, head: Head) -> Callable[..., torch.Tensor]:
    def summed(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = max(1, MAX_LOGITS // embedding.out_features)
        if hidden.device.type == "cpu":
            rows = min(rows, max(CPU_ROWS, CPU_LOGITS // embedding.out_features))
        loss = _LinearCrossEntropy.apply(
            hidden, embedding.weight, embedding.bias, targets, head, rows
        )
        assert isinstance(loss, torch.Tensor)
        return loss

    return summed


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of a linear layer's output, `rows` rows at a time, in fp32.

    Hidden (targets, width), weight (vocabulary, width), bias (vocabulary) or None, targets
    (targets). The forward pass makes the gradients for a loss whose own gradient is 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        head: Head,
        rows: int,
    ) -> torch.Tensor:
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        total = hidden.new_zeros((), dtype=torch.float32)
        of_hidden = torch.empty_like(hidden) if for_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None else None
        for begin in range(0, len(targets), rows):
            part = hidden[begin : begin + rows]
            wanted = targets[begin : begin + rows, None]
            logits = _product(part, weight.t())
            if bias is not None:
                logits += bias
            if head.scale != 1.0:
                logits *= head.scale
            slope = None
            if head.cap is not None:
                logits.div_(head.cap).tanh_()
                slope = 1.0 - logits.square()
                logits *= head.cap
            normalizer = logits.logsumexp(1, keepdim=True)
            total += (normalizer - logits.gather(1, wanted)).sum()
            # From here on `logits` holds the gradient: softmax - 1 at the target.
            logits.sub_(normalizer).exp_()
            logits.scatter_add_(1, wanted, -torch.ones_like(wanted, dtype=torch.float32))
            if slope is not None:
                logits *= slope
            if head.scale != 1.0:
                logits *= head.scale
            if of_bias is not None and for_bias:
                of_bias += logits.sum(0)
            gradient = logits.to(weight.dtype)
            if of_hidden is not None:
                torch.mm(gradient, weight, out=of_hidden[begin : begin + rows])
            if of_weight is not None:
                if gradient.dtype == torch.float32:
                    of_weight.addmm_(gradient.t(), part)
                else:
                    of_weight += _product(gradient.t(), part)
        ctx.gradients = (
            of_hidden,
            None if of_weight is None else of_weight.to(weight.dtype),
            of_bias.to(weight.dtype) if of_bias is not None and for_bias else None,
        )
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:
        if ctx.gradients is None:
            raise RuntimeError("backward was already called on this loss")
        made, ctx.gradients = ctx.gradients, None
        return (*(None if g is None else g.mul_(upstream[0]) for g in made), None, None, None)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Matrix product in fp32, which a GPU gives of half-precision factors unrounded."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right).float()


def _by_liger(kernel: _Kernel, embedding: nn.Linear, head: Head) -> Callable[..., torch.Tensor]:
    def summed(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return kernel(
            _scaled(hidden, head),
            embedding.weight,
            targets,
            bias=embedding.bias,
            reduction="sum",
            softcap=head.cap,
            accum_dtype=torch.float32,
        ).float()

    return summed


def _by_slices(
    embedding: nn.Module, head: Head, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Through the head as it is; with several slices, their logits are made again in backward."""

    def one(part: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = embedding(part).float() * head.scale
        if head.cap is not None:
            logits = torch.tanh(logits / head.cap) * head.cap
        return _summed(logits, wanted)

    rows = max(1, MAX_LOGITS // int(getattr(embedding, "out_features", 1)))
    if len(targets) <= rows:
        return one(hidden, targets)
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
        again = torch.is_grad_enabled()
        made = checkpoint(one, part, wanted, use_reentrant=False) if again else one(part, wanted)
        total = total + made
    return total


def _within(
    embedding: nn.Linear,
    function: Callable[..., torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """`function` in place of the module's own forward.

    So the module's hooks run around it: under ZeRO 3 they gather its weight before, and release it
    after. `function` takes the weight itself, which outside of them isn't there.
    """
    with _forward_is(embedding, function):
        return embedding(hidden, targets)


@contextmanager
def _forward_is(module: nn.Module, function: Callable[..., torch.Tensor]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = function
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own


def _scaled(hidden: torch.Tensor, head: Head) -> torch.Tensor:
    return hidden if head.scale == 1.0 else hidden * head.scale


def _summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.float(), targets, reduction="sum")


def _liger_kernel() -> _Kernel:
    if not torch.cuda.is_available():
        raise ConfigError("liger needs a GPU; set liger: false", "/liger")
    try:
        from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
            liger_fused_linear_cross_entropy,
        )
    except ImportError:
        raise ConfigError(
            "liger-kernel isn't installed on this worker; `pip install liger-kernel` there, or "
            "set liger: false",
            "/liger",
        ) from None
    return liger_fused_linear_cross_entropy


# --- how a model makes logits -----------------------------------------------------------------


@torch.no_grad()
def head_of(model: Any) -> Head | None:
    """How `model` makes logits from its last hidden state, found by trying on a few tokens.

    Models that scale them (Granite, Cohere) or cap them (Gemma 2) say so in their configuration.

    Returns:
        None if it is done in another way: then logits are to be had from the whole model only.
    """
    embedding = model.get_output_embeddings()
    if not isinstance(embedding, nn.Module) or model.base_model is model:
        return None
    device = next(model.parameters()).device
    ids = torch.arange(4, device=device)[None] % int(model.config.vocab_size)
    was_training = model.training
    model.eval()
    try:
        logits = model(input_ids=ids, use_cache=False).logits.float()
        bare = embedding(model.base_model(input_ids=ids, use_cache=False)[0]).float()
    finally:
        model.train(was_training)
    if logits.shape != bare.shape:
        return None
    exact = next(model.parameters()).dtype == torch.float32
    rtol, atol = (1e-4, 1e-5) if exact else (2e-2, 2e-2)
    for head in _candidates(model.config.get_text_config()):
        made = bare * head.scale
        if head.cap is not None:
            made = torch.tanh(made / head.cap) * head.cap
        if torch.allclose(logits, made, rtol=rtol, atol=atol):
            return head
    return None


def _candidates(config: Any) -> Iterator[Head]:
    def number(name: str) -> float | None:
        value = getattr(config, name, None)
        return float(value) if isinstance(value, (int, float)) and value else None

    # What the configuration states comes first: on a fresh model's tiny logits, a cap hardly shows.
    divisor, factor = (
        number("logits_scaling"),
        number("logit_scale") or number("lm_head_multiplier"),
    )
    cap = number("final_logit_softcapping")
    if divisor is not None:
        yield Head(scale=1.0 / divisor)
    if factor is not None:
        yield Head(scale=factor)
    if cap is not None:
        yield Head(cap=cap)
    yield Head()
