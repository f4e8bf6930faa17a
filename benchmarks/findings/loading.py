"""Recorded sweeps as the findings need them: configurations with outcomes, one value a seed.

Reads the three Parquet files that `benchmarks.recording export` writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from benchmarks.recording.grid import SEEDS, SWEEPS
from benchmarks.recording.sources import ROOT, sources
from trainer.metrics import StepRecord

OUTCOMES = ("loss", "exact_match", "retention")
"""What a run is judged by. All are turned so that higher is better."""
WORST = -math.inf


@dataclass(frozen=True)
class Trial:
    """One run. `held_out` maps samples to eval loss in nats, NaN where it was not finite.

    `outcomes` maps (outcome, split) to a value, higher is better, `WORST` if the run's numbers
    stopped being finite. Retention has the split `general`.
    """

    seed: int
    steps: tuple[StepRecord, ...]
    held_out: dict[int, float]
    outcomes: dict[tuple[str, str], float]
    failed: bool


@dataclass(frozen=True)
class Configuration:
    """What a trial sets, and its trials, one a seed."""

    name: str
    rate: float
    batch: int
    schedule: str
    warmup: float
    strategy: str
    trials: tuple[Trial, ...]

    def outcome(self, name: str, split: str = "eval") -> float:
        """Mean over seeds; `WORST` if one failed."""
        split = "general" if name == "retention" else split
        return sum(t.outcomes[name, split] for t in self.trials) / len(self.trials)

    @property
    def failed(self) -> bool:
        return any(t.failed for t in self.trials)

    @property
    def crossed(self) -> bool:
        """Part of the full crossing of rate and batch, with the usual warmup and schedule."""
        return self.schedule == "linear" and self.warmup == 0.03


@dataclass(frozen=True)
class Sweep:
    """One base model, data set and parameterisation."""

    name: str
    family: str
    method: str
    budget: int
    configurations: tuple[Configuration, ...]
    general: float = math.nan
    """The base model's general loss."""
    batches: tuple[int, ...] = field(init=False)
    rates: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", tuple(sorted({c.batch for c in self.configurations})))
        object.__setattr__(self, "rates", tuple(sorted({c.rate for c in self.configurations})))

    @property
    def stacked(self) -> list[Configuration]:
        return [c for c in self.configurations if c.strategy == "stacked"]


@dataclass(frozen=True)
class Loaded:
    """The sweeps with all their runs, in the order of the plan; others and how far they are."""

    sweeps: list[Sweep]
    incomplete: dict[str, str]


def load(curves: Path) -> Loaded:
    """Read `runs`, `points` and `evaluations` in `curves`.

    Raises:
        SystemExit: a file is missing.
    """
    for name in ("runs", "points", "evaluations"):
        if not (curves / f"{name}.parquet").exists():
            raise SystemExit(
                f"{curves / name}.parquet is missing; make it with `python -m benchmarks.recording "
                f"export --out {curves}`"
            )
    runs = pd.read_parquet(curves / "runs.parquet")
    points = dict(iter(pd.read_parquet(curves / "points.parquet").groupby("run", observed=True)))
    evaluations = dict(
        iter(pd.read_parquet(curves / "evaluations.parquet").groupby("run", observed=True))
    )
    planned = _planned()
    sweeps: list[Sweep] = []
    incomplete: dict[str, str] = {}
    there: dict[Any, pd.DataFrame] = dict(iter(runs.groupby("workload", sort=False)))
    for name in [*planned, *(n for n in there if n not in planned)]:
        rows = there.get(name)
        expected = planned.get(name)
        if rows is None or (expected is not None and len(rows) < expected):
            there_are = "not there" if rows is None else f"{len(rows)} of {expected} runs"
            incomplete[name] = there_are
            continue
        sweeps.append(_sweep(name, rows, points, evaluations))
    return Loaded(sweeps, incomplete)


def _planned() -> dict[str, int]:
    """Number of runs of each planned sweep."""
    from_source = sources(ROOT / ".winnow" / "recording")
    return {s.name: len(s.recipes(from_source[s.source])) * len(SEEDS) for s in SWEEPS}


def _sweep(
    name: str,
    rows: pd.DataFrame,
    points: dict[Any, pd.DataFrame],
    evaluations: dict[Any, pd.DataFrame],
) -> Sweep:
    configurations: list[Configuration] = []
    general: list[float] = []
    for config, group in rows.groupby("config", sort=False):
        hparams = json.loads(group.hparams.iloc[0])
        trials: list[Trial] = []
        for run in cast("Iterable[Any]", group.sort_values("study").itertuples()):
            found = evaluations.get(run.run)
            start = _start(found)
            general.append(start)
            trials.append(_trial(run, points.get(run.run), found, start))
        configurations.append(
            Configuration(
                str(config),
                float(hparams["learning_rate"]),
                int(hparams["effective_batch_size"]),
                str(hparams["schedule"]),
                float(hparams["warmup_ratio"]),
                str(hparams["strategy"]),
                tuple(trials),
            )
        )
    first = rows.iloc[0]
    return Sweep(
        name,
        str(first.family),
        str(json.loads(first.hparams)["method"]),
        int(first.budget),
        tuple(configurations),
        float(np.nanmean(general)),
    )


def _trial(
    run: Any, points: pd.DataFrame | None, evaluations: pd.DataFrame | None, start: float
) -> Trial:
    steps: tuple[StepRecord, ...] = ()
    held_out: dict[int, float] = {}
    if points is not None:
        taken = points[points.learning_rate.notna()]
        steps = tuple(
            StepRecord(
                step=int(r.step),
                samples=int(r.samples),
                tokens=0,
                loss=_finite(r.loss),
                grad_norm=_finite(r.grad_norm),
                learning_rate=float(r.learning_rate),
                seconds=float(r.seconds),
                memory=0,
                batch_samples=0,
            )
            for r in cast("Iterable[Any]", taken.itertuples())
        )
        measured = points[points.learning_rate.isna()]
        held_out = dict(
            zip(measured.samples.astype(int), measured.metric.astype(float), strict=True)
        )
    outcomes = {
        (name, split): _final(evaluations, run.budget, split, column)
        for name, column in (("loss", "loss"), ("exact_match", "exact_match"))
        for split in ("eval", "test")
    }
    end = _final(evaluations, run.budget, "general", "loss")
    outcomes = {k: -v if k[0] == "loss" else v for k, v in outcomes.items()}
    outcomes["retention", "general"] = start - end
    failed = run.status != "completed" or not math.isfinite(outcomes["loss", "eval"])
    return Trial(
        int(run.study),
        steps,
        held_out,
        {k: WORST if failed or not math.isfinite(v) else v for k, v in outcomes.items()},
        failed,
    )


def _final(evaluations: pd.DataFrame | None, budget: int, split: str, column: str) -> float:
    """Mean over the sets of a split at the end, by tokens or by answers; NaN if one is missing."""
    if evaluations is None:
        return math.nan
    rows = evaluations[(evaluations.split == split) & (evaluations.samples >= budget)]
    weights = rows.generated if column == "exact_match" else rows.tokens
    if not len(rows) or not weights.sum():
        return math.nan
    return float((rows[column] * weights).sum(skipna=False) / weights.sum())


def _start(evaluations: pd.DataFrame | None) -> float:
    """General loss of the model as it was given."""
    if evaluations is None:
        return math.nan
    rows = evaluations[(evaluations.split == "general") & (evaluations.samples == 0)]
    return float((rows.loss * rows.tokens).sum() / rows.tokens.sum()) if len(rows) else math.nan


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def seed_deviation(
    configurations: Sequence[Configuration], outcome: str = "loss", split: str = "eval"
) -> float:
    """Pooled standard deviation between the two seeds of configurations, √(Σd²/2m); NaN if none
    ran with two."""
    d = seed_differences(configurations, outcome, split)
    return math.sqrt(sum(v * v for v in d) / (2 * len(d))) if d else math.nan


def seed_differences(
    configurations: Sequence[Configuration], outcome: str = "loss", split: str = "eval"
) -> list[float]:
    """Difference of the first two seeds of each configuration of which neither failed."""
    key = (outcome, "general" if outcome == "retention" else split)
    return [
        c.trials[0].outcomes[key] - c.trials[1].outcomes[key]
        for c in configurations
        if len(c.trials) > 1 and not c.failed
    ]
