"""What trials have saved: lists of it, and the files themselves as an archive."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from api.access import READ, TrialId
from api.answers import FILE, as_file, sends
from api.errors import ProblemError
from api.pages import Limit
from api.services import Services, ServicesOf, StoreOf
from orchestrator.errors import NotFound
from orchestrator.views.archive import ArchiveError, archive
from winnow.runs import Attempt, Checkpoint, CheckpointKind
from winnow.types import Page

router = APIRouter(prefix="/trials", tags=["checkpoints"])

TAR = "application/x-tar"
_CURSOR = r"^\d{1,9}-\d{1,9}-(?:state|export)$"

Step = Annotated[int, Query(ge=0, lt=2**31)]


@router.get("/{trial_id:id}/attempts", dependencies=[READ])
def list_attempts(
    trial_id: TrialId,
    store: StoreOf,
    limit: Limit = 100,
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,9}$")] = None,
) -> Page[Attempt]:
    """A trial's runs, in order: one, and another each time it was resumed or run again."""
    return store.history.attempts(trial_id, int(cursor or 0), limit)


@router.get("/{trial_id:id}/checkpoints", dependencies=[READ])
def list_checkpoints(
    trial_id: TrialId,
    store: StoreOf,
    limit: Limit = 100,
    cursor: Annotated[str | None, Query(pattern=_CURSOR)] = None,
) -> Page[Checkpoint]:
    """What a trial has saved, by attempt and step; also what was deleted since."""
    after = None
    if cursor is not None:
        attempt, step, kind = cursor.split("-")
        after = (int(attempt), int(step), kind)
    return store.history.checkpoints(trial_id, after=after, limit=limit)


_ARCHIVE = sends("A tar archive, made while it is sent", {TAR: FILE})


@router.get(
    "/{trial_id:id}/checkpoints/{step:int}/archive",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses=_ARCHIVE,
)
def download_checkpoint(
    trial_id: TrialId,
    step: int,
    services: ServicesOf,
    kind: Annotated[
        CheckpointKind | None, Query(description="Default: the model, if there is one there")
    ] = None,
    attempt: Annotated[int | None, Query(ge=1, lt=2**31, description="Default: the latest")] = None,
) -> Response:
    """The files of the checkpoint of a step, as a tar archive. 410 if it was deleted."""
    if step >= 2**31:
        raise NotFound(f"checkpoint of trial {trial_id} at step", step)
    found = services.store.history.checkpoint_at(trial_id, step, kind, attempt)
    if found is None:
        raise NotFound(f"checkpoint of trial {trial_id} at step", step)
    return _sent(services, found)


@router.get(
    "/{trial_id:id}:export",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses=_ARCHIVE,
)
def export_model(trial_id: TrialId, services: ServicesOf) -> Response:
    """A trial's trained model, in the hub's format, as a tar archive."""
    found = services.store.history.checkpoint_at(trial_id, None, "export")
    if found is None:
        raise NotFound("model of trial", trial_id)
    return _sent(services, found)


def _sent(services: Services, checkpoint: Checkpoint) -> Response:
    if not checkpoint.available:
        raise ProblemError(
            410,
            "checkpoint-gone",
            f"the {checkpoint.kind} of trial {checkpoint.trial_id} at step {checkpoint.step} was "
            "deleted, or is damaged; `checkpoints.keep_best` in the sweep file says how many "
            "models are kept",
            title="Not there any more",
        )
    trial_id = checkpoint.trial_id
    sweep_id = services.store.get_trial(trial_id).sweep_id
    within = [str(services.settings.home / "sweeps" / sweep_id)]
    if (store := services.store.history.store_of(sweep_id)) is not None:
        within.append(f"{store.rstrip('/')}/{sweep_id}")
    name = f"{trial_id}-{checkpoint.kind}-{checkpoint.step}"
    try:
        made = archive(checkpoint.path, name, within)
    except ArchiveError as error:
        raise ProblemError(
            404, "checkpoint-elsewhere", str(error), title="The files are not here"
        ) from None
    return StreamingResponse(
        made.chunks(),
        media_type=TAR,
        headers=as_file(f"{name}.tar") | {"Content-Length": str(made.size)},
    )
