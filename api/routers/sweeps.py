"""Sweeps: create, list, show and replay."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Response, status

from api.access import READ, Reader, Submitter, SweepId
from api.checks import checked as check
from api.documents import Document, takes
from api.errors import invalid_replay
from api.explain import parse_as
from api.idempotency import OnceOf, creates
from api.pages import Cursor, Limit
from api.parameters import Moment
from api.services import ServicesOf, StoreOf
from orchestrator.hindsight import replay as replaying
from orchestrator.store import Listing
from winnow.changes import PROJECT_NAME
from winnow.replays import Replay
from winnow.spec import ReplayRequest, SweepSpec
from winnow.types import Page, Sweep, SweepState

router = APIRouter(prefix="/sweeps", tags=["sweeps"])

_STATE = f"(?:{'|'.join(SweepState)})"
_STATES = f"^{_STATE}(?:,{_STATE})*$"


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=Sweep,
    openapi_extra=takes(SweepSpec),
)
async def create_sweep(
    document: Document, response: Response, services: ServicesOf, who: Submitter, once: OnceOf
) -> Sweep:
    """Check a sweep, data and model included, and queue it. Nothing starts if a check fails."""

    def create() -> Sweep:
        checked, _ = check(services, who, document)
        return services.store.create_sweep(
            checked.spec.model_dump(mode="json"),
            checked.planned,
            checked.spec.name,
            checked.facts,
            once=creates(once, "/v1/sweeps/{id}"),
        )

    sweep = await anyio.to_thread.run_sync(create, limiter=services.checks)
    response.headers["Location"] = f"/v1/sweeps/{sweep.id}"
    return sweep


@router.get("")
def list_sweeps(
    store: StoreOf,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: Annotated[
        str | None, Query(pattern=_STATES, description="States, with commas between")
    ] = None,
    project: Annotated[str | None, Query(pattern=PROJECT_NAME)] = None,
    name: Annotated[
        str | None, Query(min_length=1, max_length=200, description="A part of it, in any case")
    ] = None,
    created_after: Annotated[Moment | None, Query(description="Then, or later")] = None,
    created_before: Annotated[Moment | None, Query(description="Before then")] = None,
    sort: Annotated[
        Literal["-created_at", "created_at", "name", "-name"],
        Query(description="With a dash: falling"),
    ] = "-created_at",
) -> Page[Sweep]:
    """Sweeps, newest first, unless `sort` says otherwise; those that fit all that is named."""
    if project is not None and not who.sees(project):
        return Page[Sweep](items=[])
    return store.list_sweeps(
        limit,
        cursor,
        Listing(
            project=project or who.project,
            states=None if state is None else [SweepState(s) for s in state.split(",")],
            name=name,
            created_after=created_after,
            created_before=created_before,
            sort=sort,
        ),
    )


@router.get("/{sweep_id:id}", dependencies=[READ])
def get_sweep(sweep_id: SweepId, store: StoreOf) -> Sweep:
    """A sweep, with where it stands."""
    return store.get_sweep(sweep_id)


@router.post(
    "/{sweep_id:id}:replay",
    dependencies=[READ],
    openapi_extra=takes(ReplayRequest),
)
async def replay_sweep(sweep_id: SweepId, document: Document, services: ServicesOf) -> Replay:
    """What another scheduler would have made of an ended sweep. Nothing is trained or stored.

    409 if the sweep has not ended, or fewer than two of its trials completed.
    """
    wanted, errors = parse_as(ReplayRequest, document)
    if wanted is None:
        raise invalid_replay(errors)
    replay = partial(replaying.replay_sweep, services.store, sweep_id, wanted)
    return await anyio.to_thread.run_sync(replay, limiter=services.replays)
