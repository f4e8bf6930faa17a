"""What trials report: learning curves and evaluations, stored and live."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.access import READ, SweepId
from api.pages import EventId
from api.services import StoreOf
from api.stream import SweepFeed, stream
from winnow.types import Metrics

router = APIRouter(prefix="/sweeps", tags=["metrics"])

TrialIds = Annotated[
    str | None,
    Query(description="Ids, with commas between", pattern=r"^[A-Za-z0-9_,-]{0,50000}$"),
]


@router.get("/{sweep_id}/metrics", dependencies=[READ])
def get_metrics(
    sweep_id: SweepId,
    store: StoreOf,
    trials: TrialIds = None,
    max_points: Annotated[int, Query(ge=2, le=10_000, description="A trial")] = 500,
    after_step: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    details: Annotated[
        bool, Query(description="Throughput, memory, padding and gradient noise too")
    ] = False,
) -> Metrics:
    """Learning curves, thinned out but with their extremes kept, and all evaluations."""
    ids = [t for t in trials.split(",") if t] if trials is not None else None
    return Metrics(
        curves=store.curves(sweep_id, ids, after_step, max_points, details),
        evaluations=store.evaluations(sweep_id, ids),
    )


@router.get(
    "/{sweep_id}/stream",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "See api/stream.py"}},
)
async def stream_sweep(
    sweep_id: SweepId,
    store: StoreOf,
    last_event_id: EventId = 0,
    last_event_id_header: Annotated[
        str | None, Header(alias="Last-Event-ID", pattern=r"^\d{0,18}$")
    ] = None,
) -> StreamingResponse:
    """The sweep live, as server-sent events: resumes after `Last-Event-ID`."""
    feed = SweepFeed(store, sweep_id, int(last_event_id_header or last_event_id))
    # The first look is taken before the answer begins: what happens after a client has seen the
    # answer's head will be in the stream.
    first = await run_in_threadpool(feed.poll)
    return StreamingResponse(
        stream(feed, first),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )
