"""Changes to what runs, from Python and on the command line, against a server that listens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import winnow
from orchestrator.store import Store
from tests.integration.api.conftest import LiveServer, good_sweep
from tests.integration.store.reports import Running
from winnow.cli.main import app
from winnow.errors import ApiError, WinnowError
from winnow.types import Quota, TrialState

PARAMS = {"learning_rate": 1e-4, "effective_batch_size": 8}


@pytest.fixture
def client(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[winnow.Client]:
    for name, value in {"URL": live.url, "TOKEN": live.token}.items():
        monkeypatch.setenv(f"WINNOW_{name}", value)
    monkeypatch.setenv("COLUMNS", "160")
    with winnow.Client() as client:
        yield client


@pytest.fixture
def run(client: winnow.Client, live_store: Store) -> Running:
    """A sweep with a driver and three trials."""
    sweep_id = client.submit(good_sweep()).id
    lease = live_store.acquire_lease(sweep_id, "a driver", 60)
    assert lease is not None
    for number in (1, 2, 3):
        live_store.add_trial(lease, number, "search", PARAMS, {}, 100)
    return Running(live_store, sweep_id, lease)


def on_the_command_line(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit | WinnowError):
        raise result.exception
    return result


def asked(run: Running) -> list[tuple[str, str | None]]:
    """What waits to be carried out: kind, and the number of the trial."""
    waiting = run.store.pending_commands(run.sweep_id)
    return [(c.kind, c.trial_id and c.trial_id.rpartition("-")[2]) for c in waiting]


# --- Python ---------------------------------------------------------------------------------------


def test_one_method_pauses_a_trial_or_a_sweep(client: winnow.Client, run: Running) -> None:
    assert client.pause(f"{run.sweep_id}-2").trial_id == f"{run.sweep_id}-2"
    assert client.pause(run.sweep_id).trial_id is None
    assert asked(run) == [("pause", "2"), ("pause", None)]


def test_every_change_is_a_command_that_is_listed(client: winnow.Client, run: Running) -> None:
    sweep, trial = run.sweep_id, f"{run.sweep_id}-1"
    commands = [
        client.stop(trial),
        client.pin(trial),
        client.unpin(trial),
        client.clone(trial, {"learning_rate": 2e-4}),
        *client.add(sweep, [PARAMS, PARAMS | {"learning_rate": 3e-4}]),
        *client.add(sweep, PARAMS),
        client.extend(sweep, 4),
        client.narrow(sweep, {"learning_rate": {"log_uniform": [1e-5, 1e-4]}}),
        client.set(sweep, priority=3, max_concurrent=None, budget={"hours": 5}),
        client.cancel(sweep),
    ]
    assert client.commands(sweep) == commands
    kinds = "stop pin unpin clone add add add extend narrow set cancel"
    assert [c.kind for c in commands] == kinds.split()
    run.store.end_trial(run.lease, trial, TrialState.CANCELED, "user", "Stopped.")
    assert client.revive(trial).kind == "revive"
    with pytest.raises(ApiError, match="not PAUSED"):
        client.resume(trial)


def test_waiting_ends_with_the_result_or_says_that_nobody_answers(
    client: winnow.Client, run: Running
) -> None:
    command = client.pin(f"{run.sweep_id}-1")
    with pytest.raises(WinnowError, match="Is the orchestrator running"):
        client.wait(command, timeout=0.1)
    threading.Timer(0.3, run.store.finish_command, (command.id, "pinned")).start()
    assert client.wait(command).result == "pinned"


def test_projects_are_made_and_changed(client: winnow.Client) -> None:
    made = client.create_project("nlp", Quota(gpus=4), weight=2)
    assert client.project("nlp") == made
    changed = client.change_project("nlp", Quota(trials=8))
    assert (changed.quota, changed.weight) == (Quota(trials=8), 1.0)
    assert [p.id for p in client.projects()] == ["default", "nlp"]


# --- the command line -----------------------------------------------------------------------------


def test_several_trials_at_once_and_one_that_is_refused_keeps_none_back(run: Running) -> None:
    trials = [f"{run.sweep_id}-{n}" for n in (1, 2, 3)]
    run.store.end_trial(run.lease, trials[1], TrialState.CANCELED, "user", "Stopped.")
    result = on_the_command_line("pause", *trials)
    assert result.exit_code == 2
    assert asked(run) == [("pause", "1"), ("pause", "3")]
    assert f"pause trial 3 of {run.sweep_id}: asked" in result.output
    assert "has ended: it is CANCELED" in result.stderr
    assert on_the_command_line("revive", trials[1]).exit_code == 0


def test_a_command_is_waited_for_and_told_with_its_result(run: Running) -> None:
    def carry_out() -> None:
        while not (waiting := run.store.pending_commands(run.sweep_id)):
            time.sleep(0.05)
        run.store.finish_command(waiting[0].id, "paused")

    driver = threading.Thread(target=carry_out)
    driver.start()
    result = on_the_command_line("pause", run.sweep_id, "--wait")
    driver.join()
    assert result.output == f"pause sweep {run.sweep_id}: paused\n"


def test_values_are_written_as_name_and_value(run: Running, tmp_path: Path) -> None:
    trial = f"{run.sweep_id}-1"
    told = on_the_command_line("clone", trial, "learning_rate=2e-4", "schedule=cosine").output
    assert told.startswith(f"clone trial 1 of {run.sweep_id} with learning_rate 2.00e-04, schedule")
    file = tmp_path / "more.yaml"
    file.write_text("- {learning_rate: 1e-4, effective_batch_size: 8}\n" * 2)
    on_the_command_line("add", run.sweep_id, "--file", str(file))
    on_the_command_line("add", run.sweep_id, "learning_rate=1e-4", "effective_batch_size=16")
    sent = [c.payload for c in run.store.pending_commands(run.sweep_id)]
    assert sent == [
        {"params": {"learning_rate": 2e-4, "schedule": "cosine"}},
        {"params": PARAMS},
        {"params": PARAMS},
        {"params": {"learning_rate": 1e-4, "effective_batch_size": 16}},
    ]
    assert "write name=value" in on_the_command_line("clone", trial, "2e-4").output
    assert on_the_command_line("add", run.sweep_id).exit_code == 2


def test_ranges_keep_their_kind_and_lists_are_choices(run: Running) -> None:
    line = ("narrow", run.sweep_id, "learning_rate=1e-5:1e-4", "effective_batch_size=16")
    told = on_the_command_line(*line).output
    assert "to learning_rate 1.00e-05–1.00e-04, effective_batch_size 16" in told
    (command,) = run.store.pending_commands(run.sweep_id)
    assert command.payload["space"] == {
        "learning_rate": {"log_uniform": [1e-5, 1e-4]},
        "effective_batch_size": {"fixed": 16},
    }
    no_range = on_the_command_line("narrow", run.sweep_id, "effective_batch_size=8:16")
    assert "has no range" in no_range.output


def test_share_and_budget_are_set_and_lifted(run: Running) -> None:
    options = ("--concurrency", "none", "--priority", "5", "--budget-hours", "10")
    told = on_the_command_line("set", run.sweep_id, *options, "--budget-trials", "none").output
    assert told.startswith(f"change sweep {run.sweep_id}: max_concurrent none, priority 5")
    (command,) = run.store.pending_commands(run.sweep_id)
    budget = command.payload.pop("budget")
    assert told.endswith("budget.trials none, budget.hours 10: asked\n")
    assert command.payload.pop("limits") == ["trials", "hours"]
    assert command.payload == {"max_concurrent": None, "priority": 5}
    assert (budget["hours"], budget["trials"]) == (10.0, None)
    for bad in ((), ("--budget-hours", "many"), ("--priority", "high")):
        assert on_the_command_line("set", run.sweep_id, *bad).exit_code == 2


def test_the_queue_shows_who_gets_what_and_why_not_more(
    client: winnow.Client, run: Running
) -> None:
    urgent = client.submit(good_sweep() | {"name": "urgent", "sharing": {"priority": 9}}).id
    run.store.grant(run.sweep_id, 1, "urgent has a higher priority")
    lines = on_the_command_line("queue").output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [urgent, run.sweep_id]
    assert "urgent has a higher priority" in lines[2]
    shown = json.loads(on_the_command_line("queue", "--json").stdout)
    assert [s["id"] for s in shown] == [urgent, run.sweep_id]


def test_a_sweep_is_shown_with_its_share_its_budget_and_its_marks(run: Running) -> None:
    run.store.grant(run.sweep_id, 2, "the cluster is full")
    spending = [
        {"what": "trials", "used": 3, "limit": 4, "projected": 8},
        {"what": "hours", "used": 1.5, "limit": None, "projected": None},
    ]
    run.store.write(run.lease, lambda tx: tx.set_plan(account={"spending": spending}))
    run.store.write(
        run.lease,
        lambda tx: tx.add_trial(4, "search", PARAMS, {}, 100, parent=f"{run.sweep_id}-1"),
    )
    shown = on_the_command_line("show", run.sweep_id).output
    assert "project default, 2 slots" in shown
    assert "the cluster is full" in shown
    assert "3 of 4 trials used, about 8 trials at its end: the budget will end it" in shown
    assert "clone of 1" in shown


def test_projects_are_listed_made_and_changed(run: Running) -> None:
    made = on_the_command_line("project", "create", "nlp", "--gpus", "4", "--weight", "2")
    assert "0 of 4" in made.output
    changed = on_the_command_line("project", "set", "nlp", "--trials", "8", "--gpus", "none")
    assert "0 of 8" in changed.output
    listed = on_the_command_line("projects").output.splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["default", "nlp"]
    assert listed[2].split() == ["nlp", "0", "0", "of", "8", "0", "2"]
    assert on_the_command_line("project", "create", "nlp").exit_code != 0


def test_the_log_says_who_did_what_and_what_became_of_it(run: Running) -> None:
    on_the_command_line("extend", run.sweep_id, "2")
    (command,) = run.store.pending_commands(run.sweep_id)
    run.store.finish_command(command.id, "6 trials are planned")
    log = on_the_command_line("log", run.sweep_id).output
    assert "owner" in log
    assert f"extend sweep {run.sweep_id} by 2 trials → 6 trials are planned" in log
    assert "the sweep is running" in log
    assert "trial created" not in log
    assert "trial created (trial 1)" in on_the_command_line("log", run.sweep_id, "--all").output
