"""Whether the server and its parts are up. Needs no token, and tells no more than that."""

from __future__ import annotations

from fastapi import APIRouter

from api.services import StoreOf
from orchestrator.errors import StoreUnavailable
from winnow import __version__
from winnow.types import Health

router = APIRouter(tags=["health"])

SILENT_AFTER = 15.0
"""Seconds without a report after which the orchestrator is taken for silent."""


@router.get("/health")
def get_health(store: StoreOf) -> Health:
    """Status of the database and the orchestrator, and the cluster's resources."""
    try:
        resources, age = store.cluster()
    except StoreUnavailable:
        return Health(
            status="degraded",
            version=__version__,
            database="unreachable",
            orchestrator="silent",
            cluster={},
        )
    reporting = age is not None and age < SILENT_AFTER
    return Health(
        status="ok" if reporting else "degraded",
        version=__version__,
        database="ok",
        orchestrator="ok" if reporting else "silent",
        cluster=resources,
    )
