"""One trial: show it, stop it."""

from __future__ import annotations

from fastapi import APIRouter, status

from api.services import Id, OwnerOf, StoreOf
from winnow.types import Trial

router = APIRouter(prefix="/trials", tags=["trials"])


@router.get("/{trial_id}")
def get_trial(trial_id: Id, store: StoreOf) -> Trial:
    return store.get_trial(trial_id)


@router.post("/{trial_id}:stop", status_code=status.HTTP_202_ACCEPTED)
def stop_trial(trial_id: Id, store: StoreOf, owner: OwnerOf) -> Trial:
    """Ask for one trial to end; the sweep goes on. 409 if it has ended."""
    trial = store.get_trial(trial_id)
    store.add_command(trial.sweep_id, trial_id, "stop", owner)
    return store.get_trial(trial_id)
