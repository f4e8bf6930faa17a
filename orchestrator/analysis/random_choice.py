"""What picking trials blindly brings: the yardstick for every rule that ends trials early. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def expected_best(values: Sequence[float | None], picked: float) -> float | None:
    """Expected best (lowest) value of `picked` trials, drawn without replacement and run whole.

    With n trials of which m have a value, v₁ ≤ … ≤ v_m, and K drawn, the best drawn is vᵢ with
    probability pᵢ = C(n−i, K−1) / C(n, K), the order statistic of a sample without replacement:
    trial i is drawn, none of the i−1 better ones is, and the other K−1 are of the n−i behind it.
    None of the drawn has a value with p₀ = C(n−m, K) / C(n, K); the result is given that one has:
    Σ vᵢ pᵢ / (1 − p₀). Between whole K it is interpolated, as if K were rounded at random.

    Args:
        values: None for a trial without a value (it failed).
        picked: K, from 1 to the number of trials.

    Returns:
        None if no trial has a value.

    Raises:
        ValueError: `picked` is out of its range.
    """
    if not 1 <= picked <= len(values):
        raise ValueError(f"picked: give a number from 1 to {len(values)}, got {picked}")
    ordered = sorted(v for v in values if v is not None)
    if not ordered:
        return None
    whole = math.floor(picked)
    low = _expected(ordered, len(values), whole)
    if whole == picked:
        return low
    return low + (picked - whole) * (_expected(ordered, len(values), whole + 1) - low)


def _expected(ordered: Sequence[float], n: int, picked: int) -> float:
    total, weight = [], []
    ways = math.comb(n, picked)
    for i, value in enumerate(ordered, start=1):
        chance = math.comb(n - i, picked - 1) / ways
        total.append(value * chance)
        weight.append(chance)
    return math.fsum(total) / math.fsum(weight)
