"""Ranks that outlived their driver are found by what they train, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator.raytune import leftovers
from orchestrator.raytune.leftovers import Note
from orchestrator.supervision.processes import process_start


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def leave(folder: Path, process: subprocess.Popen[bytes], trial: str, **of: int) -> None:
    """A note as a rank in another process would have left it."""
    started = of.pop("started", process_start(process.pid) or 0)
    note = Note(process.pid, started, trial, of["attempt"], of["epoch"])
    (folder / f"{process.pid}.json").write_text(json.dumps(asdict(note)))


def test_a_rank_of_an_earlier_attempt_is_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    leave(tmp_path, sleeper, "abc-4", attempt=1, epoch=1)
    (ended,) = leftovers.note("abc-4", attempt=2, epoch=1, folder=tmp_path)
    assert ended.pid == sleeper.pid
    assert sleeper.wait(120) == -9
    assert [path.stem for path in tmp_path.glob("*.json")] == [str(os.getpid())]


def test_a_rank_of_an_earlier_driver_of_the_sweep_is_ended(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    leave(tmp_path, sleeper, "abc-9", attempt=3, epoch=1)
    assert len(leftovers.note("abc-4", attempt=1, epoch=2, folder=tmp_path)) == 1
    assert sleeper.wait(120) == -9


@pytest.mark.parametrize(
    ("trial", "attempt", "epoch"),
    [("abc-9", 3, 2), ("other-4", 1, 1), ("abc-4", 2, 2)],
    ids=["another trial of this driver", "another sweep", "a rank of this very attempt"],
)
def test_others_are_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], trial: str, attempt: int, epoch: int
) -> None:
    leave(tmp_path, sleeper, trial, attempt=attempt, epoch=epoch)
    assert leftovers.note("abc-4", attempt=2, epoch=2, folder=tmp_path) == []
    assert sleeper.poll() is None


def test_a_process_id_that_is_used_again_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    leave(tmp_path, sleeper, "abc-4", attempt=1, epoch=1, started=1)
    assert leftovers.note("abc-4", attempt=2, epoch=1, folder=tmp_path) == []
    assert sleeper.poll() is None


def test_what_trains_nothing_any_more_leaves_no_note(tmp_path: Path) -> None:
    leftovers.note("abc-4", attempt=1, epoch=1, folder=tmp_path)
    leftovers.clear(tmp_path)
    assert list(tmp_path.glob("*.json")) == []
