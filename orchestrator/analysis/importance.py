"""How much each parameter matters for being among a sweep's best trials. Pure.

PED-ANOVA (Watanabe, Bansal, Hutter: "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance
in Arbitrary Subspaces", IJCAI 2023, arXiv 2304.10255): for each parameter, how far its distribution
among the best trials is from that among all of them, as the Pearson divergence of two Parzen
estimates on a grid. A parameter that only some trials have is judged among these, weighted by their
shares of the best and of all. Only the order of the trials counts, so one that diverged is simply
the worst. It takes milliseconds for 10,000 trials.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_TRIALS = 10
LEAST_BEST = 5
"""Distributions of fewer are noise."""
SHARE_OF_BEST = 0.1
MANY_VALUES = 12
"""A number with at most so many values is taken for a choice."""
GRID = 50


@dataclass(frozen=True, slots=True)
class Judged:
    """A trial's parameters and its result, lower is better; None: it diverged."""

    params: Mapping[str, Any]
    value: float | None


@dataclass(frozen=True, slots=True)
class Importances:
    """Shares that add up to 1, the largest first, and how many trials were `best` of how many."""

    shares: dict[str, float]
    best: int
    trials: int


def parameter_importances(
    judged: Sequence[Judged], logarithmic: Collection[str] = ()
) -> Importances | None:
    """Importances of the parameters that vary; None of fewer than LEAST_TRIALS trials, or if no
    two of them differ in their results. `logarithmic` are parameters whose order of magnitude
    counts. The best are a tenth of the trials and at least LEAST_BEST, and all equal to the last
    of them."""
    if len(judged) < LEAST_TRIALS:
        return None
    values = _ranked(judged)
    if values.min() == values.max():
        return None
    wanted = max(LEAST_BEST, math.ceil(SHARE_OF_BEST * len(judged)))
    best = values <= np.sort(values)[wanted - 1]
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for trial in judged for name in trial.params):
        having = np.array([name in trial.params for trial in judged])
        cells = _cells([t.params[name] for t in judged if name in t.params], name in logarithmic)
        if cells is not None:
            found[name] = _importance(cells, best[having], best.mean(), having.mean())
    total = sum(found.values())
    shares = {name: value / total if total > 0 else 0.0 for name, value in found.items()}
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Importances(ordered, int(best.sum()), len(judged))


def _importance(
    cells: _Cells, best: NDArray[np.bool_], share_best: float, share_having: float
) -> float:
    """`best`: which of the trials that have the parameter are among the best; `share_best` of all
    trials are, and `share_having` of all have it."""
    if not best.any():
        return 0.0
    among_best, among_all = cells.density(best), cells.density(np.ones(len(best), dtype=bool))
    divergence = float(among_all @ (among_best / among_all - 1) ** 2)
    having_of_best = best.mean() * share_having / share_best
    return float(having_of_best**2 / share_having * divergence)


def _ranked(judged: Sequence[Judged]) -> NDArray[np.float64]:
    finite = [trial.value for trial in judged if trial.value is not None]
    worst = max(finite, default=0.0) + 1.0
    return np.array([worst if trial.value is None else trial.value for trial in judged])


@dataclass(frozen=True, slots=True)
class _Cells:
    """A parameter's values as cells of a grid; choices have no neighbours (`ordered` False)."""

    index: NDArray[np.intp]
    count: int
    ordered: bool

    def density(self, which: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The share of each cell among some trials, with one uniform trial beside them."""
        counts = np.bincount(self.index[which], minlength=self.count).astype(np.float64)
        if self.ordered:
            counts = counts @ self._kernel(self.index[which])
        return (counts + 1.0 / self.count) / (which.sum() + 1.0)

    def _kernel(self, index: NDArray[np.intp]) -> NDArray[np.float64]:
        """Row i: how a value in cell i spreads. Scott's rule, by the smaller of two deviations."""
        low, high = np.percentile(index, (25, 75))
        spread = min(float(np.std(index)), float(high - low) / 1.34)
        width = max(1.059 * spread * len(index) ** -0.2, 0.5)
        at = np.arange(self.count)
        kernel = np.exp(-0.5 * ((at[:, None] - at) / width) ** 2)
        return kernel / kernel.sum(axis=1, keepdims=True)


def _cells(values: Sequence[Any], logarithmic: bool) -> _Cells | None:
    """A parameter's values on a grid; None if they are all one."""
    keys = [_key(value) for value in values]
    distinct = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    if len(distinct) < 2:
        return None
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not numbers or len(distinct) <= MANY_VALUES:
        return _Cells(np.array([distinct[key] for key in keys]), len(distinct), ordered=False)
    at = np.array(values, dtype=np.float64)
    if logarithmic and at.min() > 0:
        at = np.log(at)
    place = (at - at.min()) / (at.max() - at.min())
    return _Cells(np.minimum((place * GRID).astype(np.intp), GRID - 1), GRID, ordered=True)


def _key(value: Any) -> Any:
    """A value as a choice: True is not 1."""
    return (isinstance(value, bool), value) if isinstance(value, int | float) else repr(value)
