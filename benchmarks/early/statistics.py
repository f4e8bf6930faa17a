"""The formulas: random stopping at equal compute, means over families, calibration."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

import numpy as np

RESAMPLES = 2000


# --- random stopping at equal compute -----------------------------------------------------------


def expected_of_random(
    values: Sequence[float | None], scores: Sequence[float], kept: float, nothing: float
) -> float:
    """Expected score of the best of K uniformly chosen trials run in full, K = `kept`.

    values (n): objectives by which the best of the K is chosen, lower is better, None for a trial
    that failed. scores (n): what choosing each trial scores; `nothing` if all K failed. K is at
    least 1 and at most n; between whole K the expectation is interpolated, which is what running K
    or K + 1 trials by a coin gives.

    The chance that the j-th best of n (from 0) is the best of K drawn without replacement is
    C(n−1−j, K−1) / C(n, K), so nothing is simulated.
    """
    n = len(values)
    kept = min(max(kept, 1.0), float(n))
    order = sorted(range(n), key=lambda i: math.inf if _failed(values[i]) else values[i] or 0.0)
    ranked = [nothing if _failed(values[i]) else scores[i] for i in order]
    low = math.floor(kept)
    share = kept - low
    at_low = _best_of(ranked, low)
    return at_low if share == 0 else (1 - share) * at_low + share * _best_of(ranked, low + 1)


def _best_of(ranked: Sequence[float], k: int) -> float:
    """Expected score of the best of k of the trials, given scores from the best trial on."""
    n = len(ranked)
    ways = comb(n, k)
    return sum(comb(n - 1 - j, k - 1) / ways * s for j, s in enumerate(ranked[: n - k + 1]))


def _failed(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


# --- means over families ------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean with its central 95 % interval, and the worst family's mean.

    `families` holds each family's mean.
    """

    mean: float
    low: float
    high: float
    worst: float
    worst_family: str
    families: Mapping[str, float]

    def as_json(self) -> dict[str, object]:
        return {
            "mean": _rounded(self.mean),
            "interval": [_rounded(self.low), _rounded(self.high)],
            "worst": _rounded(self.worst),
            "worst_family": self.worst_family,
            "families": {f: _rounded(v) for f, v in self.families.items()},
        }


def over_families(
    values: Sequence[tuple[str, str, float]], *, higher_is_better: bool, seed: int = 0
) -> Estimate:
    """Mean of (family, sweep, value): over the draws of a sweep, the sweeps of a family, families.

    The interval is a cluster bootstrap: families are drawn with replacement, then sweeps within
    each; draws of one sweep share their runs, so they are no new evidence. With one family its
    sweeps are drawn alone. With few families such an interval is too narrow rather than too wide.
    """
    by_sweep: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for family, sweep, value in values:
        by_sweep[family][sweep].append(value)
    if not by_sweep:
        nan = math.nan
        return Estimate(nan, nan, nan, nan, "", {})
    means = {f: np.array([fmean(v) for v in s.values()]) for f, s in sorted(by_sweep.items())}
    families = {f: float(m.mean()) for f, m in means.items()}
    low, high = _bootstrap(list(means.values()), seed)
    worst = (min if higher_is_better else max)(families, key=lambda f: families[f])
    return Estimate(fmean(families.values()), low, high, families[worst], worst, families)


def _bootstrap(groups: Sequence[np.ndarray], seed: int) -> tuple[float, float]:
    """The central 95 % of the mean over resampled groups of the mean over resampled members."""
    rng = np.random.default_rng(seed)
    n = len(groups)
    # A resampled mean of every group for every place that it may be drawn into: (n, RESAMPLES, n).
    inner = np.stack(
        [g[rng.integers(len(g), size=(RESAMPLES, n, len(g)))].mean(axis=2) for g in groups]
    )
    chosen = rng.integers(n, size=(RESAMPLES, n))
    resampled = inner[chosen, np.arange(RESAMPLES)[:, None], np.arange(n)].mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


# --- calibration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Forecasts between two probabilities: how many, their mean, how often it came true."""

    low: float
    high: float
    count: int
    forecast: float
    came_true: float


def reliability(forecasts: Sequence[tuple[float, bool]], bins: int = 10) -> list[Bin]:
    """Forecast probabilities against frequencies, in equal bins; empty ones are left out."""
    found = []
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [(p, t) for p, t in forecasts if low <= p < high or (p == 1 and b == bins - 1)]
        if inside:
            forecast, true = fmean(p for p, _ in inside), fmean(float(t) for _, t in inside)
            found.append(Bin(low, high, len(inside), forecast, true))
    return found


def brier(forecasts: Sequence[tuple[float, bool]]) -> float:
    """Mean squared difference between forecast and what happened (1 or 0)."""
    return fmean((p - float(t)) ** 2 for p, t in forecasts)


def binomial_interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval for a rate."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, n - count + 1))
    high = 1.0 if count == n else float(beta.ppf(1 - tail, count + 1, n - count))
    return low, high


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
