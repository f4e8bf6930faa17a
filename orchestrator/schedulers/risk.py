"""The chance that a sweep loses its best trials, and which trial to let go on to lower it.

In one draw of the final places the *best* are the trials within `tie` of the lowest, what seed
noise could turn round. The draw is lost if none of them is among those that are kept: that have
completed, or run. The share of lost draws is the risk that the rule has taken so far.

With several objectives the best are the trials on the Pareto front, and a draw is lost by the
share of its front that is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Risk:
    """Attributes:
    best: (draws, n) whether a trial is among the best.
    lost: (draws,) how much of the best is lost, 0 … 1.
    """

    best: Mask
    lost: Array

    @property
    def taken(self) -> float:
        """The chance that the best is lost if nothing more is run than is running now."""
        return float(self.lost.mean())

    @property
    def probability(self) -> Array:
        """(n,) each trial's chance to be among the best."""
        return self.best.mean(axis=0)

    def gain(self) -> Array:
        """(n,) by how much the risk falls if a trial is kept too. 0 for those that are."""
        return (self.best * self.lost[:, None]).mean(axis=0)


def measure(draws: Array, kept: Mask, tie: float | Array) -> Risk:
    """The risk with one objective. `draws`: (draws, n) final places, lower is better; `tie`: one
    for all draws, or (draws,)."""
    if draws.shape[1] == 0:
        return Risk(np.zeros(draws.shape, dtype=bool), np.zeros(len(draws)))
    best = draws <= draws.min(axis=1, keepdims=True) + np.reshape(tie, (-1, 1))
    best &= np.isfinite(draws)
    lost = best.any(axis=1) & ~(best & kept).any(axis=1)
    return Risk(best, lost.astype(float))


def measure_front(draws: list[Array], kept: Mask) -> Risk:
    """The risk with several objectives: (draws, n) each."""
    values = np.stack(draws, axis=2)
    best = np.zeros(values.shape[:2], dtype=bool)
    for i in range(values.shape[1]):
        own = values[:, i : i + 1, :]
        no_worse = (values <= own).all(axis=2)
        better = (values < own).any(axis=2)
        dominated = np.logical_and(no_worse, better).any(axis=1)
        best[:, i] = ~dominated & np.isfinite(values[:, i, :]).all(axis=1)
    size = best.sum(axis=1)
    lost = (best & ~kept).sum(axis=1) / np.maximum(size, 1)
    return Risk(best, lost)
