"""The scheduler's account of its evidence, from the driver to the sweep's row."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import LeaseLost
from orchestrator.schedulers.tracking import TrackingScheduler
from tests.fixtures.simulated_worker import drive
from tests.fixtures.studies import Studies

ASHA = {"name": "asha", "rungs": [0.25, 0.5], "audit": 0.5}


def test_a_sweep_ends_with_its_schedulers_last_word(studies_on_both: Studies) -> None:
    sweep_id = studies_on_both.ended(scheduler=ASHA)
    said = studies_on_both.store.get_sweep(sweep_id).scheduler_summary
    assert said is not None
    assert said["audit"]["note"].startswith("not enough audits (")


def test_it_is_there_while_the_sweep_runs(studies: Studies) -> None:
    sweep_id = studies.queued(scheduler=ASHA)
    seen: list[Any] = []

    def look(_: int) -> None:
        sweep = studies.store.get_sweep(sweep_id)
        if not sweep.state.ended and sweep.scheduler_summary is not None:
            seen.append(studies.store.decisions(sweep_id))

    drive(studies.take(sweep_id), each_turn=look)
    assert seen
    assert seen[0], "it follows a decision"


def test_a_canceled_sweep_keeps_it_too(studies: Studies) -> None:
    sweep_id = studies.queued(scheduler=ASHA)

    def cancel(turn: int) -> None:
        if turn == 3:
            studies.store.add_command(sweep_id, None, "cancel", "ann")

    drive(studies.take(sweep_id), each_turn=cancel)
    assert studies.store.get_sweep(sweep_id).state == "CANCELED"
    assert studies.store.get_sweep(sweep_id).scheduler_summary is not None


def test_a_scheduler_whose_account_fails_ends_no_sweep(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> dict[str, Any]:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(TrackingScheduler, "summary", fail)
    sweep_id = studies.ended(scheduler=ASHA)
    sweep = studies.store.get_sweep(sweep_id)
    assert (sweep.state, sweep.scheduler_summary) == ("COMPLETED", None)


def test_a_driver_that_was_replaced_writes_neither_account_nor_prior(
    studies_on_both: Studies,
) -> None:
    store = studies_on_both.store
    sweep_id = studies_on_both.queued(scheduler=ASHA)
    old = store.acquire_lease(sweep_id, "old", 60)
    assert old is not None
    store.keep_prior(old, {"sweeps": [], "learned": None})
    store.keep_scheduler_summary(old, {"n": 1})
    store.expire_lease(sweep_id, old.epoch)
    assert store.acquire_lease(sweep_id, "new", 60) is not None
    with pytest.raises(LeaseLost):
        store.keep_scheduler_summary(old, {"n": 2})
    with pytest.raises(LeaseLost):
        store.keep_prior(old, {"sweeps": ["x"], "learned": None})
    assert store.get_sweep(sweep_id).scheduler_summary == {"n": 1}
    assert store.sweep_rows(sweep_id).prior == {"sweeps": [], "learned": None}
