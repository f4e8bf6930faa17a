"""Sweeps: create, list, show and replay."""

from __future__ import annotations

from functools import partial

import anyio.to_thread
from fastapi import APIRouter, Request, Response, status

from api.access import READ, Reader, Submitter, SweepId
from api.checks import checked as check
from api.documents import read_document, takes
from api.errors import invalid_replay
from api.explain import parse_as
from api.idempotency import OnceOf, creates
from api.pages import Cursor, Limit
from api.services import ServicesOf, StoreOf
from orchestrator import replay as replaying
from winnow.spec import ReplayRequest, SweepSpec
from winnow.types import Page, Replay, Sweep

router = APIRouter(prefix="/sweeps", tags=["sweeps"])


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    response_model=Sweep,
    openapi_extra=takes(SweepSpec),
)
async def create_sweep(
    request: Request, response: Response, services: ServicesOf, who: Submitter, once: OnceOf
) -> Sweep:
    """Check a sweep, data and model included, and queue it. Nothing starts if a check fails."""
    document = await read_document(request)

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
    store: StoreOf, who: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Page[Sweep]:
    """Sweeps, newest first."""
    return store.list_sweeps(limit, cursor, project=who.project)


@router.get("/{sweep_id:id}", dependencies=[READ])
def get_sweep(sweep_id: SweepId, store: StoreOf) -> Sweep:
    return store.get_sweep(sweep_id)


@router.post(
    "/{sweep_id:id}:replay",
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
