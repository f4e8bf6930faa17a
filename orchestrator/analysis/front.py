"""Which trials no other beats, where a sweep has several objectives. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def pareto_front(
    values: Mapping[str, Sequence[float | None]], signs: Sequence[float] | None = None
) -> list[str]:
    """The trials that no other dominates, the best by the first objective first.

    One trial dominates another if it is at least as good in each objective and better in one.
    Trials with equal values are all on the front. A trial without a value somewhere has no place.

    Args:
        values: by trial, its objectives in one order.
        signs: 1 where lower is better (the default), -1 where higher is.
    """
    points: dict[str, tuple[float, ...]] = {}
    for trial, figures in values.items():
        known = [f for f in figures if f is not None]
        if len(known) == len(figures):
            turned = zip(signs or [1.0] * len(known), known, strict=True)
            points[trial] = tuple(sign * figure for sign, figure in turned)
    # By rising values: only a trial that comes before another, or equals it, can dominate it.
    front: list[str] = []
    for trial in sorted(points, key=points.__getitem__):
        if not any(_dominates(points[other], points[trial]) for other in front):
            front.append(trial)
    return front


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
