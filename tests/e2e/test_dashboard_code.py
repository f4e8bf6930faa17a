"""The dashboard's own code: its unit tests, and that it knows the same types as the API."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import BaseModel

from winnow import types

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "dashboard"


def test_its_unit_tests_pass() -> None:
    own = ROOT / ".venv" / "bin" / "npm"
    npm = shutil.which("npm") or (str(own) if own.exists() else None)
    assert npm is not None, "npm is missing; `make setup` brings it along"
    assert (DASHBOARD / "node_modules").is_dir(), "run `make dashboard` first"
    path = f"{Path(npm).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [npm, "run", "--silent", "test"],
        cwd=DASHBOARD,
        env={**os.environ, "PATH": path, "CI": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "model",
    [
        types.Scores,
        types.Trial,
        types.SweepSummary,
        types.Spending,
        types.Command,
        types.Sweep,
        types.Curve,
        types.EvaluationPoint,
        types.Metrics,
        types.Decision,
        types.Event,
        types.FieldError,
        types.Problem,
        types.Health,
    ],
    ids=lambda m: m.__name__,
)
def test_it_knows_the_fields_that_the_api_sends(model: type[BaseModel]) -> None:
    source = (DASHBOARD / "src" / "api" / "types.ts").read_text()
    found = re.search(rf"export interface {model.__name__} {{(.*?)\n}}", source, re.DOTALL)
    assert found is not None, f"types.ts lacks {model.__name__}"
    fields = re.findall(r"^\s+(\w+)\??:", found[1], re.MULTILINE)
    assert fields == list(model.model_fields)
