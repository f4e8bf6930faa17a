"""Check a sweep without starting it: whether it can run, what it would take, what looks odd."""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter

from api.access import Submitter
from api.checks import checked
from api.documents import Document, takes
from api.services import ServicesOf
from winnow.spec import SweepSpec
from winnow.validation import Validation

router = APIRouter(prefix="/sweeps", tags=["sweeps"])


@router.post(":validate", openapi_extra=takes(SweepSpec))
async def validate_sweep(document: Document, services: ServicesOf, who: Submitter) -> Validation:
    """Check a sweep as its creation does, data and model included, and estimate what it takes.

    Nothing is stored or started. 422 with the same faults as when it is created.
    """

    def validate() -> Validation:
        return checked(services, who, document)[1]

    return await anyio.to_thread.run_sync(validate, limiter=services.checks)
