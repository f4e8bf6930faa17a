"""One driver a sweep: leases, their expiry, and the fence around every write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.errors import LeaseLost, NotFound
from orchestrator.store import Lease, Store
from tests.integration.store.reports import Running, begin, checkpoint, step, steps, stop
from trainer.metrics import Batch
from winnow.types import SweepState, TrialState

EXPIRED = -1.0  # seconds from now


def test_a_driver_takes_a_queued_sweep_and_it_runs(store: Store):
    sweep = store.create_sweep({}, 1, "s")
    assert [(c.id, c.state, c.epoch) for c in store.claimable()] == [
        (sweep.id, SweepState.QUEUED, 0)
    ]
    lease = store.acquire_lease(sweep.id, "driver one", 60)
    assert lease == Lease(sweep.id, 1)
    assert store.get_sweep(sweep.id).state is SweepState.RUNNING
    assert store.claimable() == []
    (driver,) = store.live_drivers()
    assert (driver.sweep_id, driver.epoch, driver.holder) == (sweep.id, 1, "driver one")
    assert 0 < driver.seconds_left <= 60


def test_a_held_sweep_is_not_given_away(running: Running):
    assert running.store.acquire_lease(running.sweep_id, "another", 60) is None


def test_of_many_drivers_one_gets_the_sweep(store: Store):
    sweep = store.create_sweep({}, 1, "s")
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: store.acquire_lease(sweep.id, n, 60), range(8)))
    assert len([lease for lease in taken if lease is not None]) == 1


def test_an_expired_sweep_passes_to_the_next_driver_with_the_next_epoch(running: Running):
    store = running.store
    assert store.renew(running.lease, EXPIRED)
    (waiting,) = store.claimable()
    assert (waiting.id, waiting.state, waiting.holder) == (
        running.sweep_id,
        SweepState.RUNNING,
        "a driver",
    )
    assert store.live_drivers() == []
    assert store.acquire_lease(running.sweep_id, "another", 60) == Lease(running.sweep_id, 2)
    types = [e.type for e in store.events_after(running.sweep_id)]
    assert types[-2:] == ["driver.lost", "driver.started"]


def test_a_lease_can_be_renewed_only_while_it_holds(running: Running):
    store = running.store
    assert store.renew(running.lease, 60)
    store.renew(running.lease, EXPIRED)
    assert not store.renew(running.lease, 60), "too late is too late"
    store.acquire_lease(running.sweep_id, "another", 60)
    assert not store.renew(running.lease, 60)


def test_a_released_sweep_can_be_taken_at_once(running: Running):
    assert running.store.release(running.lease)
    assert running.store.claimable()[0].holder is None
    assert running.store.acquire_lease(running.sweep_id, "another", 60) is not None
    assert not running.store.release(running.lease), "it isn't ours any more"
    assert running.store.live_drivers()[0].holder == "another"


def test_the_lease_of_a_dead_driver_is_expired_once(running: Running):
    store = running.store
    assert not store.expire_lease(running.sweep_id, epoch=7)
    assert store.expire_lease(running.sweep_id, epoch=1)
    assert not store.expire_lease(running.sweep_id, epoch=1)
    store.acquire_lease(running.sweep_id, "another", 60)
    assert not store.expire_lease(running.sweep_id, epoch=1), "the next driver is alive"
    events = [e.type for e in store.events_after(running.sweep_id)]
    assert events.count("driver.lost") == 1


def test_an_ended_sweep_has_no_next_driver(running: Running):
    running.store.end_sweep(running.lease, SweepState.COMPLETED)
    running.store.release(running.lease)
    assert running.store.claimable() == []
    assert running.store.acquire_lease(running.sweep_id, "another", 60) is None


def test_nobody_can_take_a_sweep_that_does_not_exist(store: Store):
    with pytest.raises(NotFound, match="no sweep 'nothing'"):
        store.acquire_lease("nothing", "driver", 60)


# Each write a driver can make, on trial 0 (its first attempt live) and trial 1 (waiting).
WRITES: dict[str, Callable[[Store, Lease], object]] = {
    "add_trial": lambda s, x: s.add_trial(x, 9, "search", {}, {}, 1),
    "start_attempt": lambda s, x: s.start_attempt(x, f"{x.sweep_id}-1"),
    "record": lambda s, x: s.record(x, f"{x.sweep_id}-0", 1, steps(1, 3)),
    "decide": lambda s, x: s.decide(x, stop(f"{x.sweep_id}-0"), acted=True),
    "end_attempt": lambda s, x: s.end_attempt(x, f"{x.sweep_id}-0", 1, TrialState.COMPLETED),
    "end_trial": lambda s, x: s.end_trial(x, f"{x.sweep_id}-1", TrialState.PRUNED, "asha", ""),
    "end_sweep": lambda s, x: s.end_sweep(x, SweepState.CANCELED),
}


def snapshot(store: Store, sweep_id: str) -> tuple:
    return (
        store.get_sweep(sweep_id),
        store.list_trials(sweep_id),
        store.curves(sweep_id),
        store.decisions(sweep_id),
        store.last_event_id(),
    )


@pytest.mark.parametrize("name", WRITES)
def test_a_replaced_driver_writes_nothing(running: Running, name: str):
    store = running.store
    running.started(0)
    running.trial(1)
    store.renew(running.lease, EXPIRED)
    fresh = store.acquire_lease(running.sweep_id, "another", 60)
    assert fresh is not None
    store.start_attempt(fresh, f"{running.sweep_id}-0")
    before = snapshot(store, running.sweep_id)
    with pytest.raises(LeaseLost, match="epoch 1 has expired or passed to another"):
        WRITES[name](store, running.lease)
    assert snapshot(store, running.sweep_id) == before


@pytest.mark.parametrize("name", WRITES)
def test_a_driver_whose_lease_has_expired_writes_nothing_even_if_nobody_took_over(
    running: Running, name: str
):
    store = running.store
    running.started(0)
    running.trial(1)
    store.renew(running.lease, EXPIRED)
    before = snapshot(store, running.sweep_id)
    with pytest.raises(LeaseLost):
        WRITES[name](store, running.lease)
    assert snapshot(store, running.sweep_id) == before


@pytest.mark.parametrize("name", WRITES)
def test_the_same_writes_pass_while_the_lease_holds(running: Running, name: str):
    running.started(0)
    running.trial(1)
    before = snapshot(running.store, running.sweep_id)
    WRITES[name](running.store, running.lease)
    assert snapshot(running.store, running.sweep_id) != before


def test_a_takeover_puts_running_trials_back_and_the_next_driver_goes_on(running: Running):
    store = running.store
    trial_id, attempt = running.started(0)
    paused, first = running.started(1)
    store.end_attempt(running.lease, paused, first, TrialState.PAUSED)
    store.record(
        running.lease,
        trial_id,
        attempt,
        Batch(
            "running",
            steps=tuple(step(n) for n in range(1, 6)),
            checkpoints=(checkpoint(3, "/c/3"), checkpoint(5, "/c/5")),
        ),
    )
    store.renew(running.lease, EXPIRED)
    fresh = store.acquire_lease(running.sweep_id, "another", 60)
    assert fresh is not None

    rows = store.sweep_rows(running.sweep_id)
    assert [t.state for t in rows.trials] == [TrialState.PENDING, TrialState.PAUSED]
    assert rows.trials[0].reason == "infrastructure"
    assert [c.path for c in rows.trials[0].checkpoints] == ["/c/5", "/c/3"]
    assert [s.step for s in rows.trials[0].steps] == [1, 2, 3, 4, 5]
    assert store.start_attempt(fresh, trial_id, "/c/5") == 2
    store.record(fresh, trial_id, 2, steps(6, 7))
    assert store.curves(running.sweep_id)[0].step == [1, 2, 3, 4, 5, 6, 7]


def test_two_sweeps_do_not_touch_each_other(running: Running):
    other = begin(running.store)
    theirs = other.trial(0)
    with pytest.raises(NotFound):
        running.store.start_attempt(running.lease, theirs)
