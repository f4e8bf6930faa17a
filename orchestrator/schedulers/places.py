"""The order in which trials end, as far as it is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.schedulers.forecast import normal_scores


def known_places(
    levels: Sequence[Mapping[str, float]],
    final: Mapping[str, float],
    fractions: Sequence[float],
    deeper_than: int,
) -> dict[str, tuple[float, float]]:
    """Place (normal score) and weight of each known outcome, lower is better.

    The outcome is the objective of a completed trial; until then the deepest held-out loss stands
    for it, at a weight of √(fraction of the budget). All are brought into one order by their first
    held-out loss; then those that have got to the next rung are put in order of their loss there,
    within the places they hold, and so on to the end. So a trial is not taken for better because
    it was let go further.

    Args:
        levels: held-out losses at each rung, by trial.
        final: objectives of completed trials.
        fractions: of the budget, at each rung.
        deeper_than: only outcomes past this rung count; -1 for all.
    """
    weight: dict[str, float] = {}
    for rung, (level, fraction) in enumerate(zip(levels, fractions, strict=True)):
        if rung > deeper_than:
            weight |= dict.fromkeys(level, math.sqrt(fraction))
    weight |= dict.fromkeys(final, 1.0)

    place: dict[str, float] = {}
    for level in (*levels, final):
        scores = normal_scores(np.array(list(level.values()), dtype=float))
        for i, score in zip(level, scores, strict=True):
            place.setdefault(i, float(score))
    order = sorted((i for i in place if i in weight), key=lambda i: place[i])
    for level in (*levels, final):
        held = [n for n, i in enumerate(order) if i in level]
        ranked = sorted((order[n] for n in held), key=lambda i: level[i])
        for n, i in zip(held, ranked, strict=True):
            order[n] = i
    scores = normal_scores(np.arange(len(order), dtype=float))
    return {i: (float(score), weight[i]) for i, score in zip(order, scores, strict=True)}
