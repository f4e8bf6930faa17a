"""A stream's seams: between two pages, two polls, a sweep's end and its going on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from starlette.types import Message, Scope

from api.feeds import POLLS_A_LOOK, SweepFeed
from api.routers.stream import _LiveResponse
from api.stream import Hub, Listener
from orchestrator.store import Store
from tests.integration.store.reports import Running, begin
from winnow.types import SweepState

T = TypeVar("T")


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread of its own: a browser's driver may have left a loop in this one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch) -> Running:
    for module in ("api.stream", "api.feeds"):
        monkeypatch.setattr(f"{module}.EVENTS_A_QUERY", 2)
    monkeypatch.setattr("api.stream.POLL_SECONDS", 0.05)
    return begin(store)


@pytest.mark.parametrize("missed", [3, 4])
def test_who_comes_back_hears_of_each_event_once_though_more_happen_meanwhile(
    run: Running, missed: int
) -> None:
    """What he missed takes several pages; what happens after he has come is told by the feed."""
    for number in range(missed):
        run.trial(number)
    first = run.store.events_after(run.sweep_id)[0].id

    async def come_back() -> list[bytes]:
        live = await Hub(run.store).sweep(run.sweep_id, first)
        for number in range(missed, 9):
            await asyncio.to_thread(run.trial, number)
        await asyncio.to_thread(run.store.end_sweep, run.lease, SweepState.CANCELED)
        async with asyncio.timeout(60):
            return [chunk async for chunk in live.chunks]  # it closes by itself

    told = b"".join(in_a_loop(come_back()))
    ids = [int(found) for found in re.findall(rb"^id: (\d+)$", told, re.MULTILINE)]
    assert ids == [event.id for event in run.store.events_after(run.sweep_id, first)]
    assert told.count(b"event: end\n") == 1
    assert told.rstrip().rpartition(b"\n\n")[2].startswith(b"event: end\n")


def test_a_client_that_is_gone_is_listened_for_no_more(run: Running) -> None:
    async def come_and_go() -> int:
        hub = Hub(run.store)
        response = _LiveResponse(await hub.sweep(run.sweep_id, None))
        assert hub.listeners == 1
        scope: Scope = {"type": "http", "asgi": {"spec_version": "2.3"}}

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None: ...

        await response(scope, receive, send)
        left = hub.listeners
        async with asyncio.timeout(60):
            while hub._sweeps:  # nor is the database asked any more
                await asyncio.sleep(0.01)
        return left

    assert in_a_loop(come_and_go()) == 0


def test_a_quiet_stream_says_that_it_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.stream.HEARTBEAT_SECONDS", 0.01)

    async def first() -> bytes:
        async with asyncio.timeout(30):
            return await anext(Listener().chunks())

    assert in_a_loop(first()).startswith(b":"), "a comment, which clients pass over"


def test_a_sweep_that_is_to_go_on_has_not_ended_for_who_listens(run: Running) -> None:
    run.store.end_sweep(run.lease, SweepState.COMPLETED)
    wish = run.store.add_command(run.sweep_id, None, "extend", "ada", {"trials": 2})
    feed = SweepFeed(run.store, run.sweep_id)
    assert [message.kind for _ in range(3) for message in feed.poll()] == []
    assert not feed.ended
    run.store.finish_command(wish.id, "no")
    assert [message.kind for message in feed.poll()][-1] == "end"
    assert feed.ended


def test_what_no_event_tells_of_is_told_within_some_polls(run: Running) -> None:
    feed = SweepFeed(run.store, run.sweep_id)
    feed.poll()
    run.store.grant(run.sweep_id, 5, "the cluster is full")
    told = [message for _ in range(POLLS_A_LOOK) for message in feed.poll()]
    assert [message.kind for message in told] == ["sweep"]
    assert json.loads(told[0].data)["id"] == run.sweep_id
