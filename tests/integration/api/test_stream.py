"""A sweep live: nothing is lost, nothing comes twice, whatever happens to the connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

import winnow
from orchestrator.store import Store
from tests.integration.api.conftest import LiveServer, good_sweep
from tests.integration.store.reports import Running, checkpoint, steps
from trainer.metrics import Batch
from winnow.client import Update
from winnow.errors import ApiError
from winnow.types import SweepState, TrialState


@pytest.fixture
def client(live: LiveServer) -> Iterator[winnow.Client]:
    with winnow.Client(live.url, live.token) as client:
        yield client


@pytest.fixture
def run(client: winnow.Client, live_store: Store) -> Running:
    sweep = client.submit(good_sweep())
    lease = live_store.acquire_lease(sweep.id, "a driver", 600)
    assert lease is not None
    return Running(live_store, sweep.id, lease)


class Watcher:
    """Reads a stream in a thread; `until` waits for what a test expects."""

    def __init__(self, updates: Iterator[Update]) -> None:
        self.seen: list[Update] = []
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=(updates,), daemon=True)
        self._thread.start()

    def _read(self, updates: Iterator[Update]) -> None:
        try:
            for update in updates:
                with self._changed:
                    self.seen.append(update)
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        with self._changed:
            self._changed.notify_all()

    def until(self, condition: Any) -> None:
        with self._changed:
            met = self._changed.wait_for(lambda: condition(self) or self._error, timeout=120)
        assert self._error is None, self._error
        assert met, [u.kind for u in self.seen]

    @property
    def kinds(self) -> list[str]:
        return [u.kind for u in self.seen]

    @property
    def event_ids(self) -> list[int]:
        return [u.event.id for u in self.seen if u.event is not None]

    def steps_of(self, trial_id: str) -> list[int]:
        return [s for u in self.seen for c in u.curves if c.trial_id == trial_id for s in c.step]


def test_a_listener_hears_of_each_thing_once_and_of_the_end(
    client: winnow.Client, run: Running
) -> None:
    watcher = Watcher(client.watch(run.sweep_id))
    watcher.until(lambda w: "sweep" in w.kinds)

    trial_id, attempt = run.started()
    for first in range(1, 41, 10):
        run.store.record(run.lease, trial_id, attempt, steps(first, first + 9))
        watcher.until(lambda w, last=first + 9: last in w.steps_of(trial_id))
    run.store.end_attempt(run.lease, trial_id, attempt, TrialState.PRUNED, "asha", "Too slow.")
    run.store.end_sweep(run.lease, SweepState.COMPLETED)
    watcher.until(lambda w: "end" in w.kinds)

    assert watcher.kinds[-1] == "end"
    assert watcher.seen[-1].sweep is not None
    assert watcher.seen[-1].sweep.state is SweepState.COMPLETED
    assert watcher.steps_of(trial_id) == list(range(1, 41))
    stored = [e.id for e in client.events(run.sweep_id)]
    assert watcher.event_ids == stored
    latest = [t for u in watcher.seen for t in u.trials if t.id == trial_id][-1]
    assert latest == client.trial(trial_id)


def test_a_sweep_that_has_ended_is_told_whole_and_closed(
    client: winnow.Client, run: Running
) -> None:
    trial_id, attempt = run.started()
    run.store.end_attempt(run.lease, trial_id, attempt, TrialState.COMPLETED, value=1.0)
    run.store.end_sweep(run.lease, SweepState.COMPLETED)
    seen = list(client.watch(run.sweep_id))
    assert seen[-1].kind == "end"
    assert [u.event.type for u in seen if u.event][-1] == "sweep.state"
    assert [t.state for u in seen for t in u.trials] == ["COMPLETED"]


def test_events_continue_after_the_last_one_seen(
    live: LiveServer, client: winnow.Client, run: Running
) -> None:
    run.started()
    run.store.end_sweep(run.lease, SweepState.CANCELED)
    everything = [u.event.id for u in client.watch(run.sweep_id) if u.event]
    middle = everything[1]
    rest = [u.event.id for u in client.watch(run.sweep_id, after=middle) if u.event]
    assert rest == everything[2:]

    by_query = httpx2.get(
        f"{live.url}/v1/sweeps/{run.sweep_id}/stream",
        params={"last_event_id": middle},
        headers={"Authorization": f"Bearer {live.token}"},
    )
    ids = [int(line[4:]) for line in by_query.text.splitlines() if line.startswith("id: ")]
    assert ids == everything[2:]


def test_a_listener_survives_a_restart_of_the_server_without_loss_or_repeat(
    live: LiveServer, client: winnow.Client, run: Running
) -> None:
    watcher = Watcher(client.watch(run.sweep_id))
    first, attempt = run.started(0)
    run.store.record(run.lease, first, attempt, steps(1, 5))
    watcher.until(lambda w: any(u.event and u.event.type == "attempt.started" for u in w.seen))

    live.stop()
    second, _ = run.started(1)  # happens while nobody listens
    run.store.end_attempt(run.lease, first, attempt, TrialState.FAILED, "oom", "Out of memory.")
    live.start()
    run.store.end_sweep(run.lease, SweepState.FAILED, "no trial finished")
    watcher.until(lambda w: "end" in w.kinds)

    stored = [e.id for e in client.events(run.sweep_id)]
    assert watcher.event_ids == stored
    assert {t.id for u in watcher.seen for t in u.trials} == {first, second}


def test_points_stored_between_opening_the_stream_and_fetching_the_metrics_are_not_lost(
    live: LiveServer, client: winnow.Client, run: Running
) -> None:
    trial_id, attempt = run.started()
    run.store.record(run.lease, trial_id, attempt, steps(1, 3))
    headers = {"Authorization": f"Bearer {live.token}"}
    url = f"{live.url}/v1/sweeps/{run.sweep_id}/stream"
    with httpx2.stream("GET", url, headers=headers, timeout=120) as response:
        run.store.record(run.lease, trial_id, attempt, steps(4, 6))
        fetched = client.metrics(run.sweep_id).curves[0].step
        run.store.record(run.lease, trial_id, attempt, steps(7, 9))
        streamed: list[int] = []
        for message in httpx2.EventSource(response):
            if message.event == "points":
                streamed += json.loads(message.data)["curves"][0]["step"]
            if 9 in streamed:
                break
    assert set(fetched) | set(streamed) == set(range(1, 10))
    assert 1 not in streamed


def test_a_new_attempt_sends_its_whole_curve_again(client: winnow.Client, run: Running) -> None:
    trial_id, attempt = run.started()
    run.store.record(
        run.lease,
        trial_id,
        attempt,
        Batch("running", steps=steps(1, 6).steps, checkpoints=(checkpoint(4, "/ckpt/4"),)),
    )
    watcher = Watcher(client.watch(run.sweep_id))
    watcher.until(lambda w: "progress" in w.kinds)
    run.store.end_attempt(run.lease, trial_id, attempt, TrialState.PENDING, "infrastructure")
    again = run.store.start_attempt(run.lease, trial_id, "/ckpt/4")
    run.store.record(run.lease, trial_id, again, steps(5, 5))
    watcher.until(lambda w: 5 in w.steps_of(trial_id))
    assert sorted(set(watcher.steps_of(trial_id))) == [1, 2, 3, 4, 5]
    started = [u.event for u in watcher.seen if u.event and u.event.type == "attempt.started"]
    assert started[-1].data["step"] == 4


def test_an_unknown_sweep_is_an_error_and_not_an_endless_wait(client: winnow.Client) -> None:
    with pytest.raises(ApiError, match="no sweep"):
        next(client.watch("nope"))


def test_a_silent_stream_is_kept_alive(
    client: winnow.Client, run: Running, live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.stream.HEARTBEAT_SECONDS", 0.1)
    headers = {"Authorization": f"Bearer {live.token}"}
    url = f"{live.url}/v1/sweeps/{run.sweep_id}/stream"
    with httpx2.stream("GET", url, headers=headers, timeout=120) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith(":"):
                return
    pytest.fail("the stream ended")
