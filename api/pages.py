"""Pages of a list: how many, from where, and where the next one begins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from api.services import ID
from winnow.types import Page

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(pattern=ID)]
EventId = Annotated[int, Query(ge=0, lt=2**63)]


def page(found: list[Any], limit: int, kind: type[Page[Any]]) -> Any:
    """A page from one row more than asked for; its cursor is the last row's id."""
    following = str(found[limit - 1].id) if len(found) > limit else None
    return kind(items=found[:limit], next=following)
