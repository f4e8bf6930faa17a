"""Metrics for Prometheus. (On a port without a token: WINNOW_METRICS_PORT.)"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.access import Reader
from api.errors import ProblemError
from api.exposition import exposition

router = APIRouter(tags=["operations"])


@router.get(
    "/prometheus",
    response_class=Response,
    responses={
        200: {
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            }
        }
    },
)
def get_prometheus(request: Request, who: Reader) -> Response:
    """All metrics in Prometheus' text format, or in OpenMetrics' where `Accept` asks for it.

    They are of all projects, so a token of a single project is refused.
    """
    if who.project is not None:
        raise ProblemError(
            403, "project", "metrics are of all projects; use a token that is of no single one"
        )
    accept = request.headers.get("accept", "")
    body, content_type = exposition(request.app.state.metrics, accept)
    return Response(body, headers={"Content-Type": content_type})
