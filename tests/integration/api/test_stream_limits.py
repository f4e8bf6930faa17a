"""Streams under strain: a slow client, events that are gone, tokens of other projects."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx2
import pytest

import winnow
from api import stream
from api.feeds import SweepFeed
from api.stream import Hub, Listener
from orchestrator.store import Store
from tests.integration.api.conftest import LiveServer, good_sweep
from tests.integration.store.reports import Running, begin, steps
from winnow.types import SweepState, TrialState

Seen = list[httpx2.ServerSentEvent]
T = TypeVar("T")


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread of its own: a browser's driver may have left a loop in this one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


def listen(
    live: LiveServer,
    path: str,
    until: Callable[[Seen], bool],
    *,
    meanwhile: Callable[[], object] = lambda: None,
    token: str | None = None,
    last: int | None = None,
) -> Seen:
    """A stream's messages, until they are what is expected. `meanwhile` runs once it stands."""
    headers = {"Authorization": f"Bearer {token or live.token}"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    seen: Seen = []
    with httpx2.stream("GET", f"{live.url}{path}", headers=headers, timeout=120) as response:
        assert response.status_code == 200, response.read()
        meanwhile()
        for message in httpx2.EventSource(response):
            if message.event != "message":
                seen.append(message)
            if seen and until(seen):
                return seen
    pytest.fail(f"the stream ended with {[m.event for m in seen]}")


@pytest.fixture
def run(live: LiveServer, live_store: Store) -> Running:
    with winnow.Client(live.url, live.token) as client:
        sweep = client.submit(good_sweep())
    lease = live_store.acquire_lease(sweep.id, "a driver", 600)
    assert lease is not None
    return Running(live_store, sweep.id, lease)


def test_a_client_that_sends_no_id_hears_of_what_is_yet_to_come(
    live: LiveServer, run: Running
) -> None:
    run.trial(0)
    seen = listen(
        live,
        f"/v1/sweeps/{run.sweep_id}/stream",
        lambda seen: any(m.event == "event" for m in seen),
        meanwhile=lambda: run.trial(1),
    )
    told = [json.loads(m.data) for m in seen if m.event == "event"]
    assert [(e["type"], e["data"]["number"]) for e in told] == [("trial.created", 1)]


def test_a_client_that_reads_too_slowly_is_told_to_read_the_state_anew() -> None:
    async def slow() -> list[bytes]:
        listener = Listener()
        half = b"x" * (stream.BUFFER_BYTES // 2)
        for number in range(1, 6):
            listener.put(b"id: %d\n" % number + half, number)
        listener.put(b"id: 6\nafter", 6)
        listener.close()
        return [chunk async for chunk in listener.chunks()]

    first, *rest = in_a_loop(slow())
    assert first.startswith((b"id: 4\nevent: reset\n", b"id: 5\nevent: reset\n"))
    assert rest[-1] == b"id: 6\nafter", "it goes on after the reset"
    assert sum(map(len, (first, *rest))) <= stream.BUFFER_BYTES


def test_a_stalled_connection_holds_a_bounded_buffer_and_ends_in_a_reset(
    live: LiveServer, run: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client reads nothing for a while; the kernel's buffers fill, then the server's."""
    monkeypatch.setattr(stream, "BUFFER_BYTES", 20_000)
    monkeypatch.setattr(stream, "POLL_SECONDS", 0.01)
    trial, attempt = run.started()
    headers = {"Authorization": f"Bearer {live.token}"}
    url = f"{live.url}/v1/sweeps/{run.sweep_id}/stream"
    put = threading.Event()
    whole = Listener.put

    def watched(self: Listener, chunk: bytes, last: int) -> None:
        # As large as if very much had happened at once: the kernel alone holds megabytes.
        whole(self, chunk + b": " + b"x" * 2_000_000 + b"\n\n", last)
        put.set()

    monkeypatch.setattr(Listener, "put", watched)
    with httpx2.stream("GET", url, headers=headers, timeout=120) as response:
        for first in range(1, 41, 5):
            run.store.record(run.lease, trial, attempt, steps(first, first + 4))
            assert put.wait(120)
            put.clear()
        run.store.end_sweep(run.lease, SweepState.CANCELED)
        kinds = [m.event for m in httpx2.EventSource(response, max_event_size=None)]
    assert "reset" in kinds
    assert kinds[-1] in ("end", "reset")


def test_events_that_are_no_longer_kept_are_a_reset_and_the_rest_follows(
    live: LiveServer, run: Running
) -> None:
    trial, attempt = run.started()
    run.store.end_attempt(run.lease, trial, attempt, TrialState.COMPLETED, value=1.0)
    run.store.end_sweep(run.lease, SweepState.COMPLETED)
    events = run.store.events_after(run.sweep_id)
    assert run.store.live.trim(days=1.0, keep=2) == 0, "it ended just now"
    gone = run.store.live.trim(days=0.0, keep=2)
    assert gone == len(events) - 2
    assert run.store.live.trim(days=0.0, keep=2) == 0
    path = f"/v1/sweeps/{run.sweep_id}/stream"

    behind = listen(live, path, lambda seen: seen[-1].event == "end", last=events[0].id)
    assert [m.event for m in behind] == ["reset", "progress", "sweep", "end"]
    assert behind[0].id == str(events[-1].id), "the next time it is not behind"
    near = listen(live, path, lambda seen: seen[-1].event == "end", last=events[-2].id)
    assert [m.event for m in near] == ["event", "progress", "sweep", "end"]

    with winnow.Client(live.url, live.token) as client:
        kinds = [update.kind for update in client.watch(run.sweep_id)]
    assert (kinds[0], kinds[-1]) == ("reset", "end")


def test_events_that_a_webhook_is_yet_to_hear_of_are_kept(store: Store) -> None:
    run = begin(store)
    run.started()
    run.store.end_sweep(run.lease, SweepState.CANCELED)
    third = run.store.events_after(run.sweep_id)[2]
    _webhook(store, last_event_id=third.id)
    assert store.live.trim(days=0.0, keep=1) == 3
    assert store.live.trimmed(run.sweep_id) == store.live.trimmed() == third.id


def test_the_stream_of_all_sweeps_tells_a_project_only_of_its_own(
    live: LiveServer, live_store: Store, run: Running
) -> None:
    from winnow.types import Quota

    live_store.add_project("nlp", Quota())
    mine = live_store.access.create_token("nlp's", ["read"], project="nlp").token
    theirs = live_store.create_sweep({"project": "nlp"}, planned=1, name="theirs")

    def more() -> None:
        run.trial(0)
        live_store.cancel_queued(theirs.id)

    everything = listen(live, "/v1/events/stream", lambda seen: len(seen) >= 2, meanwhile=more)
    assert {json.loads(m.data)["sweep_id"] for m in everything} == {run.sweep_id, theirs.id}
    first = run.store.events_after(None)[0].id
    own = listen(live, "/v1/events/stream", lambda seen: len(seen) >= 2, token=mine, last=first - 1)
    assert {json.loads(m.data)["sweep_id"] for m in own} == {theirs.id}
    named = listen(
        live,
        "/v1/events/stream?types=sweep.state",
        lambda seen: len(seen) >= 1,
        token=mine,
        last=first - 1,
    )
    assert json.loads(named[0].data)["type"] == "sweep.state"

    headers = {"Authorization": f"Bearer {mine}"}
    other = httpx2.get(f"{live.url}/v1/sweeps/{run.sweep_id}/stream", headers=headers)
    assert other.status_code == 404


def test_many_listeners_are_one_look_at_the_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(store)
    looks: list[int] = []
    whole = SweepFeed.poll
    monkeypatch.setattr(SweepFeed, "poll", lambda feed: looks.append(1) or whole(feed))
    monkeypatch.setattr(stream, "POLL_SECONDS", 0.05)

    async def one(hub: Hub, ready: list[int]) -> list[bytes]:
        live = await hub.sweep(run.sweep_id, None)
        ready.append(1)
        seen = [chunk async for chunk in live.chunks]
        live.leave()
        return seen

    async def many() -> tuple[list[list[bytes]], int]:
        hub = Hub(store)
        ready: list[int] = []
        tasks = [asyncio.create_task(one(hub, ready)) for _ in range(30)]
        while len(ready) < 30:
            await asyncio.sleep(0.01)
        assert hub.listeners == 30
        before = len(looks)
        await asyncio.to_thread(run.store.end_sweep, run.lease, SweepState.CANCELED)
        told = await asyncio.gather(*tasks)
        return told, len(looks) - before

    told, looked = in_a_loop(many())
    assert looked < 30
    for chunks in told:
        text = b"".join(chunks)
        assert text.count(b"event: event\n") == 1
        assert text.count(b"event: end\n") == 1


def test_a_server_that_ends_ends_its_streams(store: Store) -> None:
    run = begin(store)

    async def main() -> list[bytes]:
        hub = Hub(store)
        live = await hub.sweep(run.sweep_id, None)
        reading = asyncio.create_task(_collect(live.chunks))
        await asyncio.sleep(0)
        hub.close()
        return await asyncio.wait_for(reading, 120)

    assert any(b"event: sweep" in chunk for chunk in in_a_loop(main()))


async def _collect(chunks: Any) -> list[bytes]:
    return [chunk async for chunk in chunks]


def _webhook(store: Store, last_event_id: int) -> None:
    from sqlalchemy import insert

    from orchestrator.store.schema import webhooks

    with store._db.write() as session:
        session.execute(
            insert(webhooks).values(
                id="w",
                url="https://example.org",
                secret="s",
                events=[],
                enabled=True,
                created_by="me",
                last_event_id=last_event_id,
            )
        )
