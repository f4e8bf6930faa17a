"""Tokens, the sessions that are made from them, and the audit of what they were used for."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from winnow.changes import PROJECT_NAME
from winnow.space import Strict
from winnow.types import Model

Scope = Literal["read", "submit", "control", "admin"]
"""`read`: look at everything. `submit`: also create sweeps. `control`: read, and change, stop and
extend sweeps. `admin`: everything, tokens too."""

DAY = 86_400
MOST_SECONDS = 3660 * DAY
"""Ten years. What is to hold longer is made without an end, on purpose."""

Seconds = Annotated[int, Field(ge=60, le=MOST_SECONDS)]


class NewToken(Strict):
    """A token to be made, with no more rights than the one that asks for it has."""

    name: str = Field(min_length=1, max_length=100)
    """By which people know it: what or whom it is for."""
    scopes: tuple[Scope, ...] = Field(default=("read",), min_length=1, max_length=4)
    project: str | None = Field(default=None, pattern=PROJECT_NAME)
    """The only project that it sees. Left out: the one of the token that asks, if it has one."""
    expires_in: Seconds | None = 90 * DAY
    """Seconds until it ends. Left out: 90 days, or when the one that asks ends. Null: never."""

    @field_validator("name")
    @classmethod
    def _is_readable(cls, name: str) -> str:
        if not name.isprintable() or name != name.strip():
            raise ValueError("give a name of printable characters, without space around it")
        return name

    @field_validator("scopes")
    @classmethod
    def _named_once(cls, scopes: tuple[Scope, ...]) -> tuple[Scope, ...]:
        return tuple(dict.fromkeys(scopes))


class RotateToken(Strict):
    """A new text for a token, which keeps its name, scopes and id."""

    grace_seconds: int = Field(default=3600, ge=0, le=7 * DAY)
    """How long the old text works on, so that whoever uses it has time to change; 0: not at all."""
    expires_in: Seconds | None = None
    """Seconds from now until the token ends; null: when it would have ended before."""


class Token(Model):
    """An API token, without its text: that is told once, when it is made or rotated."""

    id: int
    name: str
    prefix: str
    """The first characters of its text, by which people tell tokens apart."""
    scopes: list[Scope]
    """As given; `submit` and `control` can read too, `admin` can do everything."""
    project: str | None
    """The only project that it sees; null: all of them."""
    state: Literal["active", "expired", "revoked"]
    created_by: str | None
    """Name of the token that made it; null: the server, at its first start."""
    created_at: datetime
    expires_at: datetime | None
    """Null: never."""
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None
    previous_expires_at: datetime | None = None
    """When the text that it had before it was rotated stops working, if it still works."""


class TokenSecret(Token):
    """A token that was just made or rotated."""

    token: str | None
    """Its text. It is told only now: null where an answer is repeated (`Idempotency-Key`)."""


class Session(Model):
    """A browser that is signed in. It may do what its token may, and ends with it."""

    name: str
    """The token's name."""
    token_id: int
    scopes: list[Scope]
    """All that it may do."""
    project: str | None
    expires_at: datetime
    csrf: str
    """Requests that change something send this as the header `X-CSRF-Token`."""


class AuditEntry(Model):
    """A request that asked for a change, or was refused one."""

    id: int
    created_at: datetime
    actor: str
    """The token's name."""
    token_id: int | None
    action: str
    """What was asked for: `sweeps.create`, `trials.stop`, `tokens.revoke`, …"""
    target: str | None
    """The address that it was asked of, or where what was made can be found."""
    project: str | None
    status: int
    """Of the answer. 403: it was refused, as the token lacks the scope."""
    request_id: str | None
    address: str | None
    detail: dict[str, Any] | None = None
