"""Recorded sweeps as the findings need them: configurations with outcomes, one value a seed.

Reads the three Parquet files that `benchmarks.recording export` writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.recording.grid import SEEDS, SWEEPS
from benchmarks.recording.sources import ROOT, sources
from trainer.metrics import StepRecord, finite

OUTCOMES = ("loss", "exact_match", "retention")
"""What a run is judged by. All are turned so that higher is better."""
WORST = -math.inf

Row = dict[str, Any]


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
    early: dict[tuple[float, bool], tuple[float, float] | None] = field(
        default_factory=dict[tuple[float, bool], "tuple[float, float] | None"],
        repr=False,
        compare=False,
    )
    """Early features that were computed already, see `features`."""


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
    """One base model, data set and parameterisation. `budget` is in samples."""

    name: str
    family: str
    budget: int
    configurations: tuple[Configuration, ...]
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
    runs = _grouped(curves / "runs.parquet", "workload")
    points = _grouped(curves / "points.parquet", "run")
    evaluations = _grouped(curves / "evaluations.parquet", "run")
    planned = _planned()
    sweeps: list[Sweep] = []
    incomplete: dict[str, str] = {}
    for name in [*planned, *(n for n in runs if n not in planned)]:
        rows = runs.get(name, [])
        if len(rows) < planned.get(name, 0):
            incomplete[name] = f"{len(rows)} of {planned[name]} runs" if rows else "not there"
            continue
        sweeps.append(_sweep(name, rows, points, evaluations))
    return Loaded(sweeps, incomplete)


def _grouped(path: Path, column: str) -> dict[str, list[Row]]:
    """The rows of a file by one column, in the order in which they come."""
    groups: dict[str, list[Row]] = {}
    for row in pq.read_table(path).to_pylist():
        groups.setdefault(row[column], []).append(row)
    return groups


def _planned() -> dict[str, int]:
    """Number of runs of each planned sweep."""
    from_source = sources(ROOT / ".winnow" / "recording")
    return {s.name: len(s.recipes(from_source[s.source])) * len(SEEDS) for s in SWEEPS}


def _sweep(
    name: str,
    rows: list[Row],
    points: dict[str, list[Row]],
    evaluations: dict[str, list[Row]],
) -> Sweep:
    by_config: dict[str, list[Row]] = {}
    for row in rows:
        by_config.setdefault(row["config"], []).append(row)
    configurations: list[Configuration] = []
    for config, group in by_config.items():
        hparams = json.loads(group[0]["hparams"])
        configurations.append(
            Configuration(
                config,
                float(hparams["learning_rate"]),
                int(hparams["effective_batch_size"]),
                str(hparams["schedule"]),
                float(hparams["warmup_ratio"]),
                str(hparams["strategy"]),
                tuple(
                    _trial(run, points.get(run["run"], []), evaluations.get(run["run"], []))
                    for run in sorted(group, key=lambda r: r["study"])
                ),
            )
        )
    return Sweep(name, rows[0]["family"], rows[0]["budget"], tuple(configurations))


def _trial(run: Row, points: list[Row], evaluations: list[Row]) -> Trial:
    steps = tuple(
        StepRecord(
            step=r["step"],
            samples=r["samples"],
            tokens=0,
            loss=finite(r["loss"]),
            grad_norm=finite(r["grad_norm"]),
            learning_rate=r["learning_rate"],
            seconds=r["seconds"],
            memory=0,
            batch_samples=0,
        )
        for r in points
        if not math.isnan(r["learning_rate"])
    )
    held_out = {r["samples"]: r["metric"] for r in points if math.isnan(r["learning_rate"])}

    def mean(split: str, column: str, at: int | None = None) -> float:
        """Over the sets of a split, by tokens or by answers, at the end unless told; NaN if one
        is missing."""
        found = [
            (e[column], e["generated" if column == "exact_match" else "tokens"])
            for e in evaluations
            if e["split"] == split
            and (e["samples"] >= run["budget"] if at is None else e["samples"] == at)
        ]
        weight = sum(n for _, n in found)
        return sum(v * n for v, n in found) / weight if weight else math.nan

    outcomes = {
        **{("loss", split): -mean(split, "loss") for split in ("eval", "test")},
        **{("exact_match", split): mean(split, "exact_match") for split in ("eval", "test")},
        ("retention", "general"): mean("general", "loss", at=0) - mean("general", "loss"),
    }
    failed = run["status"] != "completed" or not math.isfinite(outcomes["loss", "eval"])
    return Trial(
        run["study"],
        steps,
        held_out,
        {k: WORST if failed or not math.isfinite(v) else v for k, v in outcomes.items()},
        failed,
    )


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
