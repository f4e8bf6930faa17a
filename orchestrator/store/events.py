"""Reading events. They are written by `WriteSession.emit`, inside the transaction they tell of."""

from __future__ import annotations

from sqlalchemy import func, select

from orchestrator.store.database import ReadSession
from orchestrator.store.schema import events
from winnow.types import Event


def after(session: ReadSession, sweep_id: str | None, last_id: int, limit: int) -> list[Event]:
    """Events with ids above `last_id`, in order; of all sweeps if `sweep_id` is None."""
    query = select(events).where(events.c.id > last_id).order_by(events.c.id).limit(limit)
    if sweep_id is not None:
        query = query.where(events.c.sweep_id == sweep_id)
    return [Event.model_validate(dict(row._mapping)) for row in session.rows(query)]


def last_id(session: ReadSession, sweep_id: str | None) -> int:
    """Id of the latest event, 0 if there is none."""
    query = select(func.max(events.c.id))
    if sweep_id is not None:
        query = query.where(events.c.sweep_id == sweep_id)
    return session.scalar(query) or 0
