"""What happened: events, of one sweep or of all, and the scheduler's decisions, in order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import READ, Reader, SweepId, TrialId
from api.pages import After, Limit, page
from api.parameters import ID
from api.services import StoreOf
from winnow.types import Decision, Event, Page

router = APIRouter(tags=["history"])


@router.get("/sweeps/{sweep_id:id}/decisions", dependencies=[READ])
def list_decisions(
    sweep_id: SweepId,
    store: StoreOf,
    after: After,
    trial: Annotated[str | None, Query(pattern=ID)] = None,
    limit: Limit = 500,
) -> Page[Decision]:
    """What the scheduler decided about trials, and why, in order; of one trial if it is named."""
    found = store.decisions(sweep_id, trial, after, limit + 1)
    return page(found, limit, Page[Decision])


@router.get("/sweeps/{sweep_id:id}/events", dependencies=[READ])
def list_events(
    sweep_id: SweepId,
    store: StoreOf,
    after: After,
    limit: Limit = 500,
) -> Page[Event]:
    """What happened to the sweep since the event `after`, in order."""
    found = store.events_after(sweep_id, after, limit + 1)
    return page(found, limit, Page[Event])


@router.get("/trials/{trial_id:id}/decisions", dependencies=[READ])
def list_decisions_of_trial(
    trial_id: TrialId,
    store: StoreOf,
    limit: Limit = 500,
    cursor: Annotated[int, Query(ge=0, lt=2**63)] = 0,
) -> Page[Decision]:
    """What the scheduler decided about one trial, and why, in order."""
    sweep_id = store.get_trial(trial_id).sweep_id
    return page(store.decisions(sweep_id, trial_id, cursor, limit + 1), limit, Page[Decision])


@router.get("/events")
def list_all_events(
    store: StoreOf,
    who: Reader,
    after: After,
    limit: Limit = 500,
) -> Page[Event]:
    """What happened to all sweeps that the token sees since the event `after`, in order."""
    return page(store.history.events(who.project, after, limit + 1), limit, Page[Event])
