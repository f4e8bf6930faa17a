"""Fewer points of a long curve, without losing what catches the eye. Pure.

A curve is cut into buckets by step: bucket = step // 2^k. Where a bucket begins and ends depends
on nothing but k, so what is shown of a growing curve stays as it was; only when it has become too
long for its number of points does k rise by one, and then of what was shown some points go and
none come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def chosen(
    steps: Floats, columns: Sequence[Floats], max_points: int, points: int | None = None
) -> Indices:
    """Indices of at most `max_points` points (at least 2) of a curve, rising.

    `steps` are whole numbers that rise, shape (n,); `columns` are values at them, each of shape
    (n,), NaN where one was not finite. Of each bucket stays what is `striking`. If all points fit,
    all stay; if not even one bucket fits, the first and the last do.

    `points`: how many points the curve has, if these are what was striking of it at a level no
    higher than the one needed here. What is chosen is then what it would be of all.
    """
    if (len(steps) if points is None else points) <= max_points:
        return np.arange(len(steps))
    kept = most_kept(len(columns))
    if max_points < kept:
        return np.array([0, len(steps) - 1])
    return striking(steps, columns, level(int(steps[0]), int(steps[-1]), max_points, kept))


def striking(steps: Floats, columns: Sequence[Floats], k: int) -> Indices:
    """Of each bucket of 2^k steps its first and last point and, of each column, the smallest, the
    largest and the first NaN: indices, rising. At least one point.

    Of what is striking at one level, the same points are striking at a higher one as of all."""
    begins = _begins(steps.astype(np.int64) >> k)
    starts = np.flatnonzero(begins)
    group = np.cumsum(begins) - 1
    keep = begins.copy()
    keep[starts[1:] - 1] = keep[-1] = True
    for values in columns:
        for extreme in (np.fmin, np.fmax):
            keep[_firsts(values == extreme.reduceat(values, starts)[group], group)] = True
        missing = np.isnan(values)
        if missing.any():
            keep[_firsts(missing, group)] = True
    return np.flatnonzero(keep)


def most_kept(columns: int) -> int:
    """How many points of one bucket stay at most."""
    return 2 + 3 * columns


def level(first: int, last: int, max_points: int, kept: int) -> int:
    """The smallest k at which the buckets of steps `first` to `last` give at most `max_points`,
    each of them at most `kept`."""
    k = 0
    while ((last >> k) - (first >> k) + 1) * min(kept, 1 << k) > max_points:
        k += 1
    return k


def _firsts(where: NDArray[np.bool_], group: Indices) -> Indices:
    """The first index of each group at which `where` holds."""
    found = np.flatnonzero(where)
    return found[_begins(group[found])]


def _begins(groups: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Where another group than that of the one before begins."""
    begins = np.ones(len(groups), dtype=bool)
    np.not_equal(groups[1:], groups[:-1], out=begins[1:])
    return begins
