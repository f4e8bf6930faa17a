"""Sweeps live, as server-sent events. See `api/stream.py` for the messages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.access import READ, Reader, SweepId
from api.answers import AT_ONCE, sends
from api.parameters import words
from api.services import ServicesOf
from api.stream import SSE_MESSAGE, Live

router = APIRouter(tags=["streams"])

LastEventId = Annotated[
    int | None, Query(ge=0, lt=2**63, description="As the header, for those who can't send one")
]
LastEventIdHeader = Annotated[str | None, Header(alias="Last-Event-ID", pattern=r"^\d{0,18}$")]
Types = Annotated[
    str | None,
    Query(
        description="Types of events, with commas between; default: all",
        pattern=r"^[a-z_.,]{1,500}$",
        examples=["sweep.created,sweep.state"],
    ),
]
_EVENTS = sends(
    "Messages `event`, `progress`, `points`, `sweep`, `reset` and `end`",
    {"text/event-stream": SSE_MESSAGE},
)


@router.get(
    "/sweeps/{sweep_id:id}/stream",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses=_EVENTS,
)
async def stream_sweep(
    sweep_id: SweepId,
    services: ServicesOf,
    last_event_id: LastEventId = None,
    last_event_id_header: LastEventIdHeader = None,
) -> StreamingResponse:
    """The sweep live. After `Last-Event-ID`, or of what is yet to come; where events are missing
    because they are no longer kept, or because the client reads too slowly, a `reset` says so."""
    last = _last(last_event_id, last_event_id_header)
    # It has begun to listen before the answer begins: what happens after a client has seen the
    # answer's head will be in the stream.
    return _LiveResponse(await services.hub.sweep(sweep_id, last))


@router.get(
    "/events/stream",
    response_class=StreamingResponse,
    responses=_EVENTS,
)
async def stream_events(
    services: ServicesOf,
    who: Reader,
    types: Types = None,
    last_event_id: LastEventId = None,
    last_event_id_header: LastEventIdHeader = None,
) -> StreamingResponse:
    """What happens to all sweeps that the token sees, live: messages `event` and `reset` only."""
    named = None if types is None else frozenset(words(types))
    last = _last(last_event_id, last_event_id_header)
    return _LiveResponse(await services.hub.events(who.sees, named, last))


def _last(query: int | None, header: str | None) -> int | None:
    return int(header) if header else query


class _LiveResponse(StreamingResponse):
    """A stream that is left when its client is gone, also if it was before the first bytes."""

    def __init__(self, live: Live) -> None:
        super().__init__(
            live.chunks,
            media_type="text/event-stream",
            headers=AT_ONCE,
        )
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.leave()
