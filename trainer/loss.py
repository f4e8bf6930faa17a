"""Token loss of a causal language model, summed over target tokens.

The sum, not the mean, is what accumulates exactly: the loop divides it by the target count of the
whole effective batch over all ranks. Logits exist for target positions only, in slices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from trainer.attention import MicroBatch, attending

MAX_LOGITS = 2**26
"""Most logits kept at once; above it, slices are computed again in the backward pass."""


class TokenLoss(nn.Module):
    """A language model as a function from a micro-batch to its summed loss in nats (scalar, fp32).

    Backward of a packed one belongs inside `attending(batch.segments)` too.

    `plain_head`: the logits are the output embedding applied to the last hidden state and nothing
    else, so they can be computed for target positions alone. See `has_plain_head`.
    """

    def __init__(self, model: nn.Module, *, plain_head: bool) -> None:
        super().__init__()
        self.model = model
        self.plain_head = plain_head

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
        if batch.position_ids is not None:
            inputs["position_ids"] = batch.position_ids
        model: Any = self.model
        with attending(batch.segments):
            if not self.plain_head:
                logits = model(**inputs).logits.flatten(0, 1)
                return _summed(logits.index_select(0, batch.keep), batch.targets)
            hidden = model.base_model(**inputs)[0].flatten(0, 1).index_select(0, batch.keep)
        return _sliced(model.get_output_embeddings(), hidden, batch.targets)


def _sliced(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    rows = max(1, MAX_LOGITS // int(getattr(head, "out_features", 1)))
    if len(targets) <= rows:
        return _summed(head(hidden), targets)

    def one(part: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return _summed(head(part), wanted)

    total = hidden.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
        total = total + checkpoint(one, part, wanted, use_reentrant=False)
    return total


def _summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.float(), targets, reduction="sum")


@torch.no_grad()
def has_plain_head(model: Any) -> bool:
    """Whether logits are the bare output embedding of the last hidden state, found by trying.

    Models that scale or cap their logits (Granite, Cohere, Gemma) answer False.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or model.base_model is model:
        return False
    device = next(model.parameters()).device
    ids = torch.arange(4, device=device)[None] % int(model.config.vocab_size)
    was_training = model.training
    model.eval()
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        bare = head(model.base_model(input_ids=ids, use_cache=False)[0])
    finally:
        model.train(was_training)
    return logits.shape == bare.shape and torch.allclose(logits, bare, rtol=1e-4, atol=1e-5)
