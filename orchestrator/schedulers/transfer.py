"""What earlier sweeps teach a new one: a prior over worlds, and what dynamics are worth.

`learn` reads sweeps that were recorded, each as far as its trials went. Every sweep gives a
posterior over `forecast.WORLDS`; their mean says what the next sweep of the family may be like. How
much that counts beside the broad prior, which knows no sweep, is earned: it is how much better the
other sweeps' mean foretold each sweep that was left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from orchestrator.schedulers.curves import Curve
from orchestrator.schedulers.forecast import AGREEMENTS, DECAYS, Array, climb
from orchestrator.schedulers.simulate import Recorded

FRACTIONS = (0.0625, 0.125, 0.25, 0.5)
"""Points of the budget at which earlier sweeps are read."""
LEAST_TRIALS = 4
LARGEST_SHARE = 0.9
"""Of the family in the mixture with the broad prior, however many sweeps agree."""
SHARES = np.linspace(0.05, LARGEST_SHARE, 18)
ONE_SWEEP = 0.25
"""Its share while it is the only one: nobody can be left out."""


def broad() -> Prior:
    """The prior of a sweep of which nothing is known.

    Centred on a correlation of .43 between a trial's place at a sixteenth of its budget and its
    last, and wide: 90 % of it reaches from nearly none to nearly all. AlgoPerf's public logs, runs
    from scratch on 19 workloads, lie in its middle; fine-tuning sweeps persist far more.
    """
    decay = np.exp(-0.5 * (np.log(DECAYS / 0.3) / 0.7) ** 2)
    late = np.array([0.25, 0.25, 0.3, 0.2])
    noise = np.array([0.35, 0.4, 0.25])
    weights = np.einsum("i,j,k->ijk", decay / decay.sum(), late, noise).ravel()
    return Prior(tuple(float(w) for w in weights / weights.sum()))


@dataclass(frozen=True)
class Prior:
    """What a scheduler starts from.

    `persistence` are weights of the first three axes of `forecast.WORLDS`, (120,), already mixed
    with the broad prior at `share`. `same` and `other` count sweeps by agreement: where the outcome
    was the held-out loss that the rungs measure, and where it was something else. `dynamics` is
    what norm and loss are worth. `sweeps` counts the sweeps it was learned from; 0 is winnow's own.
    """

    persistence: tuple[float, ...]
    same: tuple[float, ...] = (2.4, 0.36, 0.24)
    other: tuple[float, ...] = (1.2, 1.2, 0.6)
    dynamics: DynamicsPrior = field(default_factory=lambda: DynamicsPrior())
    sweeps: int = 0
    share: float = 0.0

    def worlds(self, *, same: bool) -> Array:
        """(360,) weights of `forecast.WORLDS`. `same`: the outcome is what the rungs measure."""
        counts = np.array(self.same if same else self.other)
        return np.outer(np.array(self.persistence), counts / counts.sum()).ravel()

    def to_json(self) -> dict[str, Any]:
        return {
            "persistence": [float(f"{w:.6g}") for w in self.persistence],
            "same": list(self.same),
            "other": list(self.other),
            "dynamics": self.dynamics.to_json(),
            "sweeps": self.sweeps,
            "share": self.share,
        }

    @staticmethod
    def of_json(data: Mapping[str, Any]) -> Prior:
        return Prior(
            persistence=tuple(data["persistence"]),
            same=tuple(data["same"]),
            other=tuple(data["other"]),
            dynamics=DynamicsPrior.of_json(data["dynamics"]),
            sweeps=int(data["sweeps"]),
            share=float(data["share"]),
        )


@dataclass(frozen=True)
class DynamicsPrior:
    """What norm and loss are worth before a sweep has shown it.

    `coefficients` predict a trial's final place from its features' normal scores. `weight` is what
    the prediction weighs beside the held-out loss (weight 1) at a rung, `interval` its 90 %
    interval over the sweeps it was learned from. `quality` is the correlation, relative to a
    held-out loss, of the prediction before the first evaluation; 0 lets it pause nobody.
    """

    coefficients: dict[str, float] = field(default_factory=dict[str, float])
    weight: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    quality: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "coefficients": self.coefficients,
            "weight": self.weight,
            "interval": list(self.interval),
            "quality": self.quality,
        }

    @staticmethod
    def of_json(data: Mapping[str, Any]) -> DynamicsPrior:
        low, high = data["interval"]
        return DynamicsPrior(
            dict(data["coefficients"]), data["weight"], (low, high), data["quality"]
        )


def default_prior() -> Prior:
    """winnow's own: learned from the recorded sweeps in `benchmarks/curves`."""
    from orchestrator.schedulers.default_prior import PRIOR

    return Prior.of_json(PRIOR)


def learn(sweeps: Sequence[Sequence[Recorded]], base: Prior | None = None) -> Prior:
    """The prior after these sweeps. Sweeps that say nothing (too few trials) are left out.

    `base` is what is known without them, winnow's own by default.
    """
    base = base or default_prior()
    found = [f for f in (_read(s, base) for s in sweeps) if f is not None]
    if not found:
        return base
    start = np.array(base.persistence)
    likelihoods = [_over_agreement(f, base) for f in found]
    posteriors = [_posterior(start, one) for one in likelihoods]
    share = _share(likelihoods, posteriors, start)
    mixed = share * np.mean(posteriors, axis=0) + (1 - share) * start
    counts = {True: np.array(base.same), False: np.array(base.other)}
    for one in found:
        weights = _posterior(base.worlds(same=one.same), one.log_likelihood)
        counts[one.same] += weights.reshape(-1, len(AGREEMENTS)).sum(axis=0)
    return replace(
        base,
        persistence=tuple(float(w) for w in mixed),
        same=tuple(round(float(c), 4) for c in counts[True]),
        other=tuple(round(float(c), 4) for c in counts[False]),
        sweeps=len(found),
        share=round(share, 4),
    )


@dataclass(frozen=True)
class _Evidence:
    """Log likelihood of each world (360,) from one sweep, and what kind of outcome it had."""

    log_likelihood: Array
    same: bool


def _read(sweep: Sequence[Recorded], base: Prior) -> _Evidence | None:
    """What one recorded sweep says; None if too few of its trials have an outcome."""
    rows: list[list[float]] = []
    same = True
    for trial in sweep:
        curve = Curve()
        curve.extend(trial.steps, trial.evaluations)
        total = trial.info.total_samples
        points = [max(1, math.ceil(f * total - 1e-9)) for f in FRACTIONS] + [total]
        found = [curve.held_out(a, b) for a, b in pairwise(points)]
        row = [math.nan if h is None else h.rank_key for h in found]
        rows.append([*row, math.nan if trial.value is None else trial.value])
        last = curve.last_held_out()
        if trial.value is not None:
            same &= last is not None and math.isclose(last, trial.value, rel_tol=1e-6)
    scores = np.array(rows, dtype=float).reshape(len(rows), len(FRACTIONS) + 1)
    if np.isfinite(scores[:, -1]).sum() < LEAST_TRIALS:
        return None
    prior = base.worlds(same=same)
    return _Evidence(climb(scores, (*FRACTIONS, 1.0), prior).log_likelihood, same)


def _over_agreement(one: _Evidence, base: Prior) -> Array:
    """(120,) log likelihood with agreement averaged over."""
    counts = np.array(base.same if one.same else base.other)
    table = one.log_likelihood.reshape(-1, len(AGREEMENTS))
    top = table.max()
    return np.log(np.exp(table - top) @ (counts / counts.sum()) + 1e-300) + top


def _share(found: list[Array], posteriors: list[Array], start: Array) -> float:
    """Posterior mean of the family's share: each sweep foretold by the mean of the others, against
    the start alone. The prior of the share falls linearly."""
    if len(found) < 2:
        return ONE_SWEEP
    belief = np.log(1.0 - SHARES)
    for i, one in enumerate(found):
        others = np.mean([p for j, p in enumerate(posteriors) if j != i], axis=0)
        scaled = np.exp(one - one.max())
        belief += np.log(SHARES * (others @ scaled) + (1 - SHARES) * (start @ scaled))
    weights = np.exp(belief - belief.max())
    return float(SHARES @ weights / weights.sum())


def _posterior(prior: Array, log_likelihood: Array) -> Array:
    weights = prior * np.exp(log_likelihood - log_likelihood.max())
    return weights / weights.sum()
