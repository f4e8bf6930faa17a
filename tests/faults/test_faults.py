"""The quick set: every family that needs no Ray, in one process that forks a case at a time.

Kills on a real Ray are in `tests/integration/test_recovery.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import report
from tests.faults.families import FAMILIES
from tests.faults.isolate import Result

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1200)

QUICK = [family.name for family in FAMILIES if not family.ray]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {name: [] for name in QUICK}
    for result in quick(tmp_path_factory.mktemp("faults")):
        found[result.id.split("/")[0]].append(result)
    return found


@pytest.mark.postgres
@pytest.mark.parametrize("family", QUICK)
def test_winnow_keeps_its_promises_whatever_is_done_to_it(
    family: str, results: dict[str, list[Result]]
) -> None:
    assert results[family]
    assert violations(results[family]) == {}


@pytest.mark.postgres
def test_at_least_forty_crash_points_are_tried(results: dict[str, list[Result]]) -> None:
    points = {r.id.split(",")[0] for r in results["crash points"] if r.id.endswith("sqlite")}
    assert len(points) >= 40


def quick(folder: Path) -> list[Result]:
    """Results of the quick set."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--quick", "--resume", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1150,
    )
    print(done.stdout)
    return report.read(folder / "results.jsonl")


def violations(results: list[Result]) -> dict[str, tuple[str, ...]]:
    return {r.id: r.violations for r in results if r.violations}
