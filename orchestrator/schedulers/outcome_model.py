"""What early norm and loss say about a trial's end, learned from the sweep itself.

A ridge regression of outcome ranks on ranks of early features, with rate and batch size as
covariates, because both move norm and loss mechanically (‖g_B‖² ≈ ‖G‖² + tr Σ / B). All columns and
the outcome are normal scores of ranks, so no scale has to be known; lower is better. Shrinkage is
strong, towards the paper's sign at a small weight: with no outcomes the prediction is that prior.

Predictions for trials whose outcome was used are leave-one-out, so all predictions are honest and
comparable. Whether dynamics have earned a say is judged by the same leave-one-out errors, against
a model that knows nothing and against a smooth curve in rate and batch size alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from orchestrator.schedulers import forecast
from trainer.metrics import StepRecord

LEAST_POINTS = 8
"""Steps below which a feature is missing."""

PRIOR: dict[str, float] = {
    "log_norm_mean": 0.1,
    "log_norm_slope": 0.0,
    "loss_mean": -0.1,
    "loss_last": 0.0,
    "loss_slope": 0.0,
    "loss_gain": 0.0,
}
"""The features, with the coefficients that the paper's sign implies: a low norm and a high loss go
with a low, that is good, outcome rank. Small: a rank moves the prediction by a tenth."""

ERRORS = ("null", "rate_and_batch", "with_dynamics")

DYNAMICS_PENALTY = 8.0
COVARIATE_PENALTY = 2.0

Features = dict[str, float]


def early_features(steps: Sequence[StepRecord]) -> Features | None:
    """Features of a trial's first steps; None if fewer than `LEAST_POINTS` are usable.

    Norm features are of the natural log; slopes are per whole window; `loss_gain` is the fall from
    the first to the last quarter's median. Steps at less than half of the largest rate so far are
    warmup and left out.
    """
    top = max((r.learning_rate for r in steps), default=0.0)
    used = [r for r in steps if r.learning_rate >= 0.5 * top]
    if len(used) < LEAST_POINTS or any(r.loss is None or r.grad_norm is None for r in used):
        return None
    losses = [r.loss or 0.0 for r in used]
    norms = [math.log(max(r.grad_norm or 0.0, 1e-30)) for r in used]
    quarter = max(2, len(used) // 4)
    return {
        "log_norm_mean": sum(norms) / len(norms),
        "log_norm_slope": _slope(norms),
        "loss_mean": sum(losses) / len(losses),
        "loss_last": median(losses[-quarter:]),
        "loss_slope": _slope(losses),
        "loss_gain": median(losses[:quarter]) - median(losses[-quarter:]),
    }


def loss_noise(steps: Sequence[StepRecord]) -> float:
    """Standard error of `loss_gain`, from the scatter of neighbouring steps, in nats."""
    losses = [r.loss for r in steps if r.loss is not None]
    if len(losses) < LEAST_POINTS:
        return math.inf
    jumps = [abs(b - a) for a, b in pairwise(losses)]
    deviation = 1.4826 * median(jumps) / math.sqrt(2)
    # A median of n values scatters by 1.25 σ/√n; the gain is the difference of two.
    return 1.2533 * math.sqrt(2) * deviation / math.sqrt(max(2, len(losses) // 4))


@dataclass(frozen=True, slots=True)
class Example:
    """A trial at one point: features (None: missing), parameters, and its outcome's normal score
    and weight (None: not known yet)."""

    features: Features | None
    params: Mapping[str, Any]
    outcome: float | None = None
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """`mean` predicts each example's outcome score (lower is better), `deviation` its error.

    `errors` are weighted mean squared leave-one-out errors of the null model, of rate and batch
    size alone, and of all features. `earned` says that all features beat both by more than one
    standard error. `dynamics_share` is each prediction's part that is due to norm and loss.
    """

    mean: list[float]
    dynamics_share: list[float]
    deviation: float
    outcomes: int
    errors: dict[str, float]
    earned: bool
    coefficients: dict[str, float]

    @property
    def quality(self) -> float:
        """Correlation with the outcome that the errors amount to; 0 while it hasn't been earned."""
        if not self.earned or self.errors["null"] <= 0.0:
            return 0.0
        return math.sqrt(max(0.0, 1.0 - self.errors["with_dynamics"] / self.errors["null"]))


def fit_outcomes(
    examples: Sequence[Example], coefficients: Mapping[str, float] | None = None
) -> Fit:
    """Fit the ridge to the examples with an outcome and predict all of them.

    `coefficients` are what it is shrunk towards, the paper's sign by default; features that they
    don't name, towards zero.
    """
    prior_of = {name: (coefficients or PRIOR).get(name, 0.0) for name in PRIOR}
    if not examples:
        return Fit([], [], 1.0, 0, dict.fromkeys(ERRORS, 1.0), False, prior_of)
    columns = list(PRIOR)
    dynamics = np.column_stack([_column(examples, name) for name in columns])
    covariates = surface_terms([e.params for e in examples])
    known = np.array([e.outcome is not None for e in examples])
    y = np.array([e.outcome or 0.0 for e in examples])
    w = np.array([e.weight if e.outcome is not None else 0.0 for e in examples])

    prior = np.array(list(prior_of.values()))
    penalty = np.full(len(columns), DYNAMICS_PENALTY)
    covariate_penalty = np.full(covariates.shape[1], COVARIATE_PENALTY)
    alone, _ = _ridge(covariates, y, w, np.zeros(covariates.shape[1]), covariate_penalty)
    both, beta = _ridge(
        np.hstack([dynamics, covariates]),
        y,
        w,
        np.concatenate([prior, np.zeros(covariates.shape[1])]),
        np.concatenate([penalty, covariate_penalty]),
    )
    errors = dict.fromkeys(ERRORS, 1.0)
    earned = False
    if known.any():
        squared = {
            "null": (y**2)[known],
            "rate_and_batch": ((y - alone) ** 2)[known],
            "with_dynamics": ((y - both) ** 2)[known],
        }
        weights = w[known] / w[known].sum()
        errors = {k: float((v * weights).sum()) for k, v in squared.items()}
        earned = all(
            _clearly_better(squared[rival] - squared["with_dynamics"], weights)
            for rival in ("null", "rate_and_batch")
        )
    return Fit(
        mean=[float(v) for v in both],
        dynamics_share=[float(v) for v in dynamics @ beta[: len(columns)]],
        deviation=math.sqrt(max(errors["with_dynamics"], 1e-6)),
        outcomes=int(known.sum()),
        errors={k: round(v, 6) for k, v in errors.items()},
        earned=earned,
        coefficients={n: round(float(b), 6) for n, b in zip(columns, beta, strict=False)},
    )


def normal_scores(values: Sequence[float]) -> list[float]:
    """Blom's normal scores of ranks: Φ⁻¹((r − 3/8) / (n + 1/4)), ties sharing their mean rank."""
    return forecast.normal_scores(np.asarray(values, dtype=float)).tolist()


def _ridge(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, prior: np.ndarray, penalty: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted ridge towards `prior`. Predictions, leave-one-out where w > 0; coefficients."""
    inverse = np.linalg.inv((x * w[:, None]).T @ x + np.diag(penalty))
    beta = prior + inverse @ ((x * w[:, None]).T @ (y - x @ prior))
    leverage = w * np.einsum("ij,jk,ik->i", x, inverse, x)
    residual = (y - x @ beta) / (1.0 - np.minimum(leverage, 0.999))
    return np.where(w > 0, y - residual, x @ beta), beta


def _clearly_better(gains: np.ndarray, weights: np.ndarray) -> bool:
    """Whether the weighted mean gain exceeds its own standard error."""
    mean = float((gains * weights).sum())
    error = math.sqrt(float((weights**2 * (gains - mean) ** 2).sum()))
    return mean > error and mean > 1e-9


def _column(examples: Sequence[Example], name: str) -> np.ndarray:
    """Normal scores of a feature among those that have it; 0, which says nothing, where missing."""
    return _scored([None if e.features is None else e.features[name] for e in examples])


def surface_terms(params: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(n, 4): normal scores of rate, its square, batch size and their product."""
    rate = _scored([_number(p.get("learning_rate")) for p in params])
    batch = _scored([_number(p.get("effective_batch_size")) for p in params])
    # The best rate lies inside the range, and moves with the batch.
    return np.column_stack(
        [rate, rate**2 - float(rate @ rate) / max(1, len(rate)), batch, rate * batch]
    )


def _scored(values: Sequence[float | None]) -> np.ndarray:
    there = [v for v in values if v is not None]
    scores = iter(normal_scores(there))
    return np.array([0.0 if v is None else next(scores) for v in values])


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _slope(values: Sequence[float]) -> float:
    """Least-squares slope over the whole window."""
    n = len(values)
    middle = (n - 1) / 2
    spread = sum((i - middle) ** 2 for i in range(n))
    return n * sum((i - middle) * v for i, v in enumerate(values)) / spread
