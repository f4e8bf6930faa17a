"""Which parameters matter."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query

from api.access import READ, SweepId
from api.services import ServicesOf
from orchestrator.views.importance import importance_of
from winnow.types import Importance

router = APIRouter(prefix="/sweeps", tags=["sweeps"])


@router.get("/{sweep_id:id}/importance", dependencies=[READ])
async def get_importance(
    sweep_id: SweepId,
    services: ServicesOf,
    samples: Annotated[
        int | None,
        Query(
            ge=1,
            lt=2**53,
            description="Judge trials by what was measured at most so many samples into training, "
            "so that those count that were stopped later",
        ),
    ] = None,
) -> Importance:
    """How much each parameter matters for being among the best trials (PED-ANOVA).

    Without `samples`, by the objective of the trials that completed; trials that diverged count as
    the worst. Of too few trials nothing is said: `parameters` is empty, and `why` tells.
    """
    compute = partial(importance_of, services.store, sweep_id, samples)
    return await anyio.to_thread.run_sync(compute, limiter=services.analyses)
