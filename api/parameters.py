"""What several routes take in their addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator

from api.errors import invalid_parameter

ID = r"^[A-Za-z0-9_-]{1,64}$"

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[ +-]\d\d:?\d\d)")


def _written_out(value: Any) -> Any:
    """Numbers could be seconds or milliseconds, so they are not guessed at."""
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        raise ValueError("give a time with its zone, like 2026-01-31T12:00:00Z")
    # A plus in an address means a space.
    return value.replace(" ", "+") if isinstance(value, str) and " " in value[19:] else value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


def words(given: str) -> list[str]:
    """What is named, with commas between."""
    return [word for word in given.split(",") if word]


def words_among(name: str, given: str, known: Sequence[str], *, what: str = "") -> list[str]:
    """The words that the parameter `name` gives, each of `known`. Raises ProblemError 422, which
    calls one of them a `what`."""
    named = words(given)
    for word in named:
        if word not in known:
            message = f"no {what or name} {word}; there are {', '.join(known)}"
            raise invalid_parameter(name, message)
    return named
