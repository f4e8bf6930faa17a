"""The scheduler's account of its evidence, kept with the sweep for readers.

It decides nothing, so it must never end a sweep: a scheduler without one, or one that fails at it,
leaves the page without the card. It is asked for after decisions and ends of trials, but not more
often than once a second: a model may have to be fitted for it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

LEAST_SECONDS = 1.0


class Account:
    """What a scheduler last said of itself, and whether there may be news."""

    def __init__(self, scheduler: object, clock: Callable[[], float] = time.monotonic) -> None:
        self._summary: Callable[[], dict[str, Any]] | None = getattr(scheduler, "summary", None)
        self._clock = clock
        self._stored: dict[str, Any] | None = None
        self._asked = -math.inf
        self._stale = False

    def touch(self) -> None:
        """Something happened that may have changed it."""
        self._stale = True

    def news(self, *, last: bool = False) -> dict[str, Any] | None:
        """The account if it has changed and it is time to store it; `last`: it always is."""
        if self._summary is None or not (self._stale or last):
            return None
        now = self._clock()
        if not last and now - self._asked < LEAST_SECONDS:
            return None
        self._asked, self._stale = now, False
        try:
            found = finite_values(self._summary())
        except Exception:
            log.exception("the scheduler could not sum up its evidence")
            self._summary = None
            return None
        if found == self._stored:
            return None
        self._stored = found
        return found


def finite_values(value: Any) -> Any:
    """JSON values only: a number that isn't finite as null, tuples as lists."""
    match value:
        case float():
            return float(value) if math.isfinite(value) else None
        case dict():
            return {str(key): finite_values(item) for key, item in value.items()}
        case list() | tuple():
            return [finite_values(item) for item in value]
        case _:
            return value
