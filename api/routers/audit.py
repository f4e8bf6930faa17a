"""The audit log: who asked for which change, from where, and what was answered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import Admin
from api.pages import Limit, page
from api.parameters import Moment
from api.services import ServicesOf
from winnow.changes import PROJECT_NAME
from winnow.tokens import AuditEntry
from winnow.types import Page

router = APIRouter(prefix="/audit", tags=["audit"])


@router.get("")
def list_audit(
    services: ServicesOf,
    who: Admin,
    actor: Annotated[str | None, Query(max_length=100, description="A token's name")] = None,
    action: Annotated[
        str | None,
        Query(
            pattern=r"^[a-z0-9_-]{1,32}\.[a-z0-9_-]{0,32}$",
            description="`tokens.revoke`, or `tokens.` for all that concerns tokens",
        ),
    ] = None,
    project: Annotated[str | None, Query(pattern=PROJECT_NAME)] = None,
    since: Annotated[Moment | None, Query(description="With its time zone")] = None,
    limit: Limit = 100,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
) -> Page[AuditEntry]:
    """Every request that asked for a change, and every one that was refused for want of a scope,
    newest first. A token that is bound to a project sees what concerns it."""
    services.recorder.flush()
    found = services.store.access.audit(
        limit + 1,
        cursor,
        actor=actor,
        action=action,
        project=project if who.project is None else who.project,
        since=since,
    )
    if who.project is not None and project not in (None, who.project):
        found = []
    return page(found, limit, Page[AuditEntry])
