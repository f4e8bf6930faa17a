"""Sessions: browsers that are signed in. Only a hash of a session's text is stored."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select, update

from orchestrator.errors import NotFound
from orchestrator.store.clock import after, now
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Refusal, Token
from orchestrator.store.schema import sessions, tokens
from orchestrator.store.tokens import digest, holding, left

PREFIX = "wns_"


def new_text() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def open_for(session: WriteSession, token_id: int, text: str, seconds: float) -> datetime:
    """A session for a token; when it ends. Sessions that have ended are cleared away."""
    session.execute(sessions.delete().where(sessions.c.expires_at < now()))
    session.execute(
        insert(sessions).values(hash=digest(text), token_id=token_id, expires_at=after(seconds))
    )
    return session.scalar(select(sessions.c.expires_at).where(sessions.c.hash == digest(text)))


def verify(session: ReadSession, text: str) -> Token | Refusal:
    """The token that a session stands for, or why it stands for none."""
    if not text.startswith(PREFIX):
        return "unknown"
    row = session.first(
        select(
            tokens,
            sessions.c.id.label("session_id"),
            left(sessions.c.expires_at).label("session_left"),
            left(tokens.c.expires_at).label("token_left"),
        )
        .join(sessions, sessions.c.token_id == tokens.c.id)
        .where(sessions.c.hash == digest(text))
    )
    if row is None:
        return "unknown"
    ends = [s for s in (row.session_left, row.token_left) if s is not None]
    return holding(row, min(ends), row.session_id)


def ends(session: ReadSession, session_id: int) -> datetime:
    """When a session ends. Raises NotFound if there is none (any more)."""
    found = session.scalar(select(sessions.c.expires_at).where(sessions.c.id == session_id))
    if found is None:
        raise NotFound("session", session_id)
    return found


def end(session: WriteSession, session_id: int) -> None:
    session.execute(sessions.delete().where(sessions.c.id == session_id))


def used(session: WriteSession, session_ids: Sequence[int]) -> None:
    """They were used just now."""
    if session_ids:
        session.execute(
            update(sessions).where(sessions.c.id.in_(session_ids)).values(last_used_at=now())
        )
