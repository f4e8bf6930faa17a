"""Micro-batches as tensors, and exact block-diagonal attention over packed ones.

A *packed* micro-batch is one row: its samples one after the other, without padding. Linear layers
and the loss see real tokens only. Attention takes the samples' borders from the batch: on a GPU
with half precision by the variable-length flash kernel and explicit `cu_seq_lens`, elsewhere by
SDPA over each sample, or over a few of nearly the same length. It needs a model whose attention
goes through transformers' `AttentionInterface`; `packing_obstacle` finds out by trying.

A *padded* micro-batch is a rectangle, padded on the right. Causal attention never looks right, so
no real token sees padding and no mask is needed: exact for every decoder-only model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainer.config import Attention
from trainer.errors import ConfigError

PACKED = "packed_sdpa"
"""Name under which packed attention is registered with transformers."""

CALL_CELLS = 2048
"""What a call of SDPA costs on CPU besides its work, in cells of the attention matrix."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Samples next to one another, `tokens` in all, that attend together: `rows` of `width` tokens.

    `gather` (rows · width) holds the token of each cell, counted from the first sample's start;
    padding repeats a row's last. `scatter` (tokens) holds the cell of each token. Both are None if
    the samples have one length.
    """

    tokens: int
    rows: int
    width: int
    gather: torch.Tensor | None = None
    scatter: torch.Tensor | None = None


class Segments:
    """Where the samples of a packed row are.

    Args:
        lengths: tokens of each sample, (samples,), longest first.
        device: where the row is.
    """

    def __init__(self, lengths: npt.NDArray[np.int64], device: torch.device) -> None:
        self.lengths = lengths
        self.device = device
        self.max_length = int(lengths[0])
        self.cu_seq_lens: torch.Tensor | None = None
        if device.type == "cuda":  # now, while the GPU is busy with the batch before
            borders = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            self.cu_seq_lens = _to(borders, device)

    @cached_property
    def rectangles(self) -> tuple[Rectangle, ...]:
        """The samples in rectangles, such that padding costs less than another call."""
        return tuple(self._rectangles())

    @cached_property
    def tokens(self) -> list[int]:
        """Tokens of each rectangle."""
        return [rectangle.tokens for rectangle in self.rectangles]

    def _rectangles(self) -> Iterator[Rectangle]:
        lengths, begin = self.lengths, 0
        while begin < len(lengths):
            width = int(lengths[begin])
            # A GPU is busy with a rectangle at once: there, half full is good enough.
            spare = CALL_CELLS if self.device.type == "cpu" else width * width * 3 // 4
            shortest = max(0, width * width - spare) ** 0.5
            end = begin + int(np.searchsorted(-lengths[begin:], -shortest, side="right"))
            own = lengths[begin:end]
            rows, tokens = end - begin, int(own.sum())
            if tokens == rows * width:
                yield Rectangle(tokens, rows, width)
            else:
                columns = np.arange(width)
                first = np.cumsum(own) - own
                gather = first[:, None] + np.minimum(columns[None, :], own[:, None] - 1)
                scatter = np.flatnonzero(columns[None, :] < own[:, None])
                yield Rectangle(
                    tokens,
                    rows,
                    width,
                    gather=_to(gather.reshape(-1), self.device),
                    scatter=_to(scatter, self.device),
                )
            begin = end


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
    wanted[starts] = False  # nothing of its own sample comes before it
    positions = np.arange(len(tokens)) - np.repeat(starts, lengths)
    keep = np.flatnonzero(wanted[1:])
    return MicroBatch(
        input_ids=_to(tokens, device)[None],
        position_ids=_to(positions, device)[None],
        keep=_to(keep, device),
        targets=_to(tokens[keep + 1], device),
        segments=Segments(lengths, device),
    )


def _pad(samples: Sequence[Sample], pad_id: int, device: torch.device) -> MicroBatch:
    width = max(len(ids) for ids, _ in samples)
    tokens = np.full((len(samples), width), pad_id, dtype=np.int64)
    wanted = np.zeros((len(samples), width), dtype=np.bool_)
    for row, (ids, mask) in enumerate(samples):
        tokens[row, : len(ids)] = ids
        wanted[row, 1 : len(ids)] = mask[1:]
    keep = np.flatnonzero(wanted.reshape(-1)[1:])
    return MicroBatch(
        input_ids=_to(tokens, device),
        position_ids=None,
        keep=_to(keep, device),
        targets=_to(tokens.reshape(-1)[keep + 1], device),
        segments=None,
    )


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
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention for transformers: query (1, heads, tokens, dim) to (1, tokens, heads, dim).

    Keys and values may have fewer heads. With `sliding_window` w, a token sees itself and the
    w - 1 before it. Outside `attending` it is plain SDPA, so generation and padded batches work as
    ever.
    """
    segments = _current
    if segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if _windows is not None:
        _windows.append(sliding_window)
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    if segments.cu_seq_lens is not None and not dropout and _varlen_takes(query, value):
        return _varlen(rows, segments, segments.cu_seq_lens, scaling, sliding_window), None
    return _by_rectangles(rows, segments, dropout, scaling, sliding_window), None


def _varlen(
    rows: list[torch.Tensor],
    segments: Segments,
    borders: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """By the flash kernel; `rows` are query, key and value, each (tokens, heads, dim)."""
    query, key, value = rows
    longest = segments.max_length
    left = window - 1 if window is not None and window < longest else -1
    from torch.nn.attention.varlen import varlen_attn  # loads the compiler: seconds, on GPUs only

    merged = varlen_attn(
        query,
        key,
        value,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(merged, torch.Tensor)
    return merged[None]


def _varlen_takes(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the flash kernel takes these tensors."""
    dim = query.shape[-1]
    return (
        query.dtype in (torch.bfloat16, torch.float16)
        and dim == value.shape[-1]
        and dim % 8 == 0
        and dim <= 256
        and _has_flash(query.device)
    )


@cache
def _has_flash(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    ampere_or_later = torch.cuda.get_device_capability(device) >= (8, 0)
    return ampere_or_later and torch.backends.cuda.is_flash_attention_available()


def _by_rectangles(
    rows: list[torch.Tensor],
    segments: Segments,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """By SDPA over each rectangle; `rows` are query, key and value, each (tokens, heads, dim)."""
    grouped = rows[0].shape[1] != rows[1].shape[1]
    outputs: list[torch.Tensor] = []
    # One split of the row: its backward is one concatenation, where a slice each would have to
    # fill a row of zeros each.
    parts = zip(*(row.split(segments.tokens) for row in rows), strict=True)
    for rectangle, part in zip(segments.rectangles, parts, strict=True):
        banded = window is not None and window < rectangle.width
        q, k, v = (_cells(tensor, rectangle) for tensor in part)
        out = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_band(rectangle.width, window, q.device) if banded and window else None,
            dropout_p=dropout,
            is_causal=not banded,
            scale=scaling,
            enable_gqa=grouped,
        )
        out = out.transpose(1, 2).flatten(0, 1)
        outputs.append(out if rectangle.scatter is None else out.index_select(0, rectangle.scatter))
    merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return merged[None]


def _cells(tensor: torch.Tensor, rectangle: Rectangle) -> torch.Tensor:
    """(tokens, heads, dim) to (rows, heads, width, dim)."""
    if rectangle.gather is not None:
        tensor = tensor.index_select(0, rectangle.gather)
    return tensor.unflatten(0, (rectangle.rows, rectangle.width)).transpose(1, 2)


def _band(width: int, window: int, device: torch.device) -> torch.Tensor:
    """(width, width): True where a token (row) sees another (column)."""
    distance = torch.arange(width, device=device)[:, None] - torch.arange(width, device=device)
    return (distance >= 0) & (distance < window)


def _packed_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return None if _current is not None else sdpa_mask(*args, **kwargs)


# Its shapes change with each batch; the rest of a layer is compiled.
AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))
AttentionMaskInterface.register(PACKED, _packed_mask)


# --- which models can be packed ---------------------------------------------------------------

# While a model is tried: the window that each of its layers asks for.
_windows: list[int | None] | None = None


def choose(model: Any, kind: Attention) -> bool:
    """Whether micro-batches are packed; the model is left with the attention that goes with it.

    Args:
        model: a causal language model.
        kind: `linear` packs, `padded` doesn't, `auto` packs where that is exact.

    Raises:
        ConfigError: `linear` was asked for, but wouldn't be exact for this model.
    """
    if kind == "padded":
        return False
    obstacle = packing_obstacle(model)
    if obstacle is not None and kind == "linear":
        name = model.config.model_type
        raise ConfigError(
            f"attention: linear isn't exact for this model ({name}): {obstacle}; set attention "
            "to auto or padded",
            "/attention",
        )
    return obstacle is None


def supports_packing(model: Any) -> bool:
    """Whether packing is exact for `model`; see `packing_obstacle`."""
    return packing_obstacle(model) is None


def packing_obstacle(model: Any) -> str | None:
    """Why packing isn't exact for `model`, found by comparing it with one-by-one on a few tokens.

    Returns:
        A clause for people, and the model is as it was; or None, and it has packed attention on.
    """
    config: Any = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if others:
        return f"it has layers of {', '.join(others)}"
    if getattr(config, "attention_chunk_size", None):
        return "its attention is cut into chunks"
    before = config._attn_implementation
    if before != "sdpa":
        return f"its attention is of the kind {before}"
    was_training = model.training
    model.eval()
    try:
        obstacle = _try_packing(model)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        obstacle = f"it takes no packed rows ({str(error).partition(chr(10))[0]:.100})"
    if obstacle is not None:
        model.set_attn_implementation(before)
    model.train(was_training)
    return obstacle


@torch.no_grad()
def _try_packing(model: Any) -> str | None:
    global _windows
    device = next(model.parameters()).device
    ids = np.arange(1, 13) % int(model.config.vocab_size)
    pieces: list[Sample] = [(ids[:7], np.ones(7, np.bool_)), (ids[7:], np.ones(5, np.bool_))]
    alone = torch.cat([model(input_ids=_to(piece, device)[None]).logits[0] for piece, _ in pieces])
    model.set_attn_implementation(PACKED)
    batch = _pack(pieces, device)
    _windows = []
    try:
        with attending(batch.segments):
            packed = model(input_ids=batch.input_ids, position_ids=batch.position_ids).logits[0]
        seen = _windows
    finally:
        _windows = None
    if not seen:
        return "its attention does not go through transformers' AttentionInterface"
    if sorted(map(str, seen)) != sorted(map(str, _expected_windows(model.config, len(seen)))):
        return "its layers do not say which tokens their sliding window shows"
    tolerance = 1e-4 if alone.dtype == torch.float32 else 5e-2
    scale = float(alone.float().abs().max()) or 1.0
    difference = float((alone.float() - packed.float()).abs().max())
    if difference > tolerance * scale:
        return "samples in one row change one another's results"
    return None


def _expected_windows(config: Any, layers: int) -> list[int | None]:
    """The sliding window of each layer, as the configuration has it; None where there is none."""
    window = getattr(config, "sliding_window", None)
    if window is None or not getattr(config, "use_sliding_window", True):
        return [None] * layers
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return [window] * layers
    return [window if kind == "sliding_attention" else None for kind in kinds]
