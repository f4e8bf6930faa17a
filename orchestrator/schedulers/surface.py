"""A smooth surface over log rate × log batch size: the simplest account of a sweep's outcomes.

A quadratic with interaction, fitted by weighted ridge regression. It knows nothing of a trial but
two of its parameters, so a rule that looks at curves is worth its effort only where it does better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

PENALTIES = (0.3, 1.0, 3.0, 10.0)
"""Tried by default. A penalty counts as so many observations that say that a term is zero."""

TERMS = ("rate", "rate²", "batch", "batch²", "rate·batch")


@dataclass(frozen=True, slots=True)
class Surface:
    """A fitted surface.

    Attributes:
        leave_one_out: (n,) for each observation what the surface says without it: the prediction
            for one whose weight is zero.
        error: weighted mean squared leave-one-out error.
        penalty: the one that was used, or chosen.
        coefficients: (5,) of `TERMS`, each term scaled to mean 0 and deviation 1 over the
            observations.
    """

    leave_one_out: Vector
    error: float
    penalty: float
    coefficients: Vector
    _level: float
    _axes: tuple[tuple[float, float], tuple[float, float]]
    _centre: Vector
    _scale: Vector

    def predict(self, log_rate: npt.ArrayLike, log_batch: npt.ArrayLike) -> Vector:
        """The surface at points (m,) → (m,). NaN stands in the middle of its axis."""
        terms = _terms(_place(log_rate, self._axes[0]), _place(log_batch, self._axes[1]))
        return self._level + (terms - self._centre) / self._scale @ self.coefficients


def fit_surface(
    log_rate: npt.ArrayLike,
    log_batch: npt.ArrayLike,
    y: npt.ArrayLike,
    weights: npt.ArrayLike,
    penalty: float | Sequence[float] = PENALTIES,
    level: float | None = None,
) -> Surface:
    """Fit y ≈ level + quadratic in (log rate, log batch).

    Args:
        log_rate, log_batch: (n,) each. NaN where a trial has no such parameter: it then stands in
            the middle of the axis, which says nothing about it.
        y: (n,), lower or higher is better as the caller likes. Read only where a weight is > 0.
        weights: (n,), ≥ 0. A weight of zero gives a point a prediction and no say.
        penalty: of the squared coefficients; of several, the one with the least `error`, the first
            of equals.
        level: the mean that y is known to have; None takes its weighted mean. It is not left out
            with an observation: otherwise, where the surface says nothing, each leave-one-out
            prediction would run against the very value that was left out.

    Leave-one-out is in closed form, r / (1 − h) with residual r and leverage h, exact for ridge
    regression (Allen 1974, "PRESS").
    """
    w = np.asarray(weights, dtype=np.float64)
    seen = w > 0
    target = np.where(seen, np.asarray(y, dtype=np.float64), 0.0)
    if level is None:
        level = float((w * target).sum() / w.sum()) if seen.any() else 0.0
    axes = (_axis(log_rate), _axis(log_batch))
    raw = _terms(_place(log_rate, axes[0]), _place(log_batch, axes[1]))
    centre = raw.mean(axis=0) if len(raw) else np.zeros(len(TERMS))
    spread = raw.std(axis=0) if len(raw) else np.zeros(len(TERMS))
    # A term that is the same for all is zero for all: its coefficient stays at zero.
    scale = np.where(spread > 1e-9, spread, np.inf)
    x = (raw - centre) / scale
    residual = np.where(seen, target - level, 0.0)

    chosen: Surface | None = None
    for strength in (penalty,) if isinstance(penalty, int | float) else penalty:
        inverse = np.linalg.inv((x * w[:, None]).T @ x + strength * np.eye(len(TERMS)))
        coefficients = inverse @ ((x * w[:, None]).T @ residual)
        fitted = x @ coefficients
        leverage = w * np.einsum("ij,jk,ik->i", x, inverse, x)
        missed = (residual - fitted) / (1.0 - np.minimum(leverage, 1.0 - 1e-9))
        without = np.where(seen, residual - missed, fitted)
        error = float((w * missed**2)[seen].sum() / w.sum()) if seen.any() else 0.0
        if chosen is None or error < chosen.error:
            chosen = Surface(
                level + without, error, float(strength), coefficients, level, axes, centre, scale
            )
    if chosen is None:
        raise ValueError("fit_surface: give at least one penalty")
    return chosen


def _terms(rate: Vector, batch: Vector) -> Vector:
    return np.column_stack([rate, rate**2, batch, batch**2, rate * batch])


def _axis(values: npt.ArrayLike) -> tuple[float, float]:
    """Middle and deviation of what there is; deviation 1 where all are equal."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return 0.0, 1.0
    deviation = float(known.std())
    return float(known.mean()), deviation if deviation > 1e-9 else 1.0


def _place(values: npt.ArrayLike, axis: tuple[float, float]) -> Vector:
    standard = (np.asarray(values, dtype=np.float64) - axis[0]) / axis[1]
    return np.where(np.isfinite(standard), standard, 0.0)
