"""What the sign score competes with: early held-out loss, and a surface over rate and batch.

The surface is a Gaussian process on log rate and log batch. Each cell of equal rate and batch is
predicted from the other cells' outcomes, so it costs finished runs, which the early signals don't.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.findings.features import early_held_out, signals
from benchmarks.findings.loading import Configuration, Sweep
from benchmarks.findings.statistics import Block, Estimate, contrast, correlate

RIVALS = ("sign", "held_out", "surface", "surface_and_features", "train_loss")
"""The last was not declared."""
NOISE = 0.1
FEATURE_VARIANCE = 1 / 8


@dataclass(frozen=True)
class Rivalry:
    """How well each rival's ranking agrees with that of final eval loss, on the same
    configurations. `kept` says in how many of the sweeps the best configuration is in the
    predicted best (half, quarter)."""

    agreement: dict[str, Estimate]
    kept: dict[str, tuple[int, int]]
    sweeps: int
    features_add: Estimate | None
    """Agreement of the surface with the features minus that of the surface alone."""


def rivalry(sweeps: Sequence[Sweep], fraction: float, *, every: bool = False) -> Rivalry:
    made: dict[str, list[Block]] = {r: [] for r in RIVALS}
    kept: dict[str, tuple[int, int]] = dict.fromkeys(RIVALS, (0, 0))
    for sweep in sweeps:
        used, found = signals(sweep.stacked, sweep.budget, fraction, every=every)
        if len(used) < 6:
            continue
        y = np.array([c.outcome("loss") for c in used])
        features = np.column_stack([found["low_norm"], found["high_loss"]])
        predicted = {
            "sign": found["sign"],
            "held_out": np.array([-early_held_out(c, sweep.budget * fraction) for c in used]),
            "surface": surface(used, y),
            "train_loss": -found["high_loss"],
            "surface_and_features": surface(used, y, features),
        }
        best = int(np.argmax(y))
        for rival, x in predicted.items():
            made[rival].append(Block(sweep.name, x, y, np.empty((len(used), 0))))
            # Ties with the best count half.
            place = (x > x[best]).sum() + ((x == x[best]).sum() - 1) / 2
            half, quarter = kept[rival]
            kept[rival] = (
                half + int(place < math.ceil(len(x) / 2)),
                quarter + int(place < math.ceil(len(x) / 4)),
            )
    found_all = {r: correlate(b, permute=False) for r, b in made.items()}
    return Rivalry(
        {r: e for r, e in found_all.items() if e is not None},
        kept,
        len(made["sign"]),
        contrast(made["surface_and_features"], made["surface"]),
    )


def surface(
    configurations: Sequence[Configuration], y: np.ndarray, features: np.ndarray | None = None
) -> np.ndarray:
    """Predicted normal scores of `y`, shape (n,): each cell from all other cells.

    `features`, shape (n, k), enter as normal scores in a linear part with prior variance 1/8 each.
    """
    at = np.log10([[c.rate, c.batch] for c in configurations])
    distance = ((at[:, None] - at[None]) ** 2).sum(axis=2)
    covariance = np.exp(-distance / 2)
    if features is not None:
        scored = np.column_stack([normal_scores(f) for f in features.T])
        covariance = covariance + FEATURE_VARIANCE * scored @ scored.T
    target = normal_scores(y)
    predicted = np.zeros(len(y))
    for cell in np.unique(at, axis=0):
        out = (at == cell).all(axis=1)
        inside = covariance[np.ix_(~out, ~out)] + NOISE * np.eye(int((~out).sum()))
        predicted[out] = covariance[np.ix_(out, ~out)] @ np.linalg.solve(inside, target[~out])
    return predicted


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Blom's: Φ⁻¹((r - 3/8) / (n + 1/4)), ties sharing their mean rank."""
    return stats.norm.ppf((stats.rankdata(values) - 0.375) / (len(values) + 0.25))
