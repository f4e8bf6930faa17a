"""docs/guide-api.md: its commands run, and its table of refusals is whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from orchestrator.store import Store
from tests.integration.api.conftest import LiveServer, good_sweep
from winnow.types import SweepState

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "guide-api.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the guide's commands need curl")
def test_the_commands_of_the_guide_run(live: LiveServer, live_store: Store, tmp_path: Path) -> None:
    (commands,) = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(good_sweep()))
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=os.environ | {"WINNOW_URL": live.url, "WINNOW_TOKEN": live.token},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (sweep,) = live_store.list_sweeps().items
    assert sweep.state is SweepState.CANCELED
    assert pq.read_table(tmp_path / "metrics.parquet").num_rows == 0


def test_every_type_of_problem_is_in_the_guides_table() -> None:
    raised: set[str] = set()
    for file in (ROOT / "api").rglob("*.py"):
        raised |= set(
            re.findall(r'ProblemError\(\s*\d{3},\s*"([a-z-]+)"', file.read_text(encoding="utf-8"))
        )
    table = GUIDE[GUIDE.index("## Refusals") : GUIDE.index("## From Python")]
    told = set(re.findall(r"`([a-z-]+)`", table))
    assert raised - told == set()
