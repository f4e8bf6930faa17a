"""The early features that the declaration names, a row a configuration, and who is diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from benchmarks.findings.loading import Configuration, Sweep, Trial, seed_differences
from benchmarks.findings.statistics import percentile
from orchestrator.schedulers.outcome_model import early_features
from trainer.metrics import StepRecord

WINDOWS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
PRIMARY = 1 / 8
SIGNALS = ("sign", "low_norm", "high_loss")


def signals(
    configurations: Sequence[Configuration], budget: int, fraction: float, *, every: bool = False
) -> tuple[list[Configuration], dict[str, np.ndarray]]:
    """The configurations that have features in the first `fraction` of the budget, and these.

    `low_norm` is the negative mean log norm, `high_loss` the mean loss, `sign` the mean of both
    percentiles among these configurations; each the mean over seeds, arrays of shape (n,). A
    configuration with a seed that has none is left out. `every` takes a mean over whatever steps
    there are, at least the first, instead of asking for 8.
    """
    used: list[Configuration] = []
    rows: list[tuple[float, float]] = []
    for configuration in configurations:
        found = [_early(t, budget * fraction, every) for t in configuration.trials]
        there = [f for f in found if f is not None]
        if len(there) == len(found):
            used.append(configuration)
            rows.append((_mean([-n for n, _ in there]), _mean([loss for _, loss in there])))
    low_norm = np.array([r[0] for r in rows])
    high_loss = np.array([r[1] for r in rows])
    sign = (percentile(low_norm) + percentile(high_loss)) / 2 if rows else np.empty(0)
    return used, {"sign": sign, "low_norm": low_norm, "high_loss": high_loss}


def seed_signals(
    configuration: Configuration, budget: int, fraction: float
) -> list[tuple[float, float]] | None:
    """(low norm, high loss) of each seed, None if one has no features."""
    found = [_early(t, budget * fraction, False) for t in configuration.trials]
    there = [(-n, loss) for f in found if f is not None for n, loss in (f,)]
    return there if len(there) == len(found) else None


def covariates(configurations: Sequence[Configuration], *, batch: bool = True) -> np.ndarray:
    """Log rate, its square, and with `batch` log batch and their product, centred; (n, 4 or 2)."""
    rate = np.log10([c.rate for c in configurations])
    rate -= rate.mean()
    columns = [rate, rate**2]
    if batch:
        size = np.log10([c.batch for c in configurations])
        size -= size.mean()
        columns += [size, rate * size]
    return np.column_stack(columns)


def early_held_out(configuration: Configuration, samples: float) -> float:
    """Mean eval loss over seeds at the first evaluation at or past `samples`; inf if not finite."""
    values: list[float] = []
    for trial in configuration.trials:
        at = min((s for s in trial.held_out if s >= samples), default=None)
        values.append(math.inf if at is None or math.isnan(v := trial.held_out[at]) else v)
    return _mean(values)


def base_losses(sweeps: Sequence[Sweep]) -> dict[str, float]:
    """Eval loss that stands for the base model's, by sweep: after the first step of the lowest
    rate at the largest batch, of all sweeps of the same family."""
    nearest: dict[str, tuple[float, float]] = {}
    for sweep in sweeps:
        largest = [c for c in sweep.stacked if c.crossed and c.batch == sweep.batches[-1]]
        lowest = min(largest, key=lambda c: c.rate)
        found = (lowest.rate, early_held_out(lowest, 1))
        nearest[sweep.family] = min(nearest.get(sweep.family, found), found)
    return {s.name: nearest[s.family][1] for s in sweeps}


def diverged(configuration: Configuration, base: float) -> bool:
    """A run was not finite, or the mean final eval loss is above the base model's."""
    return configuration.failed or -configuration.outcome("loss") > base


def underfit(sweep: Sweep, bases: Mapping[str, float]) -> set[str]:
    """Names of the configurations whose progress on eval loss is within noise."""
    base = bases[sweep.name]
    sound = [c for c in sweep.configurations if not diverged(c, base)]
    differences = seed_differences(sound)
    # The median of |d| for d ~ N(0, 2σ²) is 0.954 σ.
    noise = median(abs(d) for d in differences) / 0.954 if differences else 0.0
    least = max(0.02, 2 * noise)
    return {c.name for c in sound if base + c.outcome("loss") < least}


def _early(trial: Trial, samples: float, every: bool) -> tuple[float, float] | None:
    """(mean log norm, mean loss) of the steps that end within `samples`, without warmup."""
    if (samples, every) not in trial.early:
        trial.early[samples, every] = _early_of(trial, samples, every)
    return trial.early[samples, every]


def _early_of(trial: Trial, samples: float, every: bool) -> tuple[float, float] | None:
    steps = [s for s in trial.steps if s.samples <= samples + 1e-9]
    if not every:
        found = early_features(steps)
        return None if found is None else (found["log_norm_mean"], found["loss_mean"])
    return _means(steps or list(trial.steps[:1]))


def _means(steps: Sequence[StepRecord]) -> tuple[float, float] | None:
    top = max((s.learning_rate for s in steps), default=0.0)
    used = [s for s in steps if s.learning_rate >= 0.5 * top]
    if not used or any(s.loss is None or s.grad_norm is None for s in used):
        return None
    return (
        _mean([math.log(max(s.grad_norm or 0.0, 1e-30)) for s in used]),
        _mean([s.loss or 0.0 for s in used]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
