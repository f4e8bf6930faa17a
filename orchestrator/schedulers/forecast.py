"""Where the trials of a sweep will end, from where they stand: a forecast with its own doubts.

Every trial has a place in the sweep, a normal score, that changes while it trains. Between two
fractions s < t of the budget the places correlate as

    ρ(s, t) = (1 − noise) · (1 − late · (t − s)) · (s / t)^decay

which is an Ornstein-Uhlenbeck process in log time, disturbed by what a measurement adds (`noise`)
and by trials that make a fresh start (`late`: slow starters that win). The last step to the outcome
may be unlike those before (a benchmark after held-out losses; a schedule that decays at the end):
its correlation has `agreement` as a factor. No sweep tells these four numbers beforehand,
so a forecast keeps a distribution over a grid of them, the `WORLDS`: a prior from earlier sweeps,
times the likelihood of every correlation between neighbouring rungs seen in this one (Fisher's z).
Only better trials get to deeper rungs; the likelihood allows for their narrower range.

All is deterministic: the draws come from a generator seeded by constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

DECAYS = np.exp(np.linspace(math.log(0.01), math.log(1.5), 10))
LATES = np.array([0.0, 0.1, 0.3, 0.6])
NOISES = np.array([0.0, 0.07, 0.2])
AGREEMENTS = np.array([1.0, 0.7, 0.0])
WORLDS: Array = np.array(list(product(DECAYS, LATES, NOISES, AGREEMENTS)))
"""(360, 4): decay per e-fold of the budget, late, noise, agreement; the last one varies fastest."""

DRAWS = 256
BLOCK = 64
TINY = 1e-300
TIE = 0.25
"""Places (normal scores) this near to each other are taken for equal: about what seed noise does
near the top of the recorded sweeps, where 1 to 4 of 26 configurations lie within a deviation."""
LEAST_PAIRS = 3
BEST_CORRELATION = 0.985
"""Fisher's z of a correlation of 1 is infinite; a measured one is cut here."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The places in which n trials may end.

    Attributes:
        draws: (DRAWS, n) final places, lower is better; +inf for a trial that can't win any more.
        place: (n,) the place of each trial where it stands, NaN if nothing was measured.
        mean, deviation: (n,) of the draws.
        tie: (DRAWS,) how far from the best a place may be and still be within the noise of a
            measurement, in that draw's world; at least `TIE`.
        worlds: (360,) posterior weights of `WORLDS`.
    """

    draws: Array
    tie: Array
    place: Array
    mean: Array
    deviation: Array
    worlds: Array

    def persistence(self, fraction: float) -> tuple[float, float, float]:
        """Correlation of the places at `fraction` of the budget with the final ones: the posterior
        mean, 5 % and 95 % points."""
        rho = correlation(np.array([fraction]), 1.0)[:, 0]
        order = np.argsort(rho)
        mass = np.cumsum(self.worlds[order])
        low, high = (rho[order][min(len(rho) - 1, np.searchsorted(mass, p))] for p in (0.05, 0.95))
        return float(self.worlds @ rho), float(low), float(high)


def correlation(starts: Array, end: float, worlds: Array = WORLDS) -> Array:
    """ρ(start, end) in every world, (worlds, n) for n starting points."""
    decay, late, noise, agreement = (worlds[:, i : i + 1] for i in range(4))
    rho = (1 - noise) * (1 - late * (end - starts)) * (starts / end) ** decay
    return np.where(starts >= end, 1.0, rho * (agreement if end >= 1.0 else 1.0))


def forecast(
    scores: Array,
    times: Sequence[float],
    prior: Array,
    *,
    out: Mask | None = None,
    quality: Sequence[float] | None = None,
) -> Forecast:
    """Forecast the final places of n trials.

    Args:
        scores: (n, r) what ranks the trials at each of r points, lower is better; NaN where a trial
            has no score, +inf where it is worse than any. Only ranks count.
        times: (r,) rising fractions of the budget, the last one 1.
        prior: (360,) weights of `WORLDS`.
        out: (n,) true for trials that can't win any more. They still count as peers where they
            have scores.
        quality: (r,) factors of ρ for scores that are not of the outcome's kind, 1 by default.
    """
    stand = climb(scores, times, prior, quality=quality)
    worlds = _normalised(np.log(np.maximum(prior, TINY)) + stand.log_likelihood)
    chosen = np.searchsorted(np.cumsum(worlds), (np.arange(DRAWS) + 0.5) / DRAWS)
    drawn = WORLDS[np.minimum(chosen, len(WORLDS) - 1)]
    draws = _final_draws(stand, np.asarray(times, dtype=float), drawn)
    if out is not None:
        draws[:, out] = np.inf
    finite = np.where(np.isfinite(draws), draws, 0.0)
    tie = np.maximum(TIE, np.sqrt(drawn[:, 2]))
    return Forecast(draws, tie, stand.place, finite.mean(axis=0), finite.std(axis=0), worlds)


@dataclass(frozen=True, slots=True)
class Standing:
    """Attributes:
    place: (n,) normal score of each trial among all, NaN without any score.
    stage: (n,) index of the point that it was last measured at, -1 without any.
    trust: (n,) quality of that point.
    log_likelihood: (360,) of the correlations seen, in each world.
    ended: (n,) true for trials with a score at the last point.
    before, since, last: (n,) of these: the place they had before, the fraction of the budget that
        it was measured at, and the last score.
    """

    place: Array
    stage: NDArray[np.int64]
    trust: Array
    log_likelihood: Array
    ended: Mask
    before: Array
    since: Array
    last: Array


def climb(
    scores: Array, times: Sequence[float], prior: Array, *, quality: Sequence[float] | None = None
) -> Standing:
    """Follow the trials from point to point. Arguments as for `forecast`."""
    n, points = scores.shape
    time = np.asarray(times, dtype=float)
    trusts = np.ones(points) if quality is None else np.asarray(quality, dtype=float)
    log_prior = np.log(np.maximum(prior, TINY))
    likelihood = np.zeros(len(WORLDS))
    place, stage = np.full(n, np.nan), np.full(n, -1)
    ended = ~np.isnan(scores[:, -1])
    last = np.zeros((3, n))
    for at in range(points):
        there = np.flatnonzero(~np.isnan(scores[:, at]))
        if len(there) == 0:
            continue
        fresh = normal_scores(scores[there, at])
        unit = fresh / max(float(fresh.std()), 1e-9) if len(there) > 2 else fresh
        known = stage[there] >= 0
        if at == points - 1:
            # Without a place before, a trial is as far from its end as can be.
            last[0, there] = np.where(known, place[there], 0.0)
            last[1, there] = np.where(known, time[stage[there]], 1e-9)
            last[2, there] = fresh
        if not known.any():
            place[there] = fresh
        else:
            before = place[there]
            stages, which = np.unique(stage[there][known], return_inverse=True)
            rho = correlation(time[stages], float(time[at])) * trusts[stages] * trusts[at]
            share = np.bincount(which) / len(which)
            likelihood += _link(before[known], fresh[known], rho @ share)
            # Places of those who got here, as they would be among all: their forecasts' mixture.
            pull = np.zeros(len(there))
            pull[known] = (_normalised(log_prior + likelihood) @ rho)[which]
            centre = np.where(known, pull * np.nan_to_num(before), 0.0)
            spread = math.sqrt(centre.var() + float(np.mean(1 - pull**2)))
            place[there] = centre.mean() + spread * unit
        stage[there] = at
    trust = np.where(stage >= 0, trusts[stage], 0.0)
    return Standing(place, stage, trust, likelihood, ended, *last)


def normal_scores(values: Array) -> Array:
    """Blom's normal scores of ranks, Φ⁻¹((r − 3/8) / (n + 1/4)); ties share their mean rank."""
    n = len(values)
    ordered = np.sort(values)
    rank = (np.searchsorted(ordered, values) + np.searchsorted(ordered, values, "right") + 1) / 2
    return _quantile((rank - 0.375) / (n + 0.25))


def _link(before: Array, after: Array, rho: Array) -> Array:
    """Log likelihood in each world (360,) of the correlation between two neighbouring points.

    `rho` is what it would be over all trials. Among those that got to the second point, whose
    places `before` have another spread, it is ρ·s / √(ρ²·s² + 1 − ρ²).
    """
    if len(before) < LEAST_PAIRS:
        return np.zeros(len(rho))
    spread, width = float(before.std()), float(after.std())
    if spread < 1e-6 or width < 1e-6:
        return np.zeros(len(rho))
    seen = float(np.mean((before - before.mean()) * (after - after.mean())) / (spread * width))
    expected = rho * spread / np.sqrt(rho**2 * spread**2 + 1 - rho**2)
    gap = _fisher(np.array(seen)) - _fisher(expected)
    return -0.5 * gap**2 * max(len(before) - 3, 0.5)


def _fisher(r: Array) -> Array:
    return np.arctanh(np.clip(r, -BEST_CORRELATION, BEST_CORRELATION))


def _normalised(log_weights: Array) -> Array:
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def _final_draws(stand: Standing, time: Array, worlds: Array) -> Array:
    """(DRAWS, n) final places: one world a draw."""
    n = len(stand.place)
    decay, late, noise, agreement = (worlds[:, i : i + 1] for i in range(4))
    # Few points, many trials: all powers and roots are taken once a point.
    stages, which = np.unique(stand.stage, return_inverse=True)
    since = np.where(stages >= 0, time[stages], 1e-9)
    rho = np.where(stages >= 0, agreement * (1 - noise) * since**decay, 0.0)
    trust = np.array([stand.trust[stand.stage == s][0] for s in stages])
    rho = rho * trust
    rest = np.sqrt(1 - rho**2)
    fate, chance = _normal(n), _uniform(n)
    # In place: for a thousand trials each further array of this size would cost a millisecond.
    draws = np.take(rho, which, axis=1)
    draws *= np.nan_to_num(stand.place)
    moved = np.take(rest, which, axis=1)
    moved *= fate
    draws += moved
    # A fresh start is all or nothing for one trial, so that some slow starter may win.
    np.take(late * (1 - since), which, axis=1, out=moved, mode="clip")
    np.copyto(draws, fate, where=chance < moved)
    if stand.ended.any():
        # Of those that ended only the order is known: how good the best of few is among all depends
        # on the world, and on luck. So their fates are drawn like the others', and put in order.
        pull = correlation(stand.since[stand.ended], 1.0, worlds)
        drawn = pull * stand.before[stand.ended] + np.sqrt(1 - pull**2) * fate[:, stand.ended]
        ranks = np.argsort(np.argsort(stand.last[stand.ended], kind="stable"), kind="stable")
        draws[:, stand.ended] = np.sort(drawn, axis=1)[:, ranks]
    return draws


@lru_cache(maxsize=2)
def _normal(n: int) -> Array:
    return np.hstack([_block(i, "normal") for i in range(0, max(n, 1), BLOCK)])[:, :n]


@lru_cache(maxsize=2)
def _uniform(n: int) -> Array:
    return np.hstack([_block(i, "uniform") for i in range(0, max(n, 1), BLOCK)])[:, :n]


@lru_cache(maxsize=512)
def _block(start: int, kind: str) -> Array:
    """(DRAWS, BLOCK): a trial's draws don't depend on how many other trials there are."""
    rng = np.random.default_rng([7 if kind == "normal" else 11, start])
    shape = (DRAWS, BLOCK)
    return rng.standard_normal(shape) if kind == "normal" else rng.random(shape)


def _quantile(p: Array) -> Array:
    from scipy.special import ndtri

    return ndtri(p)
