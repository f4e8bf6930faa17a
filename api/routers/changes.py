"""Changes to a sweep while it runs, as commands, and what became of them.

Each answers with the command that it makes; the command's `result` is null until the sweep's driver
has carried it out, which takes a moment.
"""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, status

from api.access import CONTROL, READ, SweepId
from api.asking import AskOf
from api.changes import (
    check_add,
    check_extend,
    check_narrow,
    check_set,
    current_spec,
    planned_trials,
)
from api.documents import Document, takes
from api.pages import After, Limit, page
from api.services import StoreOf
from winnow.changes import Add, Extend, Narrow, Set
from winnow.types import Command, Page

router = APIRouter(prefix="/sweeps", tags=["changes"])
_asks = partial(router.post, status_code=status.HTTP_202_ACCEPTED, dependencies=[CONTROL])


@_asks("/{sweep_id:id}:cancel")
def cancel_sweep(sweep_id: SweepId, ask: AskOf) -> Command:
    """Ask for a sweep to end. 409 if it has ended."""
    return ask.to_cancel(sweep_id)


@_asks("/{sweep_id:id}:add", openapi_extra=takes(Add))
def add_configurations(
    sweep_id: SweepId, document: Document, store: StoreOf, ask: AskOf
) -> Page[Command]:
    """Ask for one configuration, or a list of them, to be run too. An ended sweep goes on.

    One command a configuration, in their order; all of them, or none.
    """
    planned = planned_trials(store, store.get_sweep(sweep_id))
    payloads = check_add(document, current_spec(store, sweep_id), sweep_id, planned)
    return ask.sweep_each(sweep_id, "add", payloads)


@_asks("/{sweep_id:id}:extend", openapi_extra=takes(Extend))
def extend_sweep(sweep_id: SweepId, document: Document, store: StoreOf, ask: AskOf) -> Command:
    """Ask for more trials from the sampler. An ended sweep goes on. 409 for a grid."""
    planned = planned_trials(store, store.get_sweep(sweep_id))
    payload = check_extend(document, current_spec(store, sweep_id), sweep_id, planned)
    return ask.sweep(sweep_id, "extend", payload)


@_asks("/{sweep_id:id}:narrow", openapi_extra=takes(Narrow))
def narrow_sweep(sweep_id: SweepId, document: Document, store: StoreOf, ask: AskOf) -> Command:
    """Ask for the sampler to propose from a smaller space from now on. Trials that exist stay."""
    payload = check_narrow(document, current_spec(store, sweep_id))
    return ask.sweep(sweep_id, "narrow", payload)


@_asks("/{sweep_id:id}:set", openapi_extra=takes(Set))
def set_sweep(sweep_id: SweepId, document: Document, store: StoreOf, ask: AskOf) -> Command:
    """Ask for another concurrency, priority, weight or budget. What is left out stays."""
    payload = check_set(document, current_spec(store, sweep_id), store.get_sweep(sweep_id))
    return ask.sweep(sweep_id, "set", payload)


@_asks("/{sweep_id:id}:pause")
def pause_sweep(sweep_id: SweepId, ask: AskOf) -> Command:
    """Ask for a sweep's trials to free their workers, until it is resumed."""
    return ask.sweep(sweep_id, "pause")


@_asks("/{sweep_id:id}:resume")
def resume_sweep(sweep_id: SweepId, ask: AskOf) -> Command:
    """Ask for a paused sweep to go on."""
    return ask.sweep(sweep_id, "resume")


@router.get("/{sweep_id:id}/commands", dependencies=[READ])
def list_commands(
    sweep_id: SweepId,
    store: StoreOf,
    after: After,
    limit: Limit = 500,
) -> Page[Command]:
    """What was asked of the sweep and its trials, by whom, and what became of it, in order."""
    found = store.commands(sweep_id, after, limit + 1)
    return page(found, limit, Page[Command])
