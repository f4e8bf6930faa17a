"""What trials and sweeps' drivers have written: the end of it, a search in it, and live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from api.access import READ, SweepId, TrialId
from api.answers import AT_ONCE, sends
from api.services import ServicesOf
from api.stream import SSE_MESSAGE
from orchestrator.store import Store
from orchestrator.views import logs
from orchestrator.views.logs import Source
from winnow.runs import LogPage

router = APIRouter(tags=["logs"])

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 10.0
LINES_AT_ONCE = 500
_POSITION = r"^\d{1,20}\.\d{1,15}$"

Tail = Annotated[int, Query(ge=1, le=10_000, description="How many lines at most")]
Since = Annotated[
    str | None,
    Query(pattern=_POSITION, description="A `position` of before: the lines after it, in order"),
]
Search = Annotated[
    str | None,
    Query(min_length=1, max_length=200, description="Only lines with this text, in any case"),
]
AttemptNumber = Annotated[int | None, Query(ge=1, lt=2**31, description="Default: the latest")]
RankNumber = Annotated[int, Query(ge=0, lt=100_000, description="Of a trial on several GPUs")]
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", pattern=r"^[\d.]{0,40}$")]

_LIVE = sends(
    "Server-sent events: `line` with a LogLine, whose id is its position; `end` when no more can "
    "come",
    {"text/event-stream": SSE_MESSAGE},
)


@router.get("/trials/{trial_id:id}/logs", dependencies=[READ])
def get_trial_logs(
    trial_id: TrialId,
    services: ServicesOf,
    tail: Tail = 200,
    since: Since = None,
    search: Search = None,
    attempt: AttemptNumber = None,
    rank: RankNumber = 0,
) -> LogPage:
    """What one rank of a trial's attempt has written, without secrets.

    Without `since` the last lines, with it those that came after it. Nothing if it has written
    nothing yet, or on a machine whose disk the API doesn't share.
    """
    source = _of_trial(services, trial_id, attempt, rank)
    if source is None:
        return LogPage(source="none", items=[], position=None)
    return logs.read(source, tail=tail, since=since, search=search)


@router.get("/sweeps/{sweep_id:id}/logs", dependencies=[READ])
def get_sweep_logs(
    sweep_id: SweepId,
    services: ServicesOf,
    tail: Tail = 200,
    since: Since = None,
    search: Search = None,
) -> LogPage:
    """What the sweep's driver has written, without secrets."""
    services.store.get_sweep(sweep_id)
    source = logs.driver(services.settings.home, sweep_id)
    return logs.read(source, tail=tail, since=since, search=search)


@router.get(
    "/trials/{trial_id:id}/logs:follow",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses=_LIVE,
)
async def follow_trial_logs(
    trial_id: TrialId,
    services: ServicesOf,
    tail: Tail = 200,
    search: Search = None,
    attempt: AttemptNumber = None,
    rank: RankNumber = 0,
    last_event_id: LastEventId = None,
) -> Response:
    """A trial's log live: its last lines, then each line as it is written, the next attempts' too.

    A client that comes back with `Last-Event-ID` misses nothing that is still kept.
    """
    await run_in_threadpool(services.store.get_trial, trial_id)

    def ended() -> bool:
        return services.store.get_trial(trial_id).state.ended

    return _followed(
        lambda: _of_trial(services, trial_id, attempt, rank), ended, tail, last_event_id, search
    )


@router.get(
    "/sweeps/{sweep_id:id}/logs:follow",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses=_LIVE,
)
async def follow_sweep_logs(
    sweep_id: SweepId,
    services: ServicesOf,
    tail: Tail = 200,
    search: Search = None,
    last_event_id: LastEventId = None,
) -> Response:
    """The log of the sweep's driver, live."""
    await run_in_threadpool(services.store.get_sweep, sweep_id)
    source = logs.driver(services.settings.home, sweep_id)

    def ended() -> bool:
        return _sweep_ended(services.store, sweep_id)

    return _followed(lambda: source, ended, tail, last_event_id, search)


def _of_trial(services: ServicesOf, trial_id: str, attempt: int | None, rank: int) -> Source | None:
    trial = services.store.get_trial(trial_id)
    return logs.of_trial(
        services.settings.home, trial.sweep_id, trial.number, attempt=attempt, rank=rank
    )


def _sweep_ended(store: Store, sweep_id: str) -> bool:
    return store.get_sweep(sweep_id).state.ended


def _followed(
    source: Callable[[], Source | None],
    ended: Callable[[], bool],
    tail: int,
    position: str | None,
    search: str | None,
) -> Response:
    return StreamingResponse(
        _lines(source, ended, tail, position or None, search),
        media_type="text/event-stream",
        headers=AT_ONCE,
    )


async def _lines(
    source: Callable[[], Source | None],
    ended: Callable[[], bool],
    tail: int,
    position: str | None,
    search: str | None,
) -> AsyncIterator[bytes]:
    """Lines as they come. What is read before the end was seen may not be all, so it is read once
    more after."""
    spoke = time.monotonic()
    yield b": hello\n\n"
    while True:
        over = await run_in_threadpool(ended)
        while (where := await run_in_threadpool(source)) is not None:
            count = LINES_AT_ONCE if position else tail
            page = await run_in_threadpool(_read, where, count, position, search)
            position = page.position or position
            if not page.items:
                break
            spoke = time.monotonic()
            yield b"".join(
                f"id: {line.position}\nevent: line\ndata: {line.model_dump_json()}\n\n".encode()
                for line in page.items
            )
        if over:
            yield b"event: end\ndata: {}\n\n"
            return
        if time.monotonic() - spoke > HEARTBEAT_SECONDS:
            spoke = time.monotonic()
            yield b": still here\n\n"
        await asyncio.sleep(POLL_SECONDS)


def _read(source: Source, count: int, position: str | None, search: str | None) -> LogPage:
    return logs.read(source, tail=count, since=position, search=search)
