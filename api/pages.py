"""Pages of a list: how many, from where, and where the next one begins."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Query
from pydantic import AwareDatetime, BeforeValidator

from api.services import ID
from winnow.types import Page

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(pattern=ID)]
EventId = Annotated[int, Query(ge=0, lt=2**63)]

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[ +-]\d\d:?\d\d)")


def _written_out(value: Any) -> Any:
    """Numbers could be seconds or milliseconds, so they are not guessed at."""
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        raise ValueError("give a time with its zone, like 2026-01-31T12:00:00Z")
    # A plus in an address means a space.
    return value.replace(" ", "+") if isinstance(value, str) and " " in value[19:] else value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


def page(found: list[Any], limit: int, kind: type[Page[Any]]) -> Any:
    """A page from one row more than asked for; its cursor is the last row's id."""
    following = str(found[limit - 1].id) if len(found) > limit else None
    return kind(items=found[:limit], next=following)
