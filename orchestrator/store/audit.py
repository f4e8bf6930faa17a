"""The audit log: who asked for which change, and what was answered. Rows are only ever added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select

from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Audited
from orchestrator.store.schema import audit, sweeps
from winnow.tokens import AuditEntry

_ABOUT = re.compile(r"/v1/(?:sweeps|trials)/([A-Za-z0-9]{1,10})(?![A-Za-z0-9])")


def add(session: WriteSession, entries: Sequence[Audited]) -> None:
    """Write requests down, in their order."""
    if not entries:
        return
    about = {e: m[1] for e in {e.target for e in entries if e.target} if (m := _ABOUT.match(e))}
    projects = {
        row.id: row.project_id
        for row in session.rows(
            select(sweeps.c.id, sweeps.c.project_id).where(sweeps.c.id.in_(set(about.values())))
        )
    }
    rows = [
        {
            "actor": entry.actor,
            "token_id": entry.token_id,
            "action": entry.action,
            "target": entry.target,
            "project_id": entry.project or projects.get(about.get(entry.target or "", "")),
            "status": entry.status,
            "request_id": entry.request_id,
            "address": entry.address,
            "detail": entry.detail,
        }
        for entry in entries
    ]
    session.execute(insert(audit), rows)


def page(
    session: ReadSession,
    limit: int,
    before: int | None = None,
    *,
    actor: str | None = None,
    action: str | None = None,
    project: str | None = None,
    since: datetime | None = None,
) -> list[AuditEntry]:
    """Newest first, those with an id below `before`. `action`: that one, or all of a resource
    (`tokens.`, with the dot at its end)."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    if actor is not None:
        query = query.where(audit.c.actor == actor)
    if action is not None and action.endswith("."):
        query = query.where(audit.c.action.startswith(action, autoescape=True))
    elif action is not None:
        query = query.where(audit.c.action == action)
    if project is not None:
        query = query.where(audit.c.project_id == project)
    if since is not None:
        query = query.where(audit.c.created_at >= since)
    return [
        AuditEntry(
            id=row.id,
            created_at=row.created_at,
            actor=row.actor,
            token_id=row.token_id,
            action=row.action,
            target=row.target,
            project=row.project_id,
            status=row.status,
            request_id=row.request_id,
            address=row.address,
            detail=row.detail,
        )
        for row in session.rows(query)
    ]
