import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.report import Comparison, Measure

WARM = Measure("warm", "Turnaround", "from one trial to the next", target=15.0)


def comparison(ours: list[float], peer: list[float]) -> Comparison:
    return Comparison(
        name="Between trials",
        quick=True,
        measures=(WARM,),
        peer_name="Peer",
        ours={"warm": ours},
        peer={"warm": peer},
        work={"ranks": 2, "parameters": 1_286_240},
    )


def test_the_ratio_compares_medians_and_is_above_one_where_we_are_faster() -> None:
    assert comparison([1.0, 2.0, 90.0], [40.0]).ratio(WARM) == 20.0


def test_a_result_file_keeps_all_samples_the_setting_and_the_ratio(tmp_path: Path) -> None:
    file = tmp_path / "results" / "turnaround.json"
    comparison([0.25, 0.75], [30.0]).write(file)
    result = json.loads(file.read_text())
    assert result["ours"] == {"warm_s": 0.5, "warm_samples_s": [0.25, 0.75]}
    assert result["peer"] == {"name": "Peer", "warm_s": 30.0, "warm_samples_s": [30.0]}
    assert result["ratio"] == {"warm": 60.0}
    assert result["quick"] is True
    assert result["work"]["parameters"] == 1_286_240
    assert set(result["versions"]) == {"python", "torch", "ray", "deepspeed", "transformers"}
    assert result["machine"]["cpus"] >= 1


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "turnaround.json"
    comparison([1.0], [2.0]).write(file)
    old = file.read_text()
    with pytest.raises(KeyError):
        Comparison("x", True, (WARM,), "Peer", {}, {}, {}).write(file)
    assert file.read_text() == old


@pytest.mark.parametrize(
    ("ours", "shown"), [([0.5], "60.0×"), ([15.0], "2.0×"), ([0.25, 0.75], "0.25 to 0.75")]
)
def test_the_table_fits_a_terminal_and_shows_ratio_and_range(ours: list[float], shown: str) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    comparison(ours, [30.0]).show(console)
    text = console.export_text()
    assert shown in text
    assert "≥ 15×" in text
    assert "1,286,240 parameters" in text
