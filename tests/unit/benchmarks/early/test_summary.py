"""What all rows together say, on rows made by hand, and the command from files to JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks import early_termination
from benchmarks.early import summary
from benchmarks.early.evaluation import Contender, Row
from benchmarks.early.frontier import tuned_on_others

ROW = Row(
    contender="dynamics",
    scheduler="dynamics",
    sweep="s",
    family="f",
    draw=0,
    trials=12,
    compute=0.4,
    training=0.4,
    wall=1.0,
    selected="a",
    regret=0.1,
    kept=(False, True, True),
    kept_run=(True, True, True),
    random_regret=0.3,
    random_kept=(0.2, 0.5, 0.6),
    random_kept_run=(0.2, 0.5, 0.6),
    lost=False,
    gone={"dynamics": 3},
    forecasts=(),
    risk_left=None,
    guard=None,
)


def test_figures_stand_beside_random_at_matched_compute() -> None:
    rows = [ROW, replace(ROW, draw=1, regret=0.3, compute=0.6)]
    found = summary.figures(rows)
    assert found["saved"]["mean"] == 0.5
    assert found["regret"]["mean"] == 0.2
    assert found["minus_random"]["regret"]["mean"] == -0.1
    assert found["minus_random"]["kept"]["1"]["mean"] == 0.5
    assert found["ended_by_reason_a_sweep"] == {"dynamics": 3.0}


def test_control_compares_equal_draws_only() -> None:
    own = [ROW, replace(ROW, draw=1, regret=0.0)]
    exchanged = [replace(ROW, draw=1, regret=0.5)]
    assert summary.control(own, exchanged)["regret"]["mean"] == -0.5


def test_risk_is_kept_if_the_losses_allow_it() -> None:
    contender = Contender.of("dynamics", risk=0.05)
    fine = [replace(ROW, draw=k, lost=k < 2) for k in range(40)]
    assert summary.risk(contender, fine)["kept"]
    broken = [replace(ROW, draw=k, lost=k < 8) for k in range(40)]
    found = summary.risk(contender, broken)
    assert (found["lost"], found["of"], found["kept"]) == (8, 40, False)
    assert found["families"]["f"]["rate"] == 0.2


def test_calibration_tells_knowledge_from_the_base_rate() -> None:
    knowing = [(0.1, 0.9, True), (0.1, 0.1, False), (0.1, 0.1, False), (0.5, 0.9, True)]
    found = summary.calibration([replace(ROW, forecasts=knowing)])
    assert found is not None
    assert found["brier"] == pytest.approx(0.01)
    assert found["brier_of_base_rate"] == pytest.approx(0.25)
    assert found["by_fraction"]["to 1/8"]["forecasts"] == 3
    assert summary.calibration([ROW]) is None


def test_audit_coverage_counts_sweeps_that_have_an_interval() -> None:
    rows = [
        replace(ROW, audit={"interval": [0.0, 0.2]}, false_stops=0.1),
        replace(ROW, audit={"interval": [0.0, 0.2]}, false_stops=0.3),
        replace(ROW, audit={"note": "not enough audits (3)"}, false_stops=0.3),
    ]
    found = summary.audit_coverage(rows)
    assert (found["with_an_interval"], found["covered"], found["rate"]) == (2, 1, 0.5)


def test_guard_by_family_and_none_for_a_rule_without_one() -> None:
    rows = [
        replace(ROW, guard="fired", family="noise"),
        replace(ROW, guard="open", family="noise"),
        replace(ROW, guard="open", family="clear"),
    ]
    assert summary.guard(rows) == {"clear": 0.0, "noise": 0.5}
    assert summary.guard([ROW]) is None


def test_a_setting_is_chosen_without_the_family_it_is_judged_on() -> None:
    """`bold` keeps the best in family x only, `shy` everywhere: x is judged with `shy`, because y
    recommends it, and y with `bold`, because x does."""
    rows = [
        replace(ROW, contender=name, family=family, sweep=family, compute=spent, kept_run=kept)
        for name, spent, keeps in (("bold", 0.2, "x"), ("shy", 0.7, "xy"))
        for family in "xy"
        for kept in [(family in keeps,) * 3]
    ]
    found = tuned_on_others(rows)["dynamics"]
    assert found["settings"] == {"x": "shy", "y": "bold"}
    assert found["saved"]["mean"] == pytest.approx((0.3 + 0.8) / 2)
    assert found["kept_run"]["mean"] == 0.5


@pytest.fixture
def files(tmp_path):
    """Two workloads of twelve configurations with two seeds, whose early ranks are final."""
    rng = np.random.default_rng(0)
    runs, points = [], []
    for workload in ("one_jax", "two_jax"):
        for config in range(12):
            for seed in range(2):
                run = f"{workload}-{config}-{seed}"
                end = 1 + 0.1 * config + 0.005 * rng.normal()
                runs.append(
                    {
                        "run": run,
                        "workload": workload,
                        "study": seed,
                        "metric": "loss",
                        "mode": "min",
                        "config": f"c{config}",
                        "hparams": json.dumps({"learning_rate": 10.0**-config}),
                        "budget": 100,
                    }
                )
                points += [
                    {
                        "run": run,
                        "step": step,
                        "samples": step,
                        "grad_norm": 1.0,
                        "loss": end + 1 / step,
                        "metric": end + 1 / step if step % 10 == 0 and step < 100 else np.nan,
                    }
                    for step in range(1, 101)
                ]
                points.append({"run": run, "step": 100, "samples": 100, "metric": end})
    paths = tmp_path / "runs.parquet", tmp_path / "points.parquet"
    pd.DataFrame(runs).to_parquet(paths[0])
    pd.DataFrame(points).to_parquet(paths[1])
    return paths


def test_the_command_from_files_to_json_and_picture(files, tmp_path) -> None:
    out = tmp_path / "early_termination.small.json"
    arguments = f"--runs {files[0]} --points {files[1]} --quick --draws 2 --out {out}"
    early_termination.main([*arguments.split(), "--only", "asha", "--plots", str(tmp_path)])
    result = json.loads(out.read_text("utf-8"))
    (found,) = result["results"].values()
    assert result["peer"]["name"] == "asha"
    assert result["peer"]["kept_run"] == 1
    assert result["peer"]["saved"] > 0.3
    assert result["peer"]["regret_minus_random"] < 0
    assert found["contenders"]["none"]["saved"]["mean"] == 0
    assert set(found["sweeps"]) == {"one_jax", "two_jax"}
    assert found["sweeps"]["one_jax"]["family"] == "one"
    assert found["frontier"]["sweeps"] == 2
    picture = tmp_path / "early-frontier-small.png"
    assert 0 < picture.stat().st_size < 80_000


def test_the_command_wants_files_or_a_number(capsys) -> None:
    with pytest.raises(SystemExit):
        early_termination.main(["--out", "x.json"])
    assert "give --runs and --points, or --synthetic N" in capsys.readouterr().err
