"""Trials: list, show, and ask for changes, which take effect within seconds."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, status

from api.access import READ, Controller, SweepId, TrialId
from api.changes import check_clone, current_spec, planned_trials
from api.documents import OptionalDocument, takes
from api.idempotency import OnceOf
from api.pages import Cursor, Limit
from api.services import StoreOf
from winnow.changes import Clone
from winnow.types import Command, Page, Trial

router = APIRouter(tags=["trials"])

TrialAction = Literal["stop", "pause", "resume", "revive", "pin", "unpin"]


@router.get("/sweeps/{sweep_id}/trials", dependencies=[READ])
def list_trials(
    sweep_id: SweepId, store: StoreOf, limit: Limit = 500, cursor: Cursor = None
) -> Page[Trial]:
    """The sweep's trials by number, the baseline and the report on the winner among them."""
    return store.list_trials(sweep_id, limit=limit, after=cursor)


@router.get("/trials/{trial_id}", dependencies=[READ])
def get_trial(trial_id: TrialId, store: StoreOf) -> Trial:
    return store.get_trial(trial_id)


@router.post(
    "/trials/{trial_id}:clone",
    status_code=status.HTTP_202_ACCEPTED,
    openapi_extra=takes(Clone, required=False),
)
def clone_trial(
    trial_id: TrialId, document: OptionalDocument, store: StoreOf, who: Controller, once: OnceOf
) -> Command:
    """Ask for a new trial like this one, with other values for `params`. An ended sweep goes on."""
    trial = store.get_trial(trial_id)
    planned = planned_trials(store, store.get_sweep(trial.sweep_id))
    payload = check_clone(document, current_spec(store, trial.sweep_id), trial, planned)
    return store.requests.ask(trial.sweep_id, trial_id, "clone", who.name, payload, once=once)


@router.post("/trials/{trial_id}:{action}", status_code=status.HTTP_202_ACCEPTED)
def ask_of_trial(
    trial_id: TrialId, action: TrialAction, store: StoreOf, who: Controller, once: OnceOf
) -> Command:
    """Ask for a trial to be stopped, paused, resumed, revived, pinned or unpinned.

    `stop` ends it. `pause` frees its workers until `resume`. `revive` lets one that was stopped,
    failed or was canceled go on. `pin` keeps every scheduler from ending it. The answer is the
    command; its `result` is null until it was carried out. 409 if the trial can't in its state; the
    same request twice is one command while the first still waits.
    """
    trial = store.get_trial(trial_id)
    return store.requests.ask(trial.sweep_id, trial_id, action, who.name, once=once)
