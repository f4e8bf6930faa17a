"""Micro-batches as tensors, and exact block-diagonal attention over packed ones.

A *packed* micro-batch is one row: its samples one after the other, no padding anywhere but inside
the attention kernel, where samples of similar length form small rectangles. Linear layers and the
loss see real tokens only. It needs a model whose attention goes through transformers'
`AttentionInterface` and attends to everything before it; `supports_packing` finds out by trying.

A *padded* micro-batch is a rectangle, padded on the right. Causal attention never looks right, so
no real token sees padding and no mask is needed: exact for every decoder-only model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "packed_sdpa"
"""Name under which packed attention is registered with transformers."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Samples of similar length that attend together: `rows` of `width` tokens.

    `gather` (rows · width) holds the packed position of each cell; padding repeats a row's last.
    It is None if there is no padding: then the cells are the tokens from `start` on.
    """

    rows: int
    width: int
    start: int
    gather: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Segments:
    """How to cut a packed row into rectangles, and (`scatter`) how to put it together again."""

    rectangles: tuple[Rectangle, ...]
    scatter: torch.Tensor


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass.

    `input_ids` (rows, tokens); `position_ids` likewise, None for a padded one. `keep` (targets,)
    are the flat positions whose next token is a target, `targets` (targets,) those tokens.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    keep: torch.Tensor
    targets: torch.Tensor
    segments: Segments | None


Sample = tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.bool_]]
"""Token ids and target mask, both (tokens,)."""


def collate(
    samples: Sequence[Sample], *, packed: bool, pad_id: int, device: torch.device
) -> MicroBatch:
    """Make one micro-batch of `samples`; with none, a fully masked one that adds nothing."""
    if not samples:
        empty = (np.full(2, pad_id, dtype=np.int64), np.zeros(2, dtype=np.bool_))
        samples = [empty]
    return _pack(samples, device) if packed else _pad(samples, pad_id, device)


def _pack(samples: Sequence[Sample], device: torch.device) -> MicroBatch:
    samples = sorted(samples, key=lambda sample: -len(sample[0]))
    tokens = np.concatenate([ids for ids, _ in samples]).astype(np.int64)
    wanted = np.concatenate([mask for _, mask in samples])
    lengths = np.array([len(ids) for ids, _ in samples], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(tokens)) - np.repeat(starts, lengths)
    keep = np.flatnonzero(wanted[1:])
    return MicroBatch(
        input_ids=_to(tokens, device)[None],
        position_ids=_to(positions, device)[None],
        keep=_to(keep, device),
        targets=_to(tokens[keep + 1], device),
        segments=_segments(starts, lengths, device),
    )


def _pad(samples: Sequence[Sample], pad_id: int, device: torch.device) -> MicroBatch:
    width = max(len(ids) for ids, _ in samples)
    tokens = np.full((len(samples), width), pad_id, dtype=np.int64)
    wanted = np.zeros((len(samples), width), dtype=np.bool_)
    for row, (ids, mask) in enumerate(samples):
        tokens[row, : len(ids)] = ids
        wanted[row, : len(ids)] = mask
    keep = np.flatnonzero(wanted.reshape(-1)[1:])
    return MicroBatch(
        input_ids=_to(tokens, device),
        position_ids=None,
        keep=_to(keep, device),
        targets=_to(tokens.reshape(-1)[keep + 1], device),
        segments=None,
    )


def _segments(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], device: torch.device
) -> Segments:
    """Cut samples, longest first, into rectangles that are at least half full in every row."""
    rectangles: list[Rectangle] = []
    scatter: list[npt.NDArray[np.int64]] = []
    begin, cells = 0, 0
    while begin < len(lengths):
        width = int(lengths[begin])
        end = begin + int(np.searchsorted(-lengths[begin:], -((width + 1) // 2), side="right"))
        columns = np.arange(width)
        inside = columns[None, :] < lengths[begin:end, None]
        gather = None
        if not inside.all():
            last = lengths[begin:end, None] - 1
            cells_at = starts[begin:end, None] + np.minimum(columns[None, :], last)
            gather = _to(cells_at.reshape(-1), device)
        rectangles.append(Rectangle(end - begin, width, int(starts[begin]), gather))
        scatter.append(cells + np.flatnonzero(inside))
        cells += inside.size
        begin = end
    return Segments(tuple(rectangles), _to(np.concatenate(scatter), device))


def _to(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


# --- the attention function -------------------------------------------------------------------

# Module-wide, not thread-local: activation checkpointing runs forward again in autograd's thread.
_current: Segments | None = None


@contextmanager
def attending(segments: Segments | None) -> Iterator[None]:
    """Within this block (forward and backward), packed attention follows `segments`."""
    global _current
    before, _current = _current, segments
    try:
        yield
    finally:
        _current = before


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for transformers: query (1, heads, tokens, dim) to (1, tokens, heads, dim).

    Outside `attending` it is plain SDPA, so generation and padded batches work as ever.
    """
    segments = _current
    if segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    parts = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    grouped = query.shape[1] != key.shape[1]
    outputs: list[torch.Tensor] = []
    for rectangle in segments.rectangles:
        q, k, v = (_rectangle(part, rectangle) for part in parts)
        out = nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    if merged.shape[0] != query.shape[2]:
        merged = merged.index_select(0, segments.scatter)
    return merged[None], None


def _rectangle(tensor: torch.Tensor, rectangle: Rectangle) -> torch.Tensor:
    """(tokens, heads, dim) to (rows, heads, width, dim)."""
    if rectangle.gather is None:
        tensor = tensor.narrow(0, rectangle.start, rectangle.rows * rectangle.width)
    else:
        tensor = tensor.index_select(0, rectangle.gather)
    return tensor.unflatten(0, (rectangle.rows, rectangle.width)).transpose(1, 2)


def _packed_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return None if _current is not None else sdpa_mask(*args, **kwargs)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, _packed_mask)


# --- which models can be packed ---------------------------------------------------------------


def supports_packing(model: Any) -> bool:
    """Whether packing is exact for `model`, found by comparing it with one-by-one on a few tokens.

    On True the model is left with packed attention on, on False as it was.
    """
    config: Any = model.config
    if getattr(config, "sliding_window", None) is not None and getattr(
        config, "use_sliding_window", True
    ):
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "attention_chunk_size", None):
        return False
    if config._attn_implementation != "sdpa":
        return False
    device = next(model.parameters()).device
    ids = np.arange(1, 13) % int(config.vocab_size)
    pieces: list[Sample] = [(ids[:7], np.ones(7, np.bool_)), (ids[7:], np.ones(5, np.bool_))]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = torch.cat(
                [model(input_ids=_to(piece, device)[None]).logits[0] for piece, _ in pieces]
            )
            model.set_attn_implementation(PACKED)
            batch = _pack(pieces, device)
            with attending(batch.segments):
                together = model(input_ids=batch.input_ids, position_ids=batch.position_ids).logits[
                    0
                ]
    except (TypeError, ValueError, RuntimeError, IndexError):
        same = False
    else:
        tolerance = 1e-4 if alone.dtype == torch.float32 else 5e-2
        scale = float(alone.float().abs().max()) or 1.0
        difference = float((alone.float() - together.float()).abs().max())
        same = difference <= tolerance * scale
    if not same:
        model.set_attn_implementation("sdpa")
    model.train(was_training)
    return same
