"""What users ask of running sweeps."""

from __future__ import annotations

import pytest

from orchestrator.errors import Conflict, NotFound
from orchestrator.store import Store
from tests.integration.store.reports import Running, begin
from winnow.types import SweepState, TrialState


def test_a_command_waits_until_the_driver_has_carried_it_out(running: Running):
    store = running.store
    trial_id, attempt = running.started(0)
    command = store.add_command(running.sweep_id, trial_id, "stop", "ada")
    assert store.pending_commands(running.sweep_id) == [command]
    with store.guarded(running.lease) as tx:
        tx.end_attempt(trial_id, attempt, TrialState.CANCELED, "user", "Stopped by ada.")
        tx.finish_command(command.id, "stopped")
    assert store.pending_commands(running.sweep_id) == []
    told = [e.data for e in store.events_after(running.sweep_id) if e.type == "command"]
    assert told == [
        {"id": command.id, "kind": "stop", "by": "ada"},
        {"id": command.id, "kind": "stop", "by": "ada", "result": "stopped"},
    ]


def test_asking_twice_is_asking_once(running: Running):
    first = running.store.add_command(running.sweep_id, None, "cancel", "ada")
    assert running.store.add_command(running.sweep_id, None, "cancel", "bob") == first
    assert running.store.pending_commands(running.sweep_id) == [first]


def test_what_has_ended_can_be_neither_stopped_nor_canceled(running: Running):
    store = running.store
    trial_id, attempt = running.started(0)
    store.end_attempt(running.lease, trial_id, attempt, TrialState.COMPLETED)
    with pytest.raises(Conflict, match="it is COMPLETED"):
        store.add_command(running.sweep_id, trial_id, "stop", "ada")
    store.end_sweep(running.lease, SweepState.COMPLETED)
    with pytest.raises(Conflict, match="it is COMPLETED"):
        store.add_command(running.sweep_id, None, "cancel", "ada")


def test_the_end_of_a_sweep_closes_its_commands(running: Running):
    running.store.add_command(running.sweep_id, None, "cancel", "ada")
    running.store.end_sweep(running.lease, SweepState.CANCELED)
    assert running.store.pending_commands(running.sweep_id) == []


def test_commands_for_what_does_not_exist_are_refused(running: Running):
    other = begin(running.store)
    theirs = other.trial(0)
    with pytest.raises(NotFound):
        running.store.add_command("nothing", None, "cancel", "ada")
    with pytest.raises(NotFound):
        running.store.add_command(running.sweep_id, theirs, "stop", "ada")
    with pytest.raises(NotFound):
        running.store.finish_command(99, "done")


def test_a_sweep_that_still_waits_is_canceled_at_once(store: Store):
    sweep = store.create_sweep({}, 1, "s")
    assert store.cancel_queued(sweep.id)
    assert store.get_sweep(sweep.id).state is SweepState.CANCELED
    assert store.claimable() == []
    assert store.acquire_lease(sweep.id, "driver", 60) is None
    assert not store.cancel_queued(sweep.id)


def test_a_running_sweep_is_not_canceled_behind_its_drivers_back(running: Running):
    assert not running.store.cancel_queued(running.sweep_id)
    assert running.store.get_sweep(running.sweep_id).state is SweepState.RUNNING


def test_what_became_of_a_command_is_said_once(running: Running):
    store = running.store
    command = store.add_command(running.sweep_id, None, "cancel", "ada")
    store.finish_command(command.id, "first")
    store.finish_command(command.id, "second")
    (listed,) = store.commands(running.sweep_id)
    assert listed.result == "first"
    told = [e.data.get("result") for e in store.events_after(running.sweep_id)]
    assert told.count("first") == 1
    assert "second" not in told


def test_a_trial_that_only_measures_can_be_stopped_and_nothing_else(running: Running):
    baseline = running.trial(0, kind="baseline")
    for kind in ("pause", "pin", "clone", "revive"):
        with pytest.raises(Conflict, match="measures only"):
            running.store.add_command(running.sweep_id, baseline, kind, "ada")
    assert running.store.add_command(running.sweep_id, baseline, "stop", "ada")


def test_only_what_waits_is_resumed_and_only_what_was_stopped_is_revived(running: Running):
    store = running.store
    with pytest.raises(Conflict, match="not PAUSED"):
        store.add_command(running.sweep_id, None, "resume", "ada")
    trial_id, attempt = running.started(0)
    with pytest.raises(Conflict, match="revived"):
        store.add_command(running.sweep_id, trial_id, "revive", "ada")
    store.end_attempt(running.lease, trial_id, attempt, TrialState.COMPLETED)
    with pytest.raises(Conflict, match="revived"):
        store.add_command(running.sweep_id, trial_id, "revive", "ada")
