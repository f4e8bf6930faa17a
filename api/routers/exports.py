"""A sweep's data for people who outgrow the dashboard: a file of one of its tables."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from api.access import READ, SweepId
from api.answers import AT_ONCE, FILE, as_file, sends
from api.services import StoreOf
from orchestrator.store.exports import What
from orchestrator.views.export import MEDIA_TYPES, Format, encode

router = APIRouter(prefix="/sweeps", tags=["exports"])

_ROWS = {"type": "array", "items": {"type": "object"}}
_FILES = sends(
    "The file, made while it is sent",
    {kind: _ROWS if form == "json" else FILE for form, kind in MEDIA_TYPES.items()},
)


@router.get(
    "/{sweep_id:id}/export",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses=_FILES,
)
def export_sweep(
    sweep_id: SweepId,
    store: StoreOf,
    what: Annotated[What, Query(description="Which table")] = "trials",
    format: Annotated[Format, Query(description="`jsonl`: an object a line")] = "csv",
) -> Response:
    """A table of a sweep as a file, whole, however long it is.

    `metrics` has a row a step, at full resolution. Points that a later attempt has computed again
    are left out. In CSV, a text that a spreadsheet would take for a formula begins with a quote.
    """
    table = store.exports.table(sweep_id, what)
    return StreamingResponse(
        encode(table, format),
        media_type=MEDIA_TYPES[format],
        headers=as_file(f"{sweep_id}-{what}.{format}") | AT_ONCE,
    )
