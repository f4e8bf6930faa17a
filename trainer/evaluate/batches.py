"""How prompts are put together for one forward pass or one generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

GENERATION_CAP = 4
"""Generation keeps keys and values only, no graph: its batches take this many times the cap."""


def batches(items: Sequence[int], widths: Sequence[int], cap: int) -> list[list[int]]:
    """Cut `items` into batches of at most `cap` tokens, padding counted, of one item at least.

    Args:
        items: widest first, so that neighbours need little padding.
        widths: tokens of each, in the same order.
        cap: most tokens of a batch.
    """
    found: list[list[int]] = []
    width = 0
    for item, wide in zip(items, widths, strict=True):
        if found and width * (len(found[-1]) + 1) <= cap:
            found[-1].append(item)
        else:
            found.append([item])
            width = wide
    return found


def halving(items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]]) -> list[Result]:
    """`work(items)`, one result an item; halves that don't fit the GPU's memory until they do."""
    try:
        return work(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    # Outside the handler: there, the traceback keeps the failed pass's tensors alive.
    torch.cuda.empty_cache()
    half = len(items) // 2
    return [*halving(items[:half], work), *halving(items[half:], work)]
