"""A whole server with real workers: its processes are killed mid-sweep, and the sweep finishes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.environment import without_winnow
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from winnow.client import Client
from winnow.runs import Attempt
from winnow.types import SweepState, Trial, TrialState

pytestmark = [pytest.mark.ray, pytest.mark.deepspeed, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Server:
    """A `winnow up` and its client."""

    home: Path
    client: Client
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def up(home: Path) -> Iterator[Server]:
    """`winnow up` with its home folder, on two logical CPUs; ended by SIGTERM."""
    env = without_winnow()
    env |= {"WINNOW_HOME": str(home), "WINNOW_CHECKPOINT_SECONDS": "1"}
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("winnow")), "up", "--cpus", "2"],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            ready = home / "server.json"
            wait_for(lambda: ready.exists() or process.poll() is not None, 180)
            assert process.poll() is None, (home / "up.log").read_text()
            where = json.loads(ready.read_text())
            with Client(where["url"], (home / "token").read_text().strip()) as client:
                yield Server(home, client, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests here; the last of them ends it."""
    with up(tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sweep")
    make_tiny_model(folder / "model")
    write_jsonl(folder / "train.jsonl", sums(256))
    write_jsonl(folder / "eval.jsonl", sums(16, seed=1))
    return {
        "name": "recovery",
        "model": str(folder / "model"),
        "data": {
            "train": [{"path": str(folder / "train.jsonl")}],
            "eval": [{"path": str(folder / "eval.jsonl")}],
        },
        "space": {"learning_rate": {"choice": [1e-4, 1e-3, 1e-2, 1e-1]}},
        "training": {"effective_batch_size": 2, "max_samples": 1200, "exact_match": False},
        "search": {"sampler": "grid"},
        "scheduler": {"name": "asha"},
        "resources": {"max_concurrent": 2},
    }


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """What `condition` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"not within {seconds} s")


def processes(home: Path, *words: str) -> list[int]:
    """Processes of this server whose command line has all the words."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode().split("\0")
            env = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if all(w in line for w in words) and f"WINNOW_HOME={home}" in env:
            found.append(int(folder.name))
    return found


def trained_steps(client: Client, sweep_id: str) -> int:
    return sum(t.step for t in client.trials(sweep_id))


def attempts(client: Client, sweep_id: str) -> list[Attempt]:
    return [a for t in client.trials(sweep_id) for a in client.attempts(t.id)]


def database(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{home / 'winnow.db'}?mode=ro", uri=True)


def trial_processes(home: Path) -> list[int]:
    """Processes of Ray workers that train a trial of this server."""
    return [pid for pid in processes(home) if b"_Rank" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_sweep_survives_kills_of_a_rank_its_driver_and_the_orchestrator(
    server: Server, sweep: dict[str, Any]
) -> None:
    home, client = server.home, server.client
    sweep_id = client.submit(sweep).id
    wait_for(lambda: trained_steps(client, sweep_id) > 50, 240)

    os.kill(trial_processes(home)[0], signal.SIGKILL)
    lost = wait_for(
        lambda: [a for a in attempts(client, sweep_id) if a.reason == "infrastructure"], 240
    )
    assert len(lost) == 1
    before = trained_steps(client, sweep_id)
    wait_for(lambda: trained_steps(client, sweep_id) > before, 240)

    (driver,) = processes(home, "orchestrator", "drive")
    os.kill(driver, signal.SIGKILL)
    wait_for(lambda: set(processes(home, "orchestrator", "drive")) - {driver}, 240)
    before = trained_steps(client, sweep_id)
    wait_for(lambda: trained_steps(client, sweep_id) > before, 240)

    found = processes(home, "-m", "orchestrator")
    orchestrator = next(pid for pid in found if pid not in processes(home, "drive"))
    os.kill(orchestrator, signal.SIGKILL)
    wait_for(lambda: client.sweep(sweep_id).state.ended, 300)

    ended = client.sweep(sweep_id)
    trials = client.trials(sweep_id)
    assert ended.state is SweepState.COMPLETED
    assert ended.summary.best_trial is not None
    assert all(t.state.ended for t in trials)
    with database(home) as rows:
        ends = rows.execute(
            "SELECT trial_id, count(*) FROM events WHERE sweep_id = ? AND type = 'trial.state' "
            "AND json_extract(data, '$.to') IN ('COMPLETED','PRUNED','FAILED','CANCELED') "
            "GROUP BY trial_id",
            (sweep_id,),
        ).fetchall()
        assert sorted(ends) == sorted((t.id, 1) for t in trials)
        duplicates = rows.execute(
            "SELECT trial_id, step FROM metrics WHERE NOT superseded "
            "GROUP BY trial_id, step HAVING count(*) > 1"
        ).fetchall()
        assert duplicates == []
        gaps = rows.execute("SELECT max(id) - count(*) FROM events").fetchone()[0]
        assert gaps == 0
    for curve in client.metrics(sweep_id).curves:
        trial = next(t for t in trials if t.id == curve.trial_id)
        assert curve.total_points == trial.step


def test_a_trial_is_stopped_by_a_user_and_a_canceled_sweep_frees_its_workers(
    server: Server, sweep: dict[str, Any]
) -> None:
    home, client = server.home, server.client
    slow = {"scheduler": {"name": "none"}, "resources": {"max_concurrent": 1}}
    sweep_id = client.submit(sweep | slow).id

    def running() -> Trial | None:
        found = [t for t in client.trials(sweep_id) if t.state is TrialState.RUNNING]
        return found[0] if found and found[0].step > 5 else None

    first = wait_for(running, 240)
    client.stop(first.id)
    stopped = wait_for(lambda: (t := client.trial(first.id)).state.ended and t, 240)
    assert (stopped.state, stopped.reason) == (TrialState.CANCELED, "user")
    wait_for(lambda: (t := running()) and t.id != first.id, 240)  # the sweep goes on

    client.cancel(sweep_id)
    wait_for(lambda: client.sweep(sweep_id).state is SweepState.CANCELED, 240)
    assert all(t.state.ended for t in client.trials(sweep_id))
    wait_for(lambda: not processes(home, "orchestrator", "drive"), 240)
    wait_for(lambda: not trial_processes(home), 240)


def test_a_server_that_was_stopped_goes_on_with_its_sweep(
    server: Server, sweep: dict[str, Any]
) -> None:
    home = server.home
    sweep_id = server.client.submit(sweep | {"resources": {"max_concurrent": 1}}).id
    wait_for(lambda: trained_steps(server.client, sweep_id) > 50, 240)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(120)
    assert processes(home, "orchestrator") == []
    with database(home) as rows:
        states = dict(
            rows.execute(
                "SELECT id, state FROM trials WHERE kind = 'search' AND sweep_id = ?", (sweep_id,)
            )
        )
        leases = rows.execute("SELECT count(lease_expires) FROM sweeps").fetchone()[0]
    assert "RUNNING" not in states.values()
    assert leases == 0
    with up(home) as again:
        wait_for(lambda: again.client.sweep(sweep_id).state.ended, 300)
        assert again.client.sweep(sweep_id).state is SweepState.COMPLETED
        assert all(t.state.ended for t in again.client.trials(sweep_id))
    interrupted = [trial_id for trial_id, state in states.items() if state == "PENDING"]
    assert interrupted
    with database(home) as rows:
        # One that waited has no second attempt; one that had trained goes on from a checkpoint,
        # unless it had trained so little that writing one would have taken longer.
        later = rows.execute(
            "SELECT now.resumed_from, before.message FROM attempts AS now JOIN attempts AS before "
            "ON before.trial_id = now.trial_id AND before.attempt = now.attempt - 1 "
            "JOIN trials ON trials.id = now.trial_id WHERE trials.sweep_id = ?",
            (sweep_id,),
        ).fetchall()
        assert later
        assert all(
            resumed_from is not None or "no checkpoint was written" in message
            for resumed_from, message in later
        )
