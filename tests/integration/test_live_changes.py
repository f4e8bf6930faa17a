"""What users ask of a running sweep takes effect, is kept over a restart, and is told with its
author; with simulated training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.supervision.attend import attend
from tests.fixtures.simulated_worker import drive
from tests.fixtures.studies import Studies
from winnow.types import SweepState, Trial, TrialState

OPEN: dict[str, Any] = {
    "space": {"learning_rate": {"log_uniform": [1e-6, 1e-1]}, "effective_batch_size": 40},
    "search": {"sampler": "random", "trials": 6, "seed": 1},
}


def trial(store: Store, sweep_id: str, number: int) -> Trial:
    return store.get_trial(f"{sweep_id}-{number}")


def ask(store: Store, sweep_id: str, kind: Any, number: int | None = None, **payload: Any) -> int:
    target = None if number is None else f"{sweep_id}-{number}"
    return store.add_command(sweep_id, target, kind, "alice", payload or None).id


def answer(store: Store, sweep_id: str, command_id: int) -> str | None:
    return next(c.result for c in store.commands(sweep_id) if c.id == command_id)


def look_after(studies: Studies, sweep_id: str) -> None:
    """What the orchestrator does for a sweep that nobody drives."""
    studies.give_back(sweep_id)
    settings = Settings(home=studies.home, lease_seconds=5)
    assert attend(studies.store, sweep_id, settings)


def at(turn: int, act: Callable[[], object]) -> Callable[[int], None]:
    """Do something at one turn of a drive."""

    def look(now: int) -> None:
        if now == turn:
            act()

    return look


def searched(store: Store, sweep_id: str) -> list[Trial]:
    return store.list_trials(sweep_id, kinds=["search"]).items


def test_a_paused_trial_holds_the_sweep_until_it_is_resumed(studies_on_both: Studies) -> None:
    studies, store = studies_on_both, studies_on_both.store
    sweep_id = studies.queued()
    asked: list[int] = []
    drive(
        studies.take(sweep_id),
        each_turn=at(5, lambda: asked.append(ask(store, sweep_id, "pause", 1))),
    )
    sweep, paused = store.get_sweep(sweep_id), trial(store, sweep_id, 1)
    assert sweep.state is SweepState.PAUSED
    assert "trial 1 is paused by a user" in (sweep.message or "")
    assert (paused.state, paused.reason) == (TrialState.PAUSED, "user")
    assert "alice" in (paused.message or "")
    assert answer(store, sweep_id, asked[0]) == "paused"

    ask(store, sweep_id, "resume", 1)
    ask(store, sweep_id, "resume")
    look_after(studies, sweep_id)
    assert store.get_sweep(sweep_id).state is SweepState.QUEUED
    drive(studies.take(sweep_id))
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED
    assert trial(store, sweep_id, 1).state is TrialState.COMPLETED
    (curve,) = store.curves(sweep_id, [f"{sweep_id}-1"])
    assert curve.step == list(range(1, curve.step[-1] + 1))


def test_a_stop_that_its_driver_did_not_live_to_see_is_done_by_the_next(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()
    study = studies.take(sweep_id)
    running = [study.next(), study.next()]
    assert running[1] is not None
    command = ask(store, sweep_id, "stop", 1)
    assert study.drain_commands() == [(running[1].id, "stop")]
    assert answer(store, sweep_id, command) is None

    drive(studies.take(sweep_id))  # the first driver was killed before the trial yielded
    stopped = trial(store, sweep_id, 1)
    assert (stopped.state, stopped.reason) == (TrialState.CANCELED, "user")
    assert answer(store, sweep_id, command) == "stopped"


def test_a_trial_that_waits_can_be_paused_too(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()
    study = studies.take(sweep_id)
    assert study.next()
    assert study.next()
    successor = studies.take(sweep_id)  # both wait for their next attempt
    command = ask(store, sweep_id, "pause", 1)
    successor.drain_commands()
    paused = trial(store, sweep_id, 1)
    assert (paused.state, paused.reason) == (TrialState.PAUSED, "user")
    assert answer(store, sweep_id, command) == "paused"
    drive(successor)
    assert trial(store, sweep_id, 0).state is TrialState.COMPLETED
    assert trial(store, sweep_id, 1).state is TrialState.PAUSED


def test_a_stopped_trial_is_revived_in_a_sweep_that_has_ended(studies: Studies) -> None:
    store = studies.store
    sweep_id = studies.ended(scheduler={"name": "asha", "rungs": [0.25, 0.5]})
    pruned = next(t for t in searched(store, sweep_id) if t.state is TrialState.PRUNED)
    ask(store, sweep_id, "revive", pruned.number)
    look_after(studies, sweep_id)
    assert store.get_sweep(sweep_id).state is SweepState.QUEUED
    drive(studies.take(sweep_id))
    revived = store.get_trial(pruned.id)
    assert revived.state is TrialState.COMPLETED
    assert revived.value is not None
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED
    # It went on from where it was stopped.
    resumed = [e.data for e in store.events_after(sweep_id) if e.type == "attempt.started"]
    last = [d for d in resumed if d["number"] == pruned.number][-1]
    assert last["resumed_from"] is not None
    assert last["step"] > 0


def test_a_pinned_trial_is_judged_and_never_stopped(studies: Studies) -> None:
    store = studies.store
    sweep_id = studies.queued(scheduler={"name": "asha", "rungs": [0.25, 0.5]})
    worst = 1e-6  # the lowest rate learns least
    study = studies.take(sweep_id)

    def pin(turn: int) -> None:
        for one in searched(store, sweep_id):
            if one.params["learning_rate"] == worst and not one.pinned and not one.state.ended:
                ask(store, sweep_id, "pin", one.number)

    drive(study, each_turn=pin)
    pinned = next(t for t in searched(store, sweep_id) if t.params["learning_rate"] == worst)
    assert (pinned.pinned, pinned.state) == (True, TrialState.COMPLETED)
    spared = [d for d in store.decisions(sweep_id, pinned.id) if d.evidence.get("pinned")]
    assert spared
    assert "it is pinned, so it runs on" in spared[-1].reason
    assert any(t.state is TrialState.PRUNED for t in searched(store, sweep_id))


def test_a_clone_runs_with_its_changes(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()
    drive(
        studies.take(sweep_id),
        each_turn=at(6, lambda: ask(store, sweep_id, "clone", 1, params={"learning_rate": 0.0123})),
    )
    (clone,) = [t for t in searched(store, sweep_id) if t.parent is not None]
    assert clone.parent == f"{sweep_id}-1"
    assert clone.params == trial(store, sweep_id, 1).params | {"learning_rate": 0.0123}
    assert clone.state is TrialState.COMPLETED
    assert len(searched(store, sweep_id)) == 7  # the six of the grid are not fewer for it
    (stored,) = [t for t in store.sweep_rows(sweep_id).trials if t.id == clone.id]
    assert stored.config["learning_rate"] == 0.0123


def test_an_impossible_clone_is_refused_and_the_sweep_goes_on(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()
    asked: list[int] = []
    drive(
        studies.take(sweep_id),
        each_turn=at(
            6,
            lambda: asked.append(ask(store, sweep_id, "clone", 1, params={"learning_rate": -1})),
        ),
    )
    assert (answer(store, sweep_id, asked[0]) or "").startswith("refused: learning_rate")
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED


def test_added_configurations_reopen_an_ended_sweep(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.ended(**OPEN)
    rates = [0.011, 0.013]
    params = [{"learning_rate": r, "effective_batch_size": 40} for r in rates]
    command = ask(store, sweep_id, "add", configurations=params)
    look_after(studies, sweep_id)
    assert answer(store, sweep_id, command) == "they are trials 7 to 8"
    drive(studies.take(sweep_id))
    new = [t for t in searched(store, sweep_id) if t.params["learning_rate"] in rates]
    assert [t.state for t in new] == [TrialState.COMPLETED] * 2
    assert store.get_sweep(sweep_id).summary.best_trial in {t.id for t in new}


def test_an_extended_sweep_proposes_more_and_a_narrowed_one_from_less(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.ended(**OPEN)
    ask(store, sweep_id, "extend", trials=3)
    left = OPEN["space"] | {"learning_rate": {"log_uniform": [1e-3, 2e-3]}}
    ask(store, sweep_id, "narrow", space=left)
    look_after(studies, sweep_id)
    drive(studies.take(sweep_id), turns=3)
    drive(studies.take(sweep_id))  # by another driver, which knows it from the database
    trials = searched(store, sweep_id)
    assert len(trials) == 9
    assert all(1e-3 <= t.params["learning_rate"] <= 2e-3 for t in trials[6:])


def test_a_grid_can_not_be_extended(studies: Studies) -> None:
    sweep_id = studies.ended()
    command = ask(studies.store, sweep_id, "extend", trials=3)
    look_after(studies, sweep_id)
    assert "a grid has no further configurations" in str(answer(studies.store, sweep_id, command))
    assert studies.store.get_sweep(sweep_id).state is SweepState.COMPLETED


def test_concurrency_and_priority_change_while_it_runs(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()
    asked: list[int] = []
    most: list[int] = []

    def change(turn: int) -> None:
        if turn == 4:
            asked.append(ask(store, sweep_id, "set", max_concurrent=1, priority=5))
        running = store.list_trials(sweep_id, states=[TrialState.RUNNING]).items
        if turn > 9:
            most.append(len(running))

    drive(studies.take(sweep_id), slots=3, each_turn=change)
    sweep = store.get_sweep(sweep_id)
    assert (sweep.max_concurrent, sweep.priority) == (1, 5)
    assert answer(store, sweep_id, asked[0]) == "one trial at a time, priority 5"
    assert max(most) == 1


def test_a_paused_sweep_keeps_its_trials_and_goes_on_when_resumed(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()
    drive(studies.take(sweep_id), each_turn=at(8, lambda: ask(store, sweep_id, "pause")))
    sweep = store.get_sweep(sweep_id)
    assert (sweep.state, sweep.message) == (SweepState.PAUSED, "paused by alice")
    assert all(t.state is not TrialState.RUNNING for t in searched(store, sweep_id))
    ask(store, sweep_id, "resume")
    look_after(studies, sweep_id)
    drive(studies.take(sweep_id))
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED


def test_every_change_is_in_the_event_log_with_its_author_and_its_result(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()
    drive(studies.take(sweep_id), each_turn=at(5, lambda: ask(store, sweep_id, "pin", 1)))
    told = [e.data for e in store.events_after(sweep_id) if e.type == "command"]
    assert [(d["kind"], d["by"], d.get("result")) for d in told] == [
        ("pin", "alice", None),
        ("pin", "alice", "pinned"),
    ]


def test_trials_beyond_the_granted_slots_are_preempted_and_finish_later(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()

    def share(turn: int) -> None:
        if turn in (5, 40):
            store.grant(sweep_id, 1 if turn == 5 else 3, "fair share")

    drive(studies.take(sweep_id), slots=3, each_turn=share)
    moved = [e.data for e in store.events_after(sweep_id) if e.type == "trial.state"]
    preempted = [d for d in moved if d["reason"] == "preempted"]
    assert len(preempted) == 2
    assert {d["to"] for d in preempted} == {"PENDING"}
    assert all(t.state is TrialState.COMPLETED for t in searched(store, sweep_id))


def test_without_slots_the_driver_leaves_the_sweep_to_a_later_one(studies: Studies) -> None:
    store, sweep_id = studies.store, studies.queued()
    study = studies.take(sweep_id)
    drive(study, slots=2, each_turn=at(9, lambda: store.grant(sweep_id, 0, "priority")))
    assert study.finished
    assert store.get_sweep(sweep_id).state is SweepState.RUNNING
    store.grant(sweep_id, 2, None)
    drive(studies.take(sweep_id))
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED


@pytest.mark.parametrize("limit", [2, 4])
def test_a_budget_of_trials_ends_the_proposals(studies: Studies, limit: int) -> None:
    sweep_id = studies.ended(budget={"trials": limit})
    assert len(searched(studies.store, sweep_id)) == limit
    sweep = studies.store.get_sweep(sweep_id)
    assert sweep.state is SweepState.COMPLETED
    assert f"{limit} of {limit} trials" in (sweep.message or "")


def test_a_budget_of_time_stops_all_and_keeps_the_best(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, sweep_id = studies.store, studies.queued(budget={"hours": 1e-9})
    monkeypatch.setattr("orchestrator.study.spending.LOOK_SECONDS", 0.3)
    drive(studies.take(sweep_id))
    sweep = store.get_sweep(sweep_id)
    assert sweep.state is SweepState.COMPLETED
    assert "the budget is used up" in (sweep.message or "")
    assert {t.state for t in searched(store, sweep_id)} <= {
        TrialState.CANCELED,
        TrialState.COMPLETED,
    }
    (hours,) = [s for s in sweep.budget if s.what == "hours"]
    assert hours.used > (hours.limit or 0)


def test_an_identical_trial_is_taken_over_and_not_trained_again(studies: Studies) -> None:
    identity = {"/data/train.jsonl": "a", "/data/eval.jsonl": "b", "/models/tiny": "c"}
    facts = {"train_samples": 1000, "train_sets": [1000], "identity": identity}
    first = studies.queued(facts=facts)
    drive(studies.take(first))
    second = studies.queued(facts=facts)
    drive(studies.take(second))
    before, after = searched(studies.store, first), searched(studies.store, second)
    assert {t.reused_from for t in after} == {t.id for t in before}
    assert all(t.state is TrialState.COMPLETED and t.reason == "reused" for t in after)
    values = {t.id: t.value for t in before}
    assert all(t.value == values[str(t.reused_from)] for t in after)
    assert len(studies.store.curves(second)) == len(after)

    different = studies.queued(facts=facts | {"identity": identity | {"/models/tiny": "d"}})
    drive(studies.take(different))
    assert all(t.reused_from is None for t in searched(studies.store, different))
    unwilling = studies.queued(facts=facts, search={"sampler": "grid", "seed": 1, "reuse": False})
    drive(studies.take(unwilling))
    assert all(t.reused_from is None for t in searched(studies.store, unwilling))
