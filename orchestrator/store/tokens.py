"""API tokens. Only a hash is stored; a token has 256 random bits, so a plain SHA-256 suffices."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, insert, or_, select, update
from sqlalchemy.engine import Row

from orchestrator.errors import Conflict, NotFound
from orchestrator.store.clock import after, now, seconds_since
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Refusal, Token
from orchestrator.store.schema import projects, sessions, tokens
from winnow import tokens as told

PREFIX = "wnw_"
SHOWN = 10
"""Characters of a token's text that are kept and shown: 36 of its 256 bits."""

_STATE = case(
    (tokens.c.revoked_at.is_not(None), "revoked"),
    (tokens.c.expires_at <= now(), "expired"),
    else_="active",
)


def new_text() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def digest(text: str) -> str:
    """What is stored of a token's or a session's text. Finding it by this takes no time that tells
    about the text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def add(
    session: WriteSession,
    name: str,
    text: str,
    scopes: Sequence[str] = ("admin",),
    project: str | None = None,
    created_by: str | None = None,
    seconds: float | None = None,
) -> int:
    """The new token's id. Raises NotFound if there is no such project."""
    if project is not None:
        found = session.first(select(projects.c.id).where(projects.c.id == project))
        if found is None:
            raise NotFound("project", project)
    made = session.execute(
        insert(tokens).values(
            name=name,
            hash=digest(text),
            prefix=text[:SHOWN],
            scopes=list(scopes),
            project_id=project,
            created_by=created_by,
            expires_at=None if seconds is None else after(seconds),
        )
    )
    assert made.inserted_primary_key is not None
    return int(made.inserted_primary_key[0])


def verify(session: ReadSession, text: str) -> Token | Refusal:
    """The token that `text` is, or why it isn't one."""
    if not text.startswith(PREFIX):
        return "unknown"
    hashed = digest(text)
    row = session.first(
        select(tokens, *_TIMES).where(
            or_(tokens.c.hash == hashed, tokens.c.previous_hash == hashed)
        )
    )
    if row is None:
        return "unknown"
    left = row.left
    if row.hash != hashed:
        if row.previous_left is None or row.previous_left <= 0:
            return "replaced"
        left = min(row.previous_left, left) if left is not None else row.previous_left
    return holding(row, left)


def holding(row: Row[Any], left: float | None, session_id: int | None = None) -> Token | Refusal:
    """The token of a row with its times, if it is good for the `left` seconds."""
    if row.revoked_at is not None:
        return "revoked"
    if left is not None and left <= 0:
        return "expired"
    return Token(
        row.id, row.name, tuple(row.scopes), row.project_id, row.created_at, left, session_id
    )


def get(session: ReadSession, token_id: int, project: str | None = None) -> told.Token:
    """A token; with `project`, only one of that project. Raises NotFound."""
    return _shown(_row(session, token_id, project))


def page(
    session: ReadSession, limit: int, before: int | None, project: str | None
) -> list[told.Token]:
    """Newest first, those with an id below `before`; of one project, or all."""
    query = select(tokens, *_TIMES, _STATE.label("state")).order_by(tokens.c.id.desc())
    if before is not None:
        query = query.where(tokens.c.id < before)
    if project is not None:
        query = query.where(tokens.c.project_id == project)
    return [_shown(row) for row in session.rows(query.limit(limit))]


def revoke(session: WriteSession, token_id: int, project: str | None = None) -> told.Token:
    """End a token and its sessions. Once revoked it stays so, as it was revoked first.

    Raises Conflict for the last token that can administer everything.
    """
    # All of them are locked, so that two who revoke each other can't both succeed.
    rulers = session.rows(
        select(tokens.c.id, tokens.c.scopes)
        .where(tokens.c.project_id.is_(None), _STATE == "active")
        .order_by(tokens.c.id)
        .with_for_update()
    )
    row = _row(session, token_id, project)
    if row.revoked_at is not None:
        return _shown(row)
    if [r.id for r in rulers if "admin" in r.scopes] == [token_id]:
        raise Conflict(
            f"Token {token_id} is the last one that can administer this server. Make another with "
            f"the scope `admin` first, or rotate this one (`winnow token rotate {token_id} --now`)."
        )
    session.execute(update(tokens).where(tokens.c.id == token_id).values(revoked_at=now()))
    session.execute(sessions.delete().where(sessions.c.token_id == token_id))
    return get(session, token_id)


def rotate(
    session: WriteSession,
    token_id: int,
    text: str,
    grace: float,
    seconds: float | None,
    project: str | None = None,
) -> told.Token:
    """Give a token a new text; the old one works for `grace` seconds more, as do its sessions.

    `seconds`: it expires so long from now; None: when it did before. Raises Conflict for a token
    that doesn't hold any more.
    """
    row = _row(session, token_id, project, lock=True)
    if row.state != "active":
        raise Conflict(f"Token {token_id} is {row.state}; make a new one instead.")
    changes: dict[str, Any] = {
        "hash": digest(text),
        "prefix": text[:SHOWN],
        # Kept without a grace, too: whoever still uses it is then told that it was rotated.
        "previous_hash": row.hash,
        "previous_expires_at": after(grace if grace > 0 else -1.0),
    }
    if seconds is not None:
        changes["expires_at"] = after(seconds)
    session.execute(update(tokens).where(tokens.c.id == token_id).values(changes))
    of_it = sessions.c.token_id == token_id
    if grace > 0:
        ends = after(grace)
        session.execute(
            update(sessions).where(of_it, sessions.c.expires_at > ends).values(expires_at=ends)
        )
    else:
        session.execute(sessions.delete().where(of_it))
    return get(session, token_id)


def used(session: WriteSession, token_ids: Sequence[int]) -> None:
    """They were used just now."""
    if token_ids:
        session.execute(update(tokens).where(tokens.c.id.in_(token_ids)).values(last_used_at=now()))


def left(moment: ColumnElement[Any]) -> ColumnElement[float]:
    """Seconds until a moment."""
    return -seconds_since(moment)


_TIMES = (
    left(tokens.c.expires_at).label("left"),
    left(tokens.c.previous_expires_at).label("previous_left"),
)


def _row(
    session: ReadSession, token_id: int, project: str | None = None, *, lock: bool = False
) -> Row[Any]:
    query = select(tokens, *_TIMES, _STATE.label("state")).where(tokens.c.id == token_id)
    if project is not None:
        query = query.where(tokens.c.project_id == project)
    row = session.first(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound("token", token_id)
    return row


def _shown(row: Row[Any]) -> told.Token:
    in_grace = row.previous_left is not None and row.previous_left > 0
    return told.Token(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        scopes=row.scopes,
        project=row.project_id,
        state=row.state,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        previous_expires_at=row.previous_expires_at if in_grace else None,
    )
