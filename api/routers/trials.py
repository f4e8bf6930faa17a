"""Trials: show, and ask for changes, which take effect within seconds."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, status

from api.access import CONTROL, READ, TrialId
from api.asking import AskOf
from api.changes import check_clone, current_spec, planned_trials
from api.documents import OptionalDocument, takes
from api.services import StoreOf
from winnow.changes import Clone
from winnow.types import Command, CommandKind, Trial

router = APIRouter(tags=["trials"])


@router.get("/trials/{trial_id:id}", dependencies=[READ])
def get_trial(trial_id: TrialId, store: StoreOf) -> Trial:
    """A trial, with its latest numbers."""
    return store.get_trial(trial_id)


@router.post(
    "/trials/{trial_id:id}:clone",
    status_code=status.HTTP_202_ACCEPTED,
    dependencies=[CONTROL],
    openapi_extra=takes(Clone, required=False),
)
def clone_trial(
    trial_id: TrialId,
    document: OptionalDocument,
    store: StoreOf,
    ask: AskOf,
) -> Command:
    """Ask for a new trial like this one, with other values for `params`. An ended sweep goes on."""
    trial = store.get_trial(trial_id)
    planned = planned_trials(store, store.get_sweep(trial.sweep_id))
    payload = check_clone(document, current_spec(store, trial.sweep_id), trial, planned)
    return ask.trial(trial_id, "clone", payload)


_ACTIONS: dict[CommandKind, tuple[str, str]] = {
    "stop": ("End a trial", "Its sweep goes on."),
    "pause": ("Pause a trial", "It frees its workers until it is resumed."),
    "resume": ("Resume a paused trial", "It goes on from its last checkpoint."),
    "revive": (
        "Revive a trial",
        "Let one that was stopped, failed or was canceled go on from where it was.",
    ),
    "pin": ("Pin a trial", "No scheduler ends it, and its model is kept."),
    "unpin": ("Unpin a trial", "Schedulers may end it again."),
}


def _ask(action: CommandKind) -> Callable[..., Command]:
    def ask_of_trial(trial_id: TrialId, ask: AskOf) -> Command:
        return ask.trial(trial_id, action)

    return ask_of_trial


for _action, (_summary, _what) in _ACTIONS.items():
    router.add_api_route(
        f"/trials/{{trial_id:id}}:{_action}",
        _ask(_action),
        methods=["POST"],
        name=f"{_action}_trial",
        summary=_summary,
        description=f"{_what} The answer is the command; its `result` is null until it was carried "
        "out. 409 if the trial can't in its state; the same request twice is one command while the "
        "first still waits.",
        status_code=status.HTTP_202_ACCEPTED,
        dependencies=[CONTROL],
        response_model=Command,
    )
