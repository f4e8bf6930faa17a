"""What norm and loss say at one point of a sweep: features, their model, and who doesn't learn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from orchestrator.schedulers.forecast import Array, normal_scores
from orchestrator.schedulers.outcome_model import (
    Example,
    Features,
    Fit,
    fit_outcomes,
    surface_terms,
)

LEAST_PEERS = 4
LEAST_EARNERS = 6
TOP_WEIGHT = 0.5
"""Weight of norm and loss beside a held-out loss (1) that they approach with many outcomes."""
PERMUTATIONS = 99
UNDERFIT_DEVIATIONS = 3.0


@dataclass(frozen=True, slots=True)
class Early:
    """The model's view of the trials at one point, by trial id.

    `mean` is the predicted place (a normal score, lower is better), `share` the part of it that is
    due to norm and loss. `underfit` are trials that hardly learn: they get no credit for the low
    norm and high loss of a rate near zero.
    """

    fit: Fit
    features: dict[str, Features | None]
    mean: dict[str, float]
    share: dict[str, float]
    underfit: frozenset[str]


@dataclass(frozen=True, slots=True)
class Seen:
    """A trial as far as it is looked at: its features and the noise of its loss."""

    id: str
    params: Mapping[str, Any]
    features: Features | None
    noise: float


def look(
    trials: Sequence[Seen],
    outcomes: Mapping[str, tuple[float, float]],
    coefficients: Mapping[str, float],
) -> Early:
    """Predict places from features.

    Args:
        trials: those that have got to the point.
        outcomes: place and weight of those whose end, or a later point, is known.
        coefficients: what the model is shrunk towards.
    """
    features = {t.id: t.features for t in trials}
    examples = [Example(t.features, t.params, *outcomes.get(t.id, (None, 0.0))) for t in trials]
    fit = fit_outcomes(examples, coefficients)
    idle = underfit(
        {t.id: t.noise for t in trials}, {i: f for i, f in features.items() if f is not None}
    )
    mean: dict[str, float] = {}
    share: dict[str, float] = {}
    for t, m, s in zip(trials, fit.mean, fit.dynamics_share, strict=True):
        mean[t.id] = max(m, 0.0) if t.id in idle else m
        share[t.id] = max(s, 0.0) if t.id in idle else s
    return Early(fit, features, mean, share, idle)


def underfit(noise: Mapping[str, float], features: Mapping[str, Features]) -> frozenset[str]:
    """Trials whose loss has not fallen beyond its noise and lies far above the peers' median."""
    if len(features) < LEAST_PEERS:
        return frozenset()
    last = {i: f["loss_last"] for i, f in features.items()}
    middle = median(last.values())
    scatter = max(1.4826 * median(abs(v - middle) for v in last.values()), 0.01 * abs(middle))
    return frozenset(
        i
        for i, f in features.items()
        if f["loss_gain"] < 2 * noise[i] and last[i] > middle + UNDERFIT_DEVIATIONS * scatter
    )


def earned_weight(outcome: Array, level: Array, predicted: Array) -> float:
    """What predictions have earned beside held-out losses, from outcomes that are known.

    Args:
        outcome, level, predicted: (n,) places of the outcomes, held-out losses at the rung, and
            leave-one-out predictions of the places.

    Does adding the prediction bring the ranks of the held-out loss closer to the outcome's, by more
    than 95 % of shuffled predictions do? 0 if not, and with fewer than `LEAST_EARNERS` outcomes.
    """
    n = len(outcome)
    if n < LEAST_EARNERS:
        return 0.0
    z = normal_scores(level)
    weight = TOP_WEIGHT * n / (n + 16)
    # The seed is fixed so that equal records give equal decisions.
    shuffled = np.random.default_rng(n).permuted(np.tile(predicted, (PERMUTATIONS, 1)), axis=1)
    rows = np.vstack([z, z + weight * predicted, z + weight * shuffled])
    plain, mixed, *chance = _correlations(outcome, rows)
    beaten = sum(mixed > c for c in chance)
    return round(weight, 6) if mixed > plain and beaten >= 0.95 * PERMUTATIONS else 0.0


def _correlations(y: Array, rows: Array) -> list[float]:
    """Pearson correlation of `y` (n) with each row (rows, n); 0 where one of them is constant."""
    y = y - y.mean()
    rows = rows - rows.mean(axis=1, keepdims=True)
    scale = np.sqrt((y**2).sum() * (rows**2).sum(axis=1))
    return [float(v) for v in (rows @ y) / np.where(scale > 0, scale, np.inf)]


def with_percentiles(trial_id: str, view: Early) -> dict[str, Any] | None:
    """Each feature's value and its percentile among peers; None if they are missing."""
    own = view.features.get(trial_id)
    if own is None:
        return None
    peers = [f for f in view.features.values() if f is not None]
    return {
        name: {
            "value": rounded(value),
            "percentile": round(100 * sum(f[name] <= value for f in peers) / len(peers), 1),
        }
        for name, value in own.items()
    }


def rounded(value: float | None) -> float | None:
    """To six places; None for what is no number."""
    return None if value is None or not math.isfinite(value) else round(value, 6)


def paper_sign(
    view: Early,
    outcomes: Mapping[str, tuple[float, float]],
    params: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Whether low norm with high loss goes with a good end, beyond rate and batch size.

    The partial correlation of the paper's score (mean log norm minus mean loss, as normal scores)
    with the outcome's place, given log rate, its square, log batch and their product; with Fisher's
    90 % interval. Positive: it agrees with the paper.
    """
    ids = [i for i in outcomes if view.features.get(i) is not None]
    controls = surface_terms([params[i] for i in ids])
    free = len(ids) - controls.shape[1] - 3
    if free < LEAST_PEERS:
        return {"agrees": None, "trials": len(ids), "text": f"not enough trials yet ({len(ids)})"}
    features = [f for i in ids if (f := view.features[i]) is not None]
    norm, loss = (
        normal_scores(np.array([f[name] for f in features]))
        for name in ("log_norm_mean", "loss_mean")
    )
    x = np.column_stack([np.ones(len(ids)), controls])
    sign, place = (
        v - x @ np.linalg.lstsq(x, v, rcond=None)[0]
        for v in (norm - loss, np.array([outcomes[i][0] for i in ids]))
    )
    scale = math.sqrt(float(sign @ sign) * float(place @ place))
    partial = float(sign @ place) / scale if scale > 1e-12 else 0.0
    z, error = math.atanh(max(-0.999, min(0.999, partial))), 1.645 / math.sqrt(free)
    low, high = math.tanh(z - error), math.tanh(z + error)
    agrees = True if low > 0 else False if high < 0 else None
    text = {
        True: "low norm and high loss go with a good end here, beyond rate and batch size",
        False: "low norm and high loss go with a bad end here, beyond rate and batch size",
        None: "beyond rate and batch size, low norm and high loss say nothing certain here",
    }[agrees]
    return {
        "agrees": agrees,
        "partial": rounded(partial),
        "interval": [rounded(low), rounded(high)],
        "trials": len(ids),
        "text": text,
    }
