"""A sweep's data for people who outgrow the dashboard: a file of one of its tables."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from api.access import READ, SweepId
from api.services import StoreOf
from orchestrator.export import MEDIA_TYPES, Format, encode
from orchestrator.store.exports import What

router = APIRouter(prefix="/sweeps", tags=["exports"])

_ROWS = {"type": "array", "items": {"type": "object"}}
_FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file, made while it is sent",
        "content": {
            kind.partition(";")[0]: {
                "schema": _ROWS if form == "json" else {"type": "string", "format": "binary"}
            }
            for form, kind in MEDIA_TYPES.items()
        },
    }
}


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
        headers={
            "Content-Disposition": f'attachment; filename="{sweep_id}-{what}.{format}"',
            "X-Accel-Buffering": "no",
        },
    )
