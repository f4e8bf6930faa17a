"""How much each parameter matters for being among a sweep's best trials. Pure.

PED-ANOVA (Watanabe, Bansal, Hutter: "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance
in Arbitrary Subspaces", IJCAI 2023), as Optuna computes it: for each parameter, how far its
distribution among the best trials is from that among all of them. Only the order of the trials
counts, so one that diverged is simply the worst. It takes a second for 10,000 trials.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEAST_TRIALS = 10
LEAST_BEST = 5
"""Optuna's advice: distributions of fewer are noise."""
SHARE_OF_BEST = 0.1
MANY_VALUES = 12
"""A number with at most so many values is taken for a choice."""


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
    counts. The best are a tenth of the trials, and at least LEAST_BEST."""
    values = _ranked(judged)
    if len(judged) < LEAST_TRIALS or min(values) == max(values):
        return None
    names = list(dict.fromkeys(name for trial in judged for name in trial.params))
    scales = {
        name: scale
        for name in names
        if (
            scale := _scale(
                [t.params[name] for t in judged if name in t.params], name in logarithmic
            )
        )
    }
    best = max(LEAST_BEST, math.ceil(SHARE_OF_BEST * len(judged)))
    found = _ped_anova(judged, values, scales, best / len(judged)) if scales else {}
    total = sum(found.values())
    shares = {name: value / total if total > 0 else 0.0 for name, value in found.items()}
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Importances(ordered, best, len(judged))


def _ranked(judged: Sequence[Judged]) -> list[float]:
    finite = [trial.value for trial in judged if trial.value is not None]
    worst = max(finite, default=0.0) + 1.0
    return [worst if trial.value is None else trial.value for trial in judged]


def _scale(values: Sequence[Any], logarithmic: bool) -> Any:
    """The distribution that a parameter's values are seen in; None if they are all one."""
    from optuna import distributions as o

    distinct = list(dict.fromkeys(map(_key, values)))
    if len(distinct) < 2:
        return None
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numbers and len(distinct) > MANY_VALUES:
        low, high = float(min(values)), float(max(values))
        return o.FloatDistribution(low, high, log=logarithmic and low > 0)
    return o.CategoricalDistribution(distinct)


def _key(value: Any) -> Any:
    """A value as a choice: Optuna compares with ==, and then True is 1."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)


def _ped_anova(
    judged: Sequence[Judged], values: Sequence[float], scales: Mapping[str, Any], quantile: float
) -> dict[str, float]:
    import optuna
    from optuna.distributions import FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator

    def trial(of: Judged, value: float) -> optuna.trial.FrozenTrial:
        params = {
            name: float(of.params[name])
            if isinstance(scale, FloatDistribution)
            else _key(of.params[name])
            for name, scale in scales.items()
            if name in of.params
        }
        known = {name: scales[name] for name in params}
        return optuna.trial.create_trial(params=params, distributions=known, value=value)

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of experimental features
            study = optuna.create_study()
            study.add_trials(map(trial, judged, values))
            evaluator = PedAnovaImportanceEvaluator(target_quantile=min(quantile, 0.5))
            found = evaluator.evaluate(study, list(scales))
    finally:
        optuna.logging.set_verbosity(level)
    return {name: float(value) for name, value in found.items()}
