"""The export of recorded sweeps: what goes in comes out, complete sweeps only, always the same."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.recording.export import export
from benchmarks.recording.grid import RecordedSweep
from tests.fixtures.recorded_sweeps import Truth, write_recording

SWEEP = RecordedSweep("small", "demo-knowledge", rates=(1e-3, 1e-1), middle=0, vary=False)
RUN = "small/r0.001-b120-linear-w0.03-stacked/1"
FILE = "r0.001-b120-linear-w0.03-stacked-s1.json.gz"
FAILED = "small/r0.1-b120-linear-w0.03-stacked/0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_recording(tmp_path / "recording", [SWEEP], Truth(limit=1.5))
    return tmp_path / "recording"


def raw(folder: Path, name: str = FILE) -> dict[str, Any]:
    with gzip.open(folder / "runs" / "small" / name, "rt") as file:
        return json.load(file)


def test_every_step_and_evaluation_is_there_with_its_numbers(folder: Path, tmp_path: Path) -> None:
    assert export(folder, tmp_path / "out", sweeps=[SWEEP]) == ["small"]
    recorded = raw(folder)
    points = pd.read_parquet(tmp_path / "out" / "points.parquet")
    points = points[points.run == RUN]
    steps = points[points.learning_rate.notna()]
    for column in ("step", "samples", "loss", "grad_norm", "learning_rate"):
        expected = [s[column] for s in recorded["steps"]]
        assert steps[column].tolist() == pytest.approx(expected, rel=1e-6)
    assert steps["seconds"].tolist() == pytest.approx(
        [s["seconds"] for s in recorded["steps"]], abs=1e-4
    )
    evaluations = pd.read_parquet(tmp_path / "out" / "evaluations.parquet")
    evaluations = evaluations[evaluations.run == RUN]
    assert evaluations.loss.tolist() == pytest.approx([e["loss"] for e in recorded["evaluations"]])
    assert evaluations["exact_match"].tolist()[-1] == pytest.approx(
        recorded["evaluations"][-1]["exact_match"]
    )


def test_held_out_loss_stands_after_its_step_as_a_mean_over_tokens(
    folder: Path, tmp_path: Path
) -> None:
    recorded = raw(folder)
    last = next(e for e in recorded["evaluations"] if e["split"] == "eval" and e["samples"] == 1920)
    recorded["evaluations"].append({**last, "dataset": "other", "loss": 9.0, "tokens": 3000})
    with gzip.open(folder / "runs" / "small" / FILE, "wt") as file:
        json.dump(recorded, file)
    export(folder, tmp_path / "out", sweeps=[SWEEP])
    points = pd.read_parquet(tmp_path / "out" / "points.parquet")
    points = points[points.run == RUN]
    assert points.step.is_monotonic_increasing
    end = points.iloc[-1]
    assert end.metric == pytest.approx((last["loss"] * 1000 + 9.0 * 3000) / 4000)
    assert end.samples == 1920
    assert points.metric.notna().sum() == 6
    assert points.loc[points.metric.notna(), "loss"].isna().all()


def test_a_run_says_what_was_set_in_the_form_that_is_replayed(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out", sweeps=[SWEEP])
    runs = pd.read_parquet(tmp_path / "out" / "runs.parquet").set_index("run")
    assert len(runs) == 12
    run = runs.loc[RUN]
    assert (run.workload, run.study, run.metric, run["mode"]) == ("small", 1, "eval/loss", "min")
    assert run.trial == run.config == "r0.001-b120-linear-w0.03-stacked"
    assert (run.family, run.budget, run.status) == ("demo-knowledge-full", 1920, "completed")
    assert json.loads(run.hparams) == {
        "learning_rate": 0.001,
        "effective_batch_size": 120,
        "schedule": "linear",
        "warmup_ratio": 0.03,
        "strategy": "stacked",
        "method": "full",
    }


def test_a_run_that_lost_finiteness_is_there_with_what_it_has(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out", sweeps=[SWEEP])
    runs = pd.read_parquet(tmp_path / "out" / "runs.parquet").set_index("run")
    assert (runs.loc[FAILED].status, runs.loc[FAILED].failure) == ("failed", "diverged")
    points = pd.read_parquet(tmp_path / "out" / "points.parquet")
    steps = points[(points.run == FAILED) & points.learning_rate.notna()]
    assert len(steps) == 8
    assert steps.loss.isna().tolist() == [False] * 7 + [True]


def test_a_sweep_that_lacks_a_run_waits_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    (folder / "runs" / "small" / FILE).unlink()
    with pytest.raises(SystemExit, match="--partial"):
        export(folder, tmp_path / "out", sweeps=[SWEEP])
    assert not (tmp_path / "out").exists()
    assert export(folder, tmp_path / "out", partial=True, sweeps=[SWEEP]) == ["small"]
    assert len(pd.read_parquet(tmp_path / "out" / "runs.parquet")) == 11
    assert "| small | 11 of 12 |" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_the_same_runs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export(folder, tmp_path / name, sweeps=[SWEEP])
    files = sorted(p.name for p in (tmp_path / "first").iterdir())
    assert files == ["README.md", "evaluations.parquet", "points.parquet", "runs.parquet"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
