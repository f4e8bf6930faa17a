"""API tokens. Only a hash is stored; a token has 256 random bits, so a plain SHA-256 suffices."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import insert, select

from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Token
from orchestrator.store.schema import tokens

PREFIX = "wnw_"


def new_text() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def add(session: WriteSession, name: str, text: str) -> None:
    session.execute(insert(tokens).values(name=name, hash=_hash(text)))


def verify(session: ReadSession, text: str) -> Token | None:
    """The token that `text` is, or None."""
    if not text.startswith(PREFIX):
        return None
    row = session.first(select(tokens).where(tokens.c.hash == _hash(text)))
    return (
        None
        if row is None
        else Token(row.id, row.name, tuple(row.scopes), row.project_id, row.created_at)
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
