"""What a line of the log and a span are about: a request, a sweep, a trial, an attempt.

    with about(trial=trial_id, attempt=attempt_id):
        ...                     # everything logged here says so

It follows a task and the thread that serves it; a thread of one's own begins with none of it, but
with what the whole process is about (`whole_process`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

Field = Literal["request", "principal", "sweep", "trial", "attempt"]
FIELDS: tuple[Field, ...] = ("request", "principal", "sweep", "trial", "attempt")

_process: dict[str, str] = {}
_now: ContextVar[Mapping[str, str]] = ContextVar("winnow_about")
_request: ContextVar[Mapping[str, Any]] = ContextVar("winnow_request")
"""The state of the request that is being answered; it gets its id and its principal on the way."""

_NOTHING: Mapping[str, Any] = {}


@contextmanager
def about(**fields: str | None) -> Iterator[None]:
    """All that is logged in the block is about these."""
    given = {name: value for name, value in fields.items() if value is not None}
    token = _now.set({**_now.get(_NOTHING), **given})
    try:
        yield
    finally:
        _now.reset(token)


@contextmanager
def answering(state: Mapping[str, Any]) -> Iterator[None]:
    """A request is being answered, whose `request_id` and `principal` will be in `state`."""
    token = _request.set(state)
    try:
        yield
    finally:
        _request.reset(token)


def whole_process(**fields: str) -> None:
    """All that this process does is about these: a driver's sweep, say."""
    _process.update(fields)


def current() -> dict[str, str]:
    """What is being done now is about these, in the order of `FIELDS`."""
    request = _request.get(_NOTHING)
    found: dict[str, str] = {}
    if "request_id" in request:
        found["request"] = str(request["request_id"])
    if (who := request.get("principal")) is not None:
        found["principal"] = str(getattr(who, "id", who))
    merged = {**_process, **_now.get(_NOTHING), **found}
    return {name: merged[name] for name in FIELDS if name in merged}
