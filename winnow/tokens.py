"""What is asked of the API about tokens: the bodies of those requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from winnow.changes import PROJECT_NAME
from winnow.space import Strict

__all__ = ["DAY", "NewToken", "RotateToken", "Scope"]

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
