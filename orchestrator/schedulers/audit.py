"""The audit: a few trials, picked by a seeded coin, that no model ends, to measure false stops."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENOUGH = 8
"""Audited stops with an outcome before a rate is given: with fewer it is nearly anything."""


def coin(seed: int, number: int) -> float:
    """A number in [0, 1) that depends on the sweep's seed and the trial's number alone."""
    digest = hashlib.blake2b(f"audit/{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True, slots=True)
class AuditedStop:
    """A trial that would have been ended but ran on. `value`: its objective, lower is better."""

    trial_id: str
    value: float | None


def false_stops(audited: Sequence[AuditedStop], best: float | None) -> dict[str, Any]:
    """How often ending a trial would have lost the sweep's best: rate with a 90 % interval.

    A stop is false if the audited trial ended with a better objective than `best`, the best of the
    trials that the rule itself let complete. The interval is the central 90 % of the Beta posterior
    with a uniform prior. With fewer than `ENOUGH` audited stops only a note is given.
    """
    judged = [a for a in audited if a.value is not None]
    report: dict[str, Any] = {"audited_stops": len(judged), "needed": ENOUGH}
    if best is None or len(judged) < ENOUGH:
        return {**report, "note": f"not enough audits ({len(judged)})"}
    false = sum(a.value is not None and a.value < best for a in judged)
    low, high = _beta_interval(false + 1, len(judged) - false + 1)
    # Where none was false, or all were, the posterior's peak is at the end of the range.
    low, high = (0.0 if false == 0 else low), (1.0 if false == len(judged) else high)
    return {**report, "false_stops": false, "rate": false / len(judged), "interval": [low, high]}


def _beta_interval(a: int, b: int) -> tuple[float, float]:
    """5 % and 95 % points of Beta(a, b) for whole a, b, by bisection on the binomial tail."""
    from math import comb

    def cdf(x: float) -> float:
        n = a + b - 1
        return sum(comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(a, n + 1))

    def point(p: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if cdf(middle) < p else (low, middle)
        return round((low + high) / 2, 6)

    return point(0.05), point(0.95)
