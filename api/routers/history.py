"""What happened to a sweep: its events and the scheduler's decisions, in order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import READ, SweepId
from api.pages import EventId, Limit, page
from api.services import ID, StoreOf
from winnow.types import Decision, Event, Page

router = APIRouter(prefix="/sweeps", tags=["history"])


@router.get("/{sweep_id:id}/decisions", dependencies=[READ])
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
    return page(found, limit, Page[Decision])


@router.get("/{sweep_id:id}/events", dependencies=[READ])
def list_events(
    sweep_id: SweepId,
    store: StoreOf,
    after: EventId = 0,
    limit: Limit = 500,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Page[Event]:
    """What happened to the sweep since the event `after`, in order."""
    found = store.events_after(sweep_id, after if cursor is None else cursor, limit + 1)
    return page(found, limit, Page[Event])
