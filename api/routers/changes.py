"""Changes to a sweep while it runs, as commands, and what became of them.

Each answers with the command that it makes; the command's `result` is null until the sweep's driver
has carried it out, which takes a moment.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, status

from api.access import READ, Controller, SweepId
from api.changes import (
    check_add,
    check_extend,
    check_narrow,
    check_set,
    current_spec,
    planned_trials,
)
from api.documents import Document, takes
from api.idempotency import OnceOf
from api.pages import EventId, Limit, page
from api.resources import IfMatch
from api.services import StoreOf
from winnow.changes import Add, Extend, Narrow, Set
from winnow.types import Command, Page

router = APIRouter(prefix="/sweeps", tags=["changes"])


@router.post("/{sweep_id:id}:cancel", status_code=status.HTTP_202_ACCEPTED)
def cancel_sweep(
    sweep_id: SweepId, store: StoreOf, who: Controller, once: OnceOf, unchanged: IfMatch
) -> Command:
    """Ask for a sweep to end. 409 if it has ended."""
    return store.requests.cancel(sweep_id, who.name, once=once, unchanged=unchanged)


@router.post("/{sweep_id:id}:add", status_code=status.HTTP_202_ACCEPTED, openapi_extra=takes(Add))
def add_configurations(
    sweep_id: SweepId,
    document: Document,
    store: StoreOf,
    who: Controller,
    once: OnceOf,
    unchanged: IfMatch,
) -> Page[Command]:
    """Ask for one configuration, or a list of them, to be run too. An ended sweep goes on.

    One command a configuration, in their order; all of them, or none.
    """
    planned = planned_trials(store, store.get_sweep(sweep_id))
    payloads = check_add(document, current_spec(store, sweep_id), sweep_id, planned)
    return store.requests.ask_all(
        sweep_id, "add", who.name, payloads, once=once, unchanged=unchanged
    )


@router.post(
    "/{sweep_id:id}:extend", status_code=status.HTTP_202_ACCEPTED, openapi_extra=takes(Extend)
)
def extend_sweep(
    sweep_id: SweepId,
    document: Document,
    store: StoreOf,
    who: Controller,
    once: OnceOf,
    unchanged: IfMatch,
) -> Command:
    """Ask for more trials from the sampler. An ended sweep goes on. 409 for a grid."""
    planned = planned_trials(store, store.get_sweep(sweep_id))
    payload = check_extend(document, current_spec(store, sweep_id), sweep_id, planned)
    return store.requests.ask(
        sweep_id, None, "extend", who.name, payload, once=once, unchanged=unchanged
    )


@router.post(
    "/{sweep_id:id}:narrow", status_code=status.HTTP_202_ACCEPTED, openapi_extra=takes(Narrow)
)
def narrow_sweep(
    sweep_id: SweepId,
    document: Document,
    store: StoreOf,
    who: Controller,
    once: OnceOf,
    unchanged: IfMatch,
) -> Command:
    """Ask for the sampler to propose from a smaller space from now on. Trials that exist stay."""
    payload = check_narrow(document, current_spec(store, sweep_id))
    return store.requests.ask(
        sweep_id, None, "narrow", who.name, payload, once=once, unchanged=unchanged
    )


@router.post("/{sweep_id:id}:set", status_code=status.HTTP_202_ACCEPTED, openapi_extra=takes(Set))
def set_sweep(
    sweep_id: SweepId,
    document: Document,
    store: StoreOf,
    who: Controller,
    once: OnceOf,
    unchanged: IfMatch,
) -> Command:
    """Ask for another concurrency, priority, weight or budget. What is left out stays."""
    payload = check_set(document, current_spec(store, sweep_id), store.get_sweep(sweep_id))
    return store.requests.ask(
        sweep_id, None, "set", who.name, payload, once=once, unchanged=unchanged
    )


@router.post("/{sweep_id:id}:pause", status_code=status.HTTP_202_ACCEPTED)
def pause_sweep(
    sweep_id: SweepId, store: StoreOf, who: Controller, once: OnceOf, unchanged: IfMatch
) -> Command:
    """Ask for a sweep's trials to free their workers, until it is resumed."""
    return store.requests.ask(sweep_id, None, "pause", who.name, once=once, unchanged=unchanged)


@router.post("/{sweep_id:id}:resume", status_code=status.HTTP_202_ACCEPTED)
def resume_sweep(
    sweep_id: SweepId, store: StoreOf, who: Controller, once: OnceOf, unchanged: IfMatch
) -> Command:
    """Ask for a paused sweep to go on."""
    return store.requests.ask(sweep_id, None, "resume", who.name, once=once, unchanged=unchanged)


@router.get("/{sweep_id:id}/commands", dependencies=[READ])
def list_commands(
    sweep_id: SweepId,
    store: StoreOf,
    after: EventId = 0,
    limit: Limit = 500,
    cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
) -> Page[Command]:
    """What was asked of the sweep and its trials, by whom, and what became of it, in order."""
    found = store.commands(sweep_id, after if cursor is None else cursor, limit + 1)
    return page(found, limit, Page[Command])
