"""The command line against a server that listens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from orchestrator.store import Store
from tests.integration.api.conftest import LiveServer, good_sweep
from tests.integration.store.reports import Running, evaluation, steps, stop
from trainer.metrics import Batch
from winnow.cli.main import app
from winnow.types import SweepState, TrialState


@pytest.fixture
def env(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    env = {"WINNOW_URL": live.url, "WINNOW_TOKEN": live.token, "COLUMNS": "160"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(good_sweep()))
    return path


def winnow(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def finished(store: Store, sweep_id: str) -> Running:
    """A sweep that was run: one trial won, one was stopped."""
    lease = store.acquire_lease(sweep_id, "a driver", 60)
    assert lease is not None
    run = Running(store, sweep_id, lease)
    winner, attempt = run.started(0)
    store.record(lease, winner, attempt, steps(1, 10))
    store.record(lease, winner, attempt, Batch("running", evaluations=(evaluation(10, 1.25),)))
    store.end_attempt(lease, winner, attempt, TrialState.COMPLETED, value=1.25)
    loser, attempt = run.started(1)
    store.decide(lease, stop(loser), acted=True)
    store.end_attempt(lease, loser, attempt, TrialState.PRUNED, "asha", stop(loser).reason)
    store.end_sweep(lease, SweepState.COMPLETED)
    return run


def test_a_sweep_is_submitted_listed_and_canceled(env: dict[str, str], sweep_file: Path) -> None:
    assert "no sweep yet" in winnow("ls").output
    sweep = json.loads(winnow("submit", str(sweep_file), "--json").stdout)
    listed = winnow("ls").output
    assert sweep["id"] in listed
    assert "queued" in listed
    assert [s["id"] for s in json.loads(winnow("ls", "--json").stdout)] == [sweep["id"]]
    assert "canceled before it began" in winnow("cancel", sweep["id"]).output


def test_a_finished_sweep_is_shown_with_the_winner_and_the_reasons(
    env: dict[str, str], live_store: Store, sweep_file: Path
) -> None:
    sweep_id = json.loads(winnow("submit", str(sweep_file), "--json").stdout)["id"]
    finished(live_store, sweep_id)

    shown = winnow("show", sweep_id).output
    assert "Half of the trials are better here." in shown
    assert "1 of 2 trials were stopped" in shown
    everything = json.loads(winnow("show", sweep_id, "--json").stdout)
    assert [t["state"] for t in everything["trials"]] == ["COMPLETED", "PRUNED"]
    assert everything["decisions"][0]["evidence"] == {"rank": 7, "peers": 8}

    assert "1.25" in winnow("best", sweep_id).output
    assert json.loads(winnow("best", sweep_id, "--json").stdout)["value"] == 1.25


def test_watching_without_a_terminal_writes_lines_and_ends_with_the_report(
    env: dict[str, str], live_store: Store, sweep_file: Path
) -> None:
    sweep_id = json.loads(winnow("submit", str(sweep_file), "--json").stdout)["id"]
    finished(live_store, sweep_id)
    output = winnow("watch", sweep_id).output
    assert "trial 1 stopped: Half of the trials are better here." in output
    assert "trial 0 completed: learning_rate=1.00e-03 | step 10/" in output
    assert "Best trial" in output


def test_one_trial_is_stopped(env: dict[str, str], live_store: Store, sweep_file: Path) -> None:
    sweep_id = json.loads(winnow("submit", str(sweep_file), "--json").stdout)["id"]
    lease = live_store.acquire_lease(sweep_id, "a driver", 60)
    assert lease is not None
    trial_id = Running(live_store, sweep_id, lease).trial(7)
    assert f"stop trial 7 of {sweep_id}: asked" in winnow("stop", trial_id).output
    assert live_store.pending_commands(sweep_id)[0].trial_id == trial_id


def test_an_error_is_one_paragraph_that_names_the_fields(
    env: dict[str, str], sweep_file: Path
) -> None:
    bad = good_sweep() | {"typo": 1}
    bad["space"]["lernrate"] = 1  # type: ignore[index]
    sweep_file.write_text(yaml.safe_dump(bad))
    command = [sys.executable, "-m", "winnow.cli.main", "submit", str(sweep_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "2 things have to change" in done.stderr
    assert "  typo: unknown key 'typo'" in done.stderr
    assert "  space.lernrate: unknown key 'lernrate'; did you mean 'learning_rate'?" in done.stderr


def test_mistakes_in_a_command_have_the_same_status(env: dict[str, str]) -> None:
    assert winnow("submit").exit_code == 2
    assert winnow("nonsense").exit_code == 2
    assert winnow("--version").output.startswith("winnow ")
