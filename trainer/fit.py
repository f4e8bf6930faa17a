"""The largest micro-batch that fits: found by trying, and halved when memory runs out. Pure."""

from __future__ import annotations

from collections.abc import Callable

FULL = 0.9
"""Share of the memory that a micro-batch may use at its peak: fragmentation needs the rest."""


def find_cap(attempt: Callable[[int], float | None], *, longest: int, most: int) -> int:
    """The most tokens of a micro-batch that fit in memory.

    Doubles from the longest sample on. Memory grows in proportion to tokens, so two attempts tell
    where it would be `FULL`, and a size that can't fit is not tried. Where use can't be measured
    (it is always 0), sizes are tried until one fails.

    Args:
        attempt: runs one micro-batch of about so many tokens; the share of memory used at its
            peak, 0 … 1, or None if it ran out.
        longest: tokens of the longest sample, the smallest cap there can be.
        most: no more than this.

    Returns:
        A cap in `longest` … max(`longest`, `most`); `longest` even if that didn't fit.
    """
    fits, failed = 0, 0
    used_before, used = 0.0, 0.0
    size = longest
    while True:
        found = attempt(size)
        if found is None:
            failed = size
            break
        before, fits = fits, size
        used_before, used = used, found
        if size >= most:
            return max(longest, most)
        room = _room(before, used_before, fits, used)
        if room < (2 * size if before else size + 1):
            return max(longest, min(most, room))
        size = min(most, 2 * size, room)
    if not fits:
        return longest
    while failed - fits > max(1, fits // 8):
        middle = (fits + failed) // 2
        found = attempt(middle)
        if found is None:
            failed = middle
        else:
            fits = middle
    return max(longest, int(fits * FULL))


def halved(cap: int, longest: int) -> int | None:
    """What to try after `cap` tokens ran out of memory; None if no smaller cap can help."""
    return max(longest, cap // 2) if cap > longest else None


def _room(before: int, used_before: float, now: int, used: float) -> int:
    """Tokens at which memory would be `FULL`, by the line through two attempts.

    After a single one (`before` is 0), no more than surely fits: as if nothing of it were fixed.
    """
    if used <= 0.0:
        return 2**62
    if before == 0 or used <= used_before:
        return int(now * FULL / used)
    slope = (used - used_before) / (now - before)
    return now + int((FULL - used) / slope)
