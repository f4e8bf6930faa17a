"""Pages of a list: how many, from where, and where the next one begins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query

from api.parameters import ID
from winnow.types import Page

Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(pattern=ID)]
EventId = Annotated[int, Query(ge=0, lt=2**63)]


def _after(after: EventId = 0, cursor: Annotated[int | None, Query(ge=0, lt=2**63)] = None) -> int:
    return after if cursor is None else cursor


After = Annotated[int, Depends(_after)]
"""The id after which a list of what happened begins: where the reader was, or its next page."""


def page(found: list[Any], limit: int, kind: type[Page[Any]]) -> Any:
    """A page from one row more than asked for; its cursor is the last row's id."""
    following = str(found[limit - 1].id) if len(found) > limit else None
    return kind(items=found[:limit], next=following)
