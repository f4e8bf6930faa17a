"""Sweeps: create, list, show, change, replay, and all that belongs to one."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request, Response, status
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.access import READ, Controller, Reader, Submitter, SweepId
from api.changes import (
    check_add,
    check_extend,
    check_narrow,
    check_set,
    current_spec,
    planned_trials,
)
from api.checks import check_sweep
from api.documents import Document, read_document, takes
from api.errors import invalid_replay
from api.explain import parse_as
from api.services import ID, ServicesOf, StoreOf, asked
from api.stream import SweepFeed, stream
from orchestrator import replay as replaying
from winnow.changes import Add, Extend, Narrow, Set
from winnow.spec import ReplayRequest, SweepSpec
from winnow.types import Command, Decision, Event, Metrics, Page, Replay, Sweep, Trial

router = APIRouter(prefix="/sweeps", tags=["sweeps"])

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(pattern=ID)]
TrialIds = Annotated[
    str | None,
    Query(description="Ids, with commas between", pattern=r"^[A-Za-z0-9_,-]{0,50000}$"),
]
EventId = Annotated[int, Query(ge=0, lt=2**63)]


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=Sweep,
    openapi_extra=takes(SweepSpec),
)
async def create_sweep(
    request: Request, response: Response, services: ServicesOf, who: Submitter
) -> Sweep:
    """Check a sweep, data and model included, and queue it. Nothing starts if a check fails."""
    document = await read_document(request)

    def create() -> Sweep:
        resources, age = services.store.cluster()
        checked = check_sweep(
            document,
            cluster=resources if age is not None and resources else None,
            variables=services.settings.environment,
            projects={p.id: p for p in services.store.projects() if who.sees(p.id)},
            here=services.settings.ray_is_here,
            preflight=services.preflight,
        )
        return services.store.create_sweep(
            checked.spec.model_dump(mode="json"),
            checked.planned,
            checked.spec.name,
            checked.facts,
        )

    sweep = await anyio.to_thread.run_sync(create, limiter=services.checks)
    response.headers["Location"] = f"/v1/sweeps/{sweep.id}"
    return sweep


@router.get("")
def list_sweeps(
    store: StoreOf, who: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Page[Sweep]:
    """Sweeps, newest first."""
    return store.list_sweeps(limit, cursor, project=who.project)


@router.get("/{sweep_id}", dependencies=[READ])
def get_sweep(sweep_id: SweepId, store: StoreOf) -> Sweep:
    return store.get_sweep(sweep_id)


@router.post("/{sweep_id}:cancel", status_code=status.HTTP_202_ACCEPTED)
def cancel_sweep(sweep_id: SweepId, store: StoreOf, who: Controller) -> Command:
    """Ask for a sweep to end. 409 if it has ended."""
    command = store.add_command(sweep_id, None, "cancel", who.name)
    if store.cancel_queued(sweep_id):  # nobody has begun it, so nobody has to be waited for
        store.finish_command(command.id, "canceled before it began")
    return asked(store, command)


@router.post("/{sweep_id}:add", status_code=status.HTTP_202_ACCEPTED, openapi_extra=takes(Add))
def add_configurations(
    sweep_id: SweepId, document: Document, store: StoreOf, who: Controller
) -> Page[Command]:
    """Ask for one configuration, or a list of them, to be run too. An ended sweep goes on.

    One command a configuration, in their order.
    """
    planned = planned_trials(store, store.get_sweep(sweep_id))
    payloads = check_add(document, current_spec(store, sweep_id), sweep_id, planned)
    added = [store.add_command(sweep_id, None, "add", who.name, p) for p in payloads]
    return Page[Command](items=[asked(store, command) for command in added])


@router.post(
    "/{sweep_id}:extend", status_code=status.HTTP_202_ACCEPTED, openapi_extra=takes(Extend)
)
def extend_sweep(sweep_id: SweepId, document: Document, store: StoreOf, who: Controller) -> Command:
    """Ask for more trials from the sampler. An ended sweep goes on. 409 for a grid."""
    planned = planned_trials(store, store.get_sweep(sweep_id))
    payload = check_extend(document, current_spec(store, sweep_id), sweep_id, planned)
    return asked(store, store.add_command(sweep_id, None, "extend", who.name, payload))


@router.post(
    "/{sweep_id}:narrow", status_code=status.HTTP_202_ACCEPTED, openapi_extra=takes(Narrow)
)
def narrow_sweep(sweep_id: SweepId, document: Document, store: StoreOf, who: Controller) -> Command:
    """Ask for the sampler to propose from a smaller space from now on. Trials that exist stay."""
    payload = check_narrow(document, current_spec(store, sweep_id))
    return asked(store, store.add_command(sweep_id, None, "narrow", who.name, payload))


@router.post("/{sweep_id}:set", status_code=status.HTTP_202_ACCEPTED, openapi_extra=takes(Set))
def set_sweep(sweep_id: SweepId, document: Document, store: StoreOf, who: Controller) -> Command:
    """Ask for another concurrency, priority, weight or budget. What is left out stays."""
    payload = check_set(document, current_spec(store, sweep_id), store.get_sweep(sweep_id))
    return asked(store, store.add_command(sweep_id, None, "set", who.name, payload))


@router.post(
    "/{sweep_id}:replay",
    dependencies=[READ],
    openapi_extra=takes(ReplayRequest),
)
async def replay_sweep(sweep_id: SweepId, request: Request, services: ServicesOf) -> Replay:
    """What another scheduler would have made of an ended sweep. Nothing is trained or stored.

    409 if the sweep has not ended, or fewer than two of its trials completed.
    """
    wanted, errors = parse_as(ReplayRequest, await read_document(request))
    if wanted is None:
        raise invalid_replay(errors)
    replay = partial(replaying.replay_sweep, services.store, sweep_id, wanted)
    return await anyio.to_thread.run_sync(replay, limiter=services.replays)


@router.post("/{sweep_id}:{action}", status_code=status.HTTP_202_ACCEPTED)
def ask_of_sweep(
    sweep_id: SweepId, action: Literal["pause", "resume"], store: StoreOf, who: Controller
) -> Command:
    """Ask for a sweep to be paused (its trials free their workers) or resumed.

    The answer is the command; its `result` is null until it was carried out.
    """
    return asked(store, store.add_command(sweep_id, None, action, who.name))


@router.get("/{sweep_id}/commands", dependencies=[READ])
def list_commands(
    sweep_id: SweepId,
    store: StoreOf,
    after: EventId = 0,
    limit: Limit = 500,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Page[Command]:
    """What was asked of the sweep and its trials, by whom, and what became of it, in order."""
    found = store.commands(sweep_id, after if cursor is None else cursor, limit + 1)
    return _page(found, limit, Page[Command])


@router.get("/{sweep_id}/trials", dependencies=[READ])
def list_trials(
    sweep_id: SweepId, store: StoreOf, limit: Limit = 500, cursor: Cursor = None
) -> Page[Trial]:
    """The sweep's trials by number, the baseline and the report on the winner among them."""
    return store.list_trials(sweep_id, limit=limit, after=cursor)


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


@router.get("/{sweep_id}/decisions", dependencies=[READ])
def list_decisions(
    sweep_id: SweepId,
    store: StoreOf,
    trial: Annotated[str | None, Query(pattern=ID)] = None,
    after: EventId = 0,
    limit: Limit = 500,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Page[Decision]:
    """What the scheduler decided about trials, and why, in order; of one trial if it is named."""
    found = store.decisions(sweep_id, trial, after if cursor is None else cursor, limit + 1)
    return _page(found, limit, Page[Decision])


@router.get("/{sweep_id}/events", dependencies=[READ])
def list_events(
    sweep_id: SweepId,
    store: StoreOf,
    after: EventId = 0,
    limit: Limit = 500,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Page[Event]:
    """What happened to the sweep since the event `after`, in order."""
    found = store.events_after(sweep_id, after if cursor is None else cursor, limit + 1)
    return _page(found, limit, Page[Event])


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


def _page(found: list[Any], limit: int, kind: type[Page[Any]]) -> Any:
    """A page from one row more than asked for; its cursor is the last row's id."""
    following = str(found[limit - 1].id) if len(found) > limit else None
    return kind(items=found[:limit], next=following)
