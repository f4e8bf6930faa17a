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
from orchestrator.schedulers.forecast import AGREEMENTS, DECAYS, WORLDS, Array, climb
from orchestrator.schedulers.simulate import Recorded

FRACTIONS = (0.0625, 0.125, 0.25, 0.5)
"""Points of the budget at which earlier sweeps are read."""
LEAST_TRIALS = 4
LARGEST_SHARE = 0.9
"""Of the family in the mixture with the broad prior, however many sweeps agree."""
SHARES = np.linspace(0.05, LARGEST_SHARE, 18)
ONE_SWEEP = 0.25
"""Its share while it is the only one: nobody can be left out."""


def broad() -> Array:
    """The prior of a sweep of which nothing is known: (360,) weights.

    Centred on a correlation of .43 between a trial's place at a sixteenth of its budget and its
    last, and wide: 90 % of it reaches from nearly none to nearly all. AlgoPerf's public logs, runs
    from scratch on 19 workloads, lie in its middle; fine-tuning sweeps persist far more.
    """
    decay = np.exp(-0.5 * (np.log(DECAYS / 0.3) / 0.7) ** 2)
    late = np.array([0.25, 0.25, 0.3, 0.2])
    noise = np.array([0.35, 0.4, 0.25])
    agreement = np.array([0.4, 0.4, 0.2])
    weights = np.einsum("i,j,k,l->ijkl", decay / decay.sum(), late, noise, agreement).ravel()
    return weights / weights.sum()


def same_measure(prior: Array) -> Array:
    """The prior once it is known that the outcome is what the rungs measure."""
    weights = np.where(WORLDS[:, 3] == 1.0, prior, 0.0)
    return weights / weights.sum()


@dataclass(frozen=True)
class Prior:
    """What a scheduler starts from.

    `worlds` are weights of `forecast.WORLDS`, already mixed with the broad prior at `share`.
    `dynamics` holds what norm and loss are worth, by point: see `DynamicsPrior`. `sweeps` counts
    the sweeps it was learned from; 0 is winnow's own.
    """

    worlds: tuple[float, ...]
    dynamics: DynamicsPrior
    sweeps: int = 0
    share: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "worlds": [float(f"{w:.6g}") for w in self.worlds],
            "dynamics": self.dynamics.to_json(),
            "sweeps": self.sweeps,
            "share": self.share,
        }

    @staticmethod
    def of_json(data: Mapping[str, Any]) -> Prior:
        return Prior(
            worlds=tuple(data["worlds"]),
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
    start = np.array(base.worlds)
    found = [f for f in (likelihood(s, start) for s in sweeps) if f is not None]
    if not found:
        return base
    posteriors = [_posterior(start, f) for f in found]
    share = _share(found, posteriors, start)
    mixed = share * np.mean(posteriors, axis=0) + (1 - share) * start
    return replace(
        base, worlds=tuple(float(w) for w in mixed), sweeps=len(found), share=round(share, 4)
    )


def likelihood(sweep: Sequence[Recorded], prior: Array) -> Array | None:
    """Log likelihood of each world (360,) from one recorded sweep; None if it says nothing.

    A sweep whose outcome was the held-out loss itself says nothing about how well other outcomes
    agree with it: its likelihood is the same for every agreement.
    """
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
    if not same:
        return climb(scores, (*FRACTIONS, 1.0), prior).log_likelihood
    found = climb(scores, (*FRACTIONS, 1.0), same_measure(prior)).log_likelihood
    return np.repeat(found[WORLDS[:, 3] == 1.0], len(AGREEMENTS))


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
