"""Sweeps in the replay format: two Parquet files, `runs` and `points`, perhaps `evaluations`.

Runs that say their `budget` are taken as they are; one whose last metric comes before it has
failed. Others, such as AlgoPerf's, end when they reach a target, when time is up, or when they
break. They are cut to one budget a workload, at a quantile of the runs' last steps:

- `common` (10th percentile): nearly all runs are compared at one point, early in the long ones;
- `median`: half of the runs are shorter. What a shorter run's objective is depends on why it ended:
  if its last metric is in the better half of all runs', it had reached its target, and the last
  metric stands; if it ended before 90 % of the budget with a worse one, it has failed.

The metric is measured at the run's own cadence: each measurement is a held-out evaluation, of which
the simulator shows a scheduler the first at or after each of its rungs.

Where time was recorded, the `steady` pace of a run is the median duration of a step over all runs
of the workload with its batch size, and likewise for evaluations: the machine may have done other
work beside some of them, which is no property of a configuration. The `recorded` pace is each
step's own. Where no time was recorded, all runs of a workload go at one pace, and an evaluation
takes `EVALUATION` of a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pandas as pd

from benchmarks.early.sweeps import Run, Sweep, trial_info
from orchestrator.schedulers.simulate import Recorded
from trainer.metrics import Evaluation, StepRecord, finite

Budget = Literal["common", "median"]
Pace = Literal["steady", "recorded"]
QUANTILES: Mapping[Budget, float] = {"common": 0.1, "median": 0.5}
EVALUATION = 0.005
"""Of a full run's time, where evaluations carry none."""
FULL_RUN_SECONDS = 100.0
"""Length of a full run where no time was recorded."""
VARIANTS = (
    *("embed", "layernorm", "resnet", "vit", "conformer", "deepspeech", "model", "tanh", "gelu"),
    *("glu", "silu", "post", "attn", "attention", "bn", "batchnorm", "instancenorm"),
    *("temperature", "stephead", "space", "normaug", "noadd"),
)
"""Words that say how a workload differs from others on the same data."""
FRAMEWORKS = ("jax", "pytorch")


def load_sweeps(
    runs: str | Path,
    points: str | Path,
    *,
    group: str | None = None,
    budget: Budget = "median",
    pace: Pace = "steady",
    only: Sequence[str] = (),
) -> list[Sweep]:
    """All workloads of the files as sweeps, by name.

    `group` names the column of `runs` that holds the family; without it that is `family`, or else
    the workload's name before its first variant word. `only` keeps workloads whose names start with
    one of these. `evaluations.parquet` beside `points` is read if it is there.

    Raises ValueError for columns that are missing.
    """
    frame = pd.read_parquet(runs)
    rows = pd.read_parquet(points)
    _require(frame, runs, ("run", "workload", "study", "metric", "mode", "config", "hparams"))
    _require(rows, points, ("run", "step", "grad_norm", "loss", "metric"))
    if group is not None:
        _require(frame, runs, (group,))
    evaluations = Path(points).with_name("evaluations.parquet")
    extra = _by_run(pd.read_parquet(evaluations)) if evaluations.exists() else {}
    by_run = _by_run(rows)
    sweeps = []
    for name, members in frame.groupby("workload", sort=True):
        if only and not str(name).startswith(tuple(only)):
            continue
        records = [r for r in members.to_dict("records") if str(r["run"]) in by_run]
        if not records:
            continue
        sweep = _sweep(str(name), records, by_run, extra, group, budget, pace)
        if sum(v is not None for v in sweep.truth.values()) >= 2:
            sweeps.append(sweep)
    return sweeps


def family_of(workload: str) -> str:
    """A workload's name before its first variant word: `ogbg_gelu_jax` is of `ogbg`."""
    kept = []
    for word in workload.split("_"):
        if kept and (word in VARIANTS or word in FRAMEWORKS):
            break
        kept.append(word)
    return "_".join(kept)


@dataclass(frozen=True)
class _Curve:
    """A run's rows as arrays. `metric` is negated where more is better."""

    samples: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    learning_rate: np.ndarray | None
    seconds: np.ndarray | None
    every_step: bool
    """Whether samples were recorded, at each step; else steps were logged now and then."""
    metric_samples: np.ndarray
    metric: np.ndarray

    @property
    def last(self) -> int:
        ends = [a[-1] for a in (self.samples, self.metric_samples) if len(a)]
        return int(max(ends, default=0))


def _sweep(
    name: str,
    records: Sequence[Mapping[Any, Any]],
    by_run: Mapping[str, pd.DataFrame],
    extra: Mapping[str, pd.DataFrame],
    group: str | None,
    budget: Budget,
    pace: Pace,
) -> Sweep:
    curves = {str(r["run"]): _curve(by_run[str(r["run"])], str(r["mode"])) for r in records}
    if pace == "steady":
        batches = {str(r["run"]): _hparams(r).get("effective_batch_size") for r in records}
        curves = _at_a_steady_pace(curves, batches)
        extra = _steady_evaluations({i: extra[i] for i in curves if i in extra})
    declared = [r["budget"] for r in records if _is_number(r.get("budget"))]
    if len(declared) == len(records):
        total = int(max(declared))
        values = {i: _at_the_end(c, total) for i, c in curves.items()}
        notes: dict[str, Any] = {"budget": "declared"}
    else:
        total, values, notes = _cut(curves, budget)
    configs: dict[str, list[Run]] = {}
    for record in records:
        run = str(record["run"])
        recorded, test = _recorded(record, curves[run], extra.get(run), total, values[run])
        config = f"{record.get('submission', '')}/{record['config']}".lstrip("/")
        configs.setdefault(config, []).append(Run(run, str(record["study"]), recorded, test))
    family = records[0].get(group or "family")
    if not isinstance(family, str):
        family = family_of(name) if family is None or family != family else str(family)
    notes |= {
        "configurations": len(configs),
        "runs": len(records),
        "failed": sum(v is None for v in values.values()),
    }
    return Sweep(name, family, configs, total, notes)


def _curve(rows: pd.DataFrame, mode: str) -> _Curve:
    every_step = "samples" in rows and not rows["samples"].isna().to_numpy().any()
    if every_step:
        samples = rows["samples"].to_numpy(np.int64)
    else:  # Steps of logs that count from 0 end one sample later than they are called.
        samples = rows["step"].to_numpy(np.int64)
        samples = samples + (1 if samples.min() == 0 else 0)
    order = np.argsort(samples, kind="stable")
    samples, rows = samples[order], rows.iloc[order]
    metric = rows["metric"].to_numpy(np.float64)
    loss = rows["loss"].to_numpy(np.float64)
    norm = rows["grad_norm"].to_numpy(np.float64)
    measured = ~np.isnan(metric)
    step = ~(np.isnan(loss) & np.isnan(norm)) | ~measured
    if "seconds" in rows:  # A row without a duration is an evaluation whose metric wasn't finite.
        step &= rows["seconds"].notna().to_numpy()
    return _Curve(
        samples=samples[step],
        loss=loss[step],
        grad_norm=norm[step],
        learning_rate=_column(rows, "learning_rate", step),
        seconds=_column(rows, "seconds", step),
        every_step=every_step,
        metric_samples=samples[measured],
        metric=-metric[measured] if mode == "max" else metric[measured],
    )


def _column(rows: pd.DataFrame, name: str, where: np.ndarray) -> np.ndarray | None:
    return rows[name].to_numpy(np.float64)[where] if name in rows else None


def _hparams(record: Mapping[Any, Any]) -> dict[str, Any]:
    hparams = record["hparams"]
    return json.loads(hparams) if isinstance(hparams, str) else {}


def _at_a_steady_pace(
    curves: Mapping[str, _Curve], batches: Mapping[str, object]
) -> dict[str, _Curve]:
    """Every step at the median duration of its batch size."""
    durations: dict[object, list[np.ndarray]] = {}
    for i, curve in curves.items():
        if curve.seconds is not None and batches[i] is not None:
            durations.setdefault(batches[i], []).append(curve.seconds)
    typical = {b: float(np.median(np.concatenate(d))) for b, d in durations.items()}
    return {
        i: replace(c, seconds=np.full_like(c.seconds, typical[batches[i]]))
        if c.seconds is not None and batches[i] in typical
        else c
        for i, c in curves.items()
    }


def _steady_evaluations(extra: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Every evaluation at the median duration of its data set, the last ones apart: they answer
    samples too."""
    if not extra or any("seconds" not in rows for rows in extra.values()):
        return dict(extra)
    marked = {
        i: rows.assign(last=rows["samples"] == rows["samples"].max()) for i, rows in extra.items()
    }
    together = pd.concat(marked.values())
    kinds = ["split", "dataset", "last"]
    typical = together.groupby(kinds, observed=True)["seconds"].median().to_dict()
    return {
        i: rows.assign(
            seconds=[
                typical[kind]
                for kind in zip(rows["split"], rows["dataset"], rows["last"], strict=True)
            ]
        )
        for i, rows in marked.items()
    }


def _at_the_end(curve: _Curve, total: int) -> float | None:
    """The last metric, if it was measured at the end of the budget."""
    if not len(curve.metric) or curve.metric_samples[-1] < 0.98 * total:
        return None
    return finite(curve.metric[-1])


def _cut(
    curves: Mapping[str, _Curve], budget: Budget
) -> tuple[int, dict[str, float | None], dict[str, Any]]:
    """A common budget, and each run's objective at it. See the module's docstring."""
    lasts = [c.last for c in curves.values()]
    total = int(np.quantile(lasts, QUANTILES[budget], method="higher"))
    found: dict[str, float | None] = {}
    for i, curve in curves.items():
        n = int(np.searchsorted(curve.metric_samples, total, side="right"))
        found[i] = finite(curve.metric[n - 1]) if n else None
    middle = median([v for v in found.values() if v is not None] or [0.0])
    short = {i for i, c in curves.items() if c.last < 0.9 * total}
    for i in short:
        value = found[i]
        if value is not None and value > middle:
            found[i] = None
    notes = {
        "budget": f"{budget}: {QUANTILES[budget]:.0%} quantile of last steps",
        "budget_of_median_run": round(total / median(lasts), 3),
        "ended_at_target": sum(found[i] is not None for i in short),
    }
    return total, found, notes


def _recorded(
    record: Mapping[Any, Any],
    curve: _Curve,
    extra: pd.DataFrame | None,
    total: int,
    value: float | None,
) -> tuple[Recorded, float | None]:
    n = int(np.searchsorted(curve.samples, total, side="right"))
    steps = _steps(curve, n, total)
    last = steps[-1].samples if steps else 0
    if extra is not None:
        evaluations, test = _evaluations(extra, last)
    else:
        name = str(record["metric"])
        evaluations, test = _measured(curve, name, total, last), None
    info = trial_info(_hparams(record), total)
    return Recorded(info, tuple(steps), tuple(evaluations), value), test


def _steps(curve: _Curve, n: int, total: int) -> list[StepRecord]:
    samples = curve.samples[:n].tolist()
    before = [0, *samples[:-1]]
    pace = FULL_RUN_SECONDS / total
    seconds = (
        curve.seconds[:n].tolist()
        if curve.seconds is not None
        else [(b - a) * pace for a, b in zip(before, samples, strict=True)]
    )
    rates = curve.learning_rate[:n].tolist() if curve.learning_rate is not None else [0.0] * n
    norms = curve.grad_norm[:n].tolist()
    recorded = zip(samples, before, curve.loss[:n].tolist(), norms, rates, seconds, strict=True)
    return [
        StepRecord(
            step=i,
            samples=seen,
            tokens=seen,
            loss=finite(loss),
            grad_norm=finite(norm),
            learning_rate=rate,
            seconds=took,
            memory=0,
            batch_samples=seen - earlier if curve.every_step else 1,
        )
        for i, (seen, earlier, loss, norm, rate, took) in enumerate(recorded, start=1)
    ]


def _measured(curve: _Curve, name: str, total: int, last: int) -> list[Evaluation]:
    """The metric at its own cadence as held-out evaluations, the last one at the end."""
    n = int(np.searchsorted(curve.metric_samples, total, side="right"))
    took = EVALUATION * FULL_RUN_SECONDS if curve.seconds is None else 0.0
    pairs = list(zip(curve.metric_samples[:n].tolist(), curve.metric[:n].tolist(), strict=True))
    return [
        Evaluation(
            step=seen,
            samples=max(seen, last) if i == n - 1 else seen,
            split="eval",
            dataset=name,
            loss=finite(value),
            tokens=1,
            seconds=took,
        )
        for i, (seen, value) in enumerate(pairs)
    ]


def _evaluations(rows: pd.DataFrame, last: int) -> tuple[list[Evaluation], float | None]:
    """The recorded evaluations, and the token-weighted test loss at the end."""
    found = [
        Evaluation(
            step=int(r.get("step", 0)),
            samples=int(r["samples"]),
            split=r["split"],
            dataset=str(r["dataset"]),
            loss=_finite_or_none(r["loss"]),
            tokens=int(r["tokens"]),
            exact_match=_finite_or_none(r.get("exact_match")),
            seconds=float(r.get("seconds") or 0.0),
        )
        for r in rows.sort_values("samples", kind="stable").to_dict("records")
    ]
    tests = [e for e in found if e.split == "test" and e.samples >= last]
    tokens = sum(e.tokens for e in tests)
    if not tokens or any(e.loss is None for e in tests):
        return found, None
    return found, math.fsum((e.loss or 0.0) * e.tokens for e in tests) / tokens


def _finite_or_none(value: Any) -> float | None:
    return None if value is None else finite(value)


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(float(value))


def _by_run(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(run): rows for run, rows in frame.groupby("run", sort=False)}


def _require(frame: pd.DataFrame, path: str | Path, columns: Sequence[str]) -> None:
    missing = [c for c in columns if c not in frame]
    if missing:
        raise ValueError(
            f"{path}: column {missing[0]!r} is missing; the replay format has {', '.join(columns)}"
        )
