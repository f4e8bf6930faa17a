"""Events: without gaps, in commit order, whoever writes them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.errors import NotFound
from orchestrator.store import Store
from tests.integration.store.reports import Running, begin, evaluation, step
from trainer.metrics import Batch

WRITERS = 8
BATCHES = 12


def test_eight_writers_leave_no_gap_and_a_reader_meanwhile_misses_none(store: Store):
    running = [begin(store) for _ in range(WRITERS)]
    done = threading.Event()
    followed: list[int] = []

    def follow() -> None:
        """As an event stream does: ask for what comes after the last one."""
        while True:
            last_look = done.is_set()
            news = store.events_after(None, followed[-1] if followed else 0)
            followed.extend(event.id for event in news)
            if last_look:
                return

    def write(sweep: Running) -> None:
        trial_id, attempt = sweep.started(0)
        for n in range(1, BATCHES + 1):
            batch = Batch("running", steps=(step(n),), evaluations=(evaluation(n, 1.0),))
            sweep.store.record(sweep.lease, trial_id, attempt, batch)

    reader = threading.Thread(target=follow)
    reader.start()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, running))
    done.set()
    reader.join(timeout=60)

    expected = WRITERS * (3 + 3 + BATCHES)  # created, state, driver; trial, state, attempt
    assert [e.id for e in store.events_after(None, limit=10_000)] == list(range(1, expected + 1))
    assert followed == list(range(1, expected + 1))
    for sweep in running:
        steps = [
            e.data["step"] for e in store.events_after(sweep.sweep_id) if e.type == "evaluation"
        ]
        assert steps == list(range(1, BATCHES + 1))


def test_events_of_one_sweep_and_of_all(store: Store):
    first, second = store.create_sweep({}, 1, "a"), store.create_sweep({}, 1, "b")
    assert [e.sweep_id for e in store.events_after(None)] == [first.id, second.id]
    assert [e.data["name"] for e in store.events_after(second.id)] == ["b"]
    assert store.last_event_id() == 2
    assert store.last_event_id(first.id) == 1
    assert store.events_after(None, last_id=2) == []
    assert len(store.events_after(None, limit=1)) == 1
    with pytest.raises(NotFound):
        store.events_after("nothing")


def test_events_tell_the_story_of_a_trial(running: Running):
    trial_id, _ = running.started(3)
    mine = [e for e in running.store.events_after(running.sweep_id) if e.trial_id == trial_id]
    assert [e.type for e in mine] == ["trial.created", "trial.state", "attempt.started"]
    assert (mine[1].data["from"], mine[1].data["to"]) == ("PENDING", "RUNNING")
    assert mine[2].data["attempt"] == 1
