"""A part of the conformance run: few cases an operation (`python -m tests.conformance` has all)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.refused import NAMED
from tests.fixtures.bad_bytes import BYTES
from tests.fixtures.bad_places import PLACES
from tests.fixtures.bad_requests import bad_requests

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_every_operation_answers_as_the_document_says(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.conformance", "--quick", "--only", "generated"),
            *("--token", "admin", "--phases", "examples,fuzzing", "--out", str(results)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert results.exists(), done.stderr[-3000:]
    found = json.loads(results.read_text())
    assert found["runs"][0]["failures"] == []
    assert found["server_errors"] == 0
    assert found["cases"] >= 200


def test_every_kind_of_bad_input_is_among_them() -> None:
    known = [*(bad.name for bad in bad_requests()), *PLACES, *BYTES]
    assert len(known) == len(set(known)), "two are called the same"
    assert [name for names in NAMED.values() for name in names if name not in known] == []
    assert len(known) >= 400
