"""Reading the replay format, from Parquet files written here."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pandas as pd
import pytest

from benchmarks.early import load_sweeps
from benchmarks.early.loading import family_of

NAN = math.nan


def run_row(run: str, config: str, study: str = "s0", **more) -> dict:
    return {
        "run": run,
        "workload": "ogbg_gelu_jax",
        "submission": "adam",
        "study": study,
        "trial": "t",
        "metric": "validation/map",
        "mode": "max",
        "config": config,
        "hparams": json.dumps({"learning_rate": 0.1}),
        **more,
    }


def curve(run: str, last: int, final: float, every: int = 10) -> list[dict]:
    """A log that counts steps from 0: loss and norm at each, the metric at every tenth."""
    rows = []
    for step in range(last + 1):
        rows.append({"run": run, "step": step, "grad_norm": 1.0, "loss": 2.0, "metric": NAN})
        if step % every == 0 and step:
            metric = final * step / last
            rows.append({"run": run, "step": step, "grad_norm": NAN, "loss": NAN, "metric": metric})
    return rows


@pytest.fixture
def written(tmp_path):
    def write(runs: list[dict], points: list[dict], evaluations: list[dict] | None = None):
        paths = tmp_path / "runs.parquet", tmp_path / "points.parquet"
        pd.DataFrame(runs).to_parquet(paths[0])
        pd.DataFrame(points).to_parquet(paths[1])
        if evaluations is not None:
            pd.DataFrame(evaluations).to_parquet(tmp_path / "evaluations.parquet")
        return paths

    return write


LENGTHS = {"r0": 100, "r1": 100, "r2": 100, "r3": 40, "r4": 30}
FINALS = {"r0": 0.5, "r1": 0.3, "r2": 0.4, "r3": 0.6, "r4": 0.1}


@pytest.fixture
def logs(written):
    """Three runs of 100 steps; r3 stops early at its target, r4 breaks early."""
    runs = [run_row(r, f"c{k}") for k, r in enumerate(LENGTHS)]
    points = [p for r, last in LENGTHS.items() for p in curve(r, last, FINALS[r])]
    return written(runs, points)


def values(sweep) -> dict[str, float | None]:
    return {c.split("/")[1]: runs[0].recorded.value for c, runs in sweep.configs.items()}


def test_more_is_better_is_turned_round_and_families_end_before_a_variant_word(logs) -> None:
    (sweep,) = load_sweeps(*logs)
    assert sweep.family == "ogbg"
    assert values(sweep)["c0"] == pytest.approx(-0.5)
    losses = [e.loss or 0.0 for e in sweep.configs["adam/c0"][0].recorded.evaluations]
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert all(e.split == "eval" for e in sweep.configs["adam/c0"][0].recorded.evaluations)


def test_the_median_budget_tells_reaching_the_target_from_breaking(logs) -> None:
    (sweep,) = load_sweeps(*logs, budget="median")
    assert sweep.budget == 101
    assert values(sweep)["c3"] == pytest.approx(-0.6)
    assert values(sweep)["c4"] is None
    assert sweep.notes["ended_at_target"] == 1
    assert sweep.notes["failed"] == 1


def test_the_common_budget_compares_all_runs_at_one_early_point(logs) -> None:
    (sweep,) = load_sweeps(*logs, budget="common")
    assert sweep.budget == 41
    found = values(sweep)
    assert found["c0"] == pytest.approx(-0.5 * 0.4)
    assert found["c3"] == pytest.approx(-0.6)
    recorded = sweep.configs["adam/c0"][0].recorded
    assert recorded.steps[-1].samples == 41
    assert recorded.info.total_samples == 41


def test_without_recorded_time_all_runs_go_at_one_pace(logs) -> None:
    (sweep,) = load_sweeps(*logs)
    whole, short = (sweep.configs[f"adam/{c}"][0].recorded for c in ("c0", "c3"))
    assert sum(s.seconds for s in whole.steps) == pytest.approx(100.0)
    assert sum(s.seconds for s in short.steps) == pytest.approx(100.0 * 41 / 101)


def test_a_workload_that_never_measured_anything_is_left_out(written) -> None:
    runs = [run_row("r0", "c0"), run_row("r1", "c1")]
    points = [p for r in ("r0", "r1") for p in curve(r, 5, 0.5)]
    assert load_sweeps(*written(runs, points)) == []


def test_a_group_column_is_the_family(written) -> None:
    runs = [run_row(f"r{k}", f"c{k}", optimizer="adam") for k in range(2)]
    paths = written(runs, [p for k in range(2) for p in curve(f"r{k}", 20, 0.5)])
    assert load_sweeps(*paths, group="optimizer")[0].family == "adam"
    with pytest.raises(ValueError, match="column 'nothing' is missing"):
        load_sweeps(*paths, group="nothing")


def test_a_file_of_another_kind_is_refused_by_the_missing_column(written) -> None:
    paths = written([{"run": "r"}], [{"run": "r"}])
    with pytest.raises(ValueError, match=r"runs\.parquet: column 'workload' is missing"):
        load_sweeps(*paths)


@pytest.fixture
def recorded(written):
    """Two runs of a fine-tuning sweep with a declared budget, time and evaluations; the second
    broke after two of its four steps."""
    runs = [run_row(f"r{k}", f"c{k}", mode="min", budget=40, family="demo-full") for k in range(3)]
    points, evaluations = [], []
    for k, steps in ((0, 4), (1, 2), (2, 4)):
        for step in range(1, steps + 1):
            at = {"run": f"r{k}", "step": step, "samples": 10 * step}
            broken = k == 1 and step == 2
            number = NAN if broken else 1.0
            trained = {"grad_norm": number, "loss": number, "learning_rate": 0.1, "seconds": 0.5}
            points.append({**at, **trained, "metric": NAN})
            if step in (2, 4) and not broken:
                blank = dict.fromkeys(trained, NAN)
                points.append({**at, **blank, "metric": 2.0 - 0.1 * step + k})
                for split, dataset, tokens, loss in (
                    ("eval", "main", 10, 2.0 - 0.1 * step + k),
                    ("test", "x", 10, 3.0 + k),
                    ("test", "y", 30, 5.0 + k),
                ):
                    evaluations.append(
                        {
                            **at,
                            "split": split,
                            "dataset": dataset,
                            "loss": loss,
                            "tokens": tokens,
                            "exact_match": NAN,
                            "seconds": 0.25,
                        }
                    )
    return written(runs, points, evaluations)


def test_recorded_sweeps_keep_their_budget_time_and_evaluations(recorded) -> None:
    (sweep,) = load_sweeps(*recorded)
    assert (sweep.budget, sweep.family, sweep.notes["budget"]) == (40, "demo-full", "declared")
    run = sweep.configs["adam/c0"][0]
    assert run.recorded.value == pytest.approx(1.6)
    assert run.test == pytest.approx((10 * 3.0 + 30 * 5.0) / 40)
    assert [s.seconds for s in run.recorded.steps] == [0.5] * 4
    assert [s.batch_samples for s in run.recorded.steps] == [10] * 4
    assert [e.seconds for e in run.recorded.evaluations if e.split == "eval"] == [0.25, 0.25]


def test_a_slow_hour_of_the_machine_is_no_property_of_a_run(recorded) -> None:
    points = pd.read_parquet(recorded[1])
    slow = (points["run"] == "r2") & points["seconds"].notna()
    points.loc[slow, "seconds"] = 5.0
    points.to_parquet(recorded[1])
    runs = pd.read_parquet(recorded[0])
    runs["hparams"] = json.dumps({"effective_batch_size": 10})
    runs.to_parquet(recorded[0])
    steady, own = load_sweeps(*recorded)[0], load_sweeps(*recorded, pace="recorded")[0]
    for sweep, seconds in ((steady, 0.5), (own, 5.0)):
        steps = sweep.configs["adam/c2"][0].recorded.steps
        assert {s.seconds for s in steps} == {seconds}


def test_a_run_that_broke_has_no_value_and_its_last_step_no_loss(recorded) -> None:
    (sweep,) = load_sweeps(*recorded)
    broken = sweep.configs["adam/c1"][0].recorded
    assert broken.value is None
    assert [s.loss for s in broken.steps] == [1.0, None]


@pytest.mark.parametrize(
    ("workload", "family"),
    [
        ("criteo1tb_embed_init_pytorch", "criteo1tb"),
        ("fastmri_model_size_jax", "fastmri"),
        ("wmt_jax", "wmt"),
        ("librispeech_conformer_gelu_jax", "librispeech"),
        ("demo-full", "demo-full"),
    ],
)
def test_families(workload, family) -> None:
    assert family_of(workload) == family
