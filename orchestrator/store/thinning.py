"""Fewer points of a long curve, without losing what catches the eye. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Point(Protocol):
    @property
    def loss(self) -> float | None: ...
    @property
    def grad_norm(self) -> float | None: ...


P = TypeVar("P", bound=Point)
_KEPT_PER_BUCKET = 6


def thin(points: Sequence[P], max_points: int) -> list[P]:
    """At most `max_points` of `points`, in their order; all of them if they are few enough.

    The curve is cut into buckets of equal length; each keeps its first and last point and the
    smallest and largest loss and gradient norm. A value that was not finite (None) counts as the
    largest. The first and the last point of the whole curve always stay.
    """
    if len(points) <= max_points:
        return list(points)
    buckets = max(1, max_points // _KEPT_PER_BUCKET)
    kept: list[P] = []
    for bucket in range(buckets):
        start = bucket * len(points) // buckets
        stop = (bucket + 1) * len(points) // buckets
        if start == stop:
            continue
        indices = range(start, stop)
        losses = [_or_infinite(points[i].loss) for i in indices]
        norms = [_or_infinite(points[i].grad_norm) for i in indices]
        chosen = {start, stop - 1}
        for values in (losses, norms):
            chosen.add(start + values.index(min(values)))
            chosen.add(start + values.index(max(values)))
        kept.extend(points[i] for i in sorted(chosen))
    return kept


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else value
