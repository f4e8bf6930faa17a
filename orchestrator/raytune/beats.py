"""The driver's sign of life to the ranks that it trains with.

A driver that is stopped, or cut off from the database, can't end its workers. So ranks train only
while their driver says that it holds its lease, and for how long: the word comes straight from the
thread that renews it, not by way of Tune's loop or the trial's shell. The answer says when the rank
last got on with its work, so one that hangs is found too.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

FIRST_SECONDS = 0.05
"""How often a rank that has not answered yet is called: it waits for the word."""


@dataclass
class _Watched:
    """One attempt's ranks; `name` gives a rank's actor."""

    name: Callable[[int], str]
    ranks: int
    handles: list[Any] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    called: float = 0.0
    heard: bool = False
    idle: float = 0.0
    """Seconds since the rank that is furthest behind got on with its work."""


class Beats(threading.Thread):
    """Calls the ranks of watched attempts. `seconds_left`: how long the lease is good."""

    def __init__(self, seconds_left: Callable[[], float], every: float) -> None:
        super().__init__(name="beats", daemon=True)
        self._seconds_left = seconds_left
        self._every = every
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ended = False

    def watch(self, attempt_id: str, name: Callable[[int], str], ranks: int) -> None:
        """Begin to call an attempt's ranks, unless that is done already."""
        with self._lock:
            if attempt_id not in self._watched:
                self._watched[attempt_id] = _Watched(name, ranks)
                self._wake.set()

    def forget(self, attempt_id: str) -> None:
        """The attempt has ended."""
        with self._lock:
            self._watched.pop(attempt_id, None)

    def hanging(self, seconds: float) -> list[str]:
        """Attempts with a rank that hasn't got on with its work for so long."""
        with self._lock:
            return [i for i, watched in self._watched.items() if watched.idle > seconds]

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    def run(self) -> None:
        while not self._ended:
            with self._lock:
                watched = list(self._watched.items())
            waiting = False
            for attempt_id, one in watched:
                now = time.monotonic()
                if now - one.called >= (self._every if one.heard else FIRST_SECONDS):
                    one.called = now
                    with contextlib.suppress(Exception):  # the group isn't up yet, or is gone
                        self._call(attempt_id, one)
                waiting = waiting or not one.heard
            self._wake.wait(FIRST_SECONDS if waiting else self._every / 4)
            self._wake.clear()

    def _call(self, attempt_id: str, one: _Watched) -> None:
        if one.answers:
            done, _ = ray.wait(one.answers, num_returns=len(one.answers), timeout=0)
            if len(done) == len(one.answers):
                idle = [ray.get(ref) for ref in done]
                one.answers = []
                known = [seconds for seconds in idle if seconds is not None]
                one.heard = len(known) == one.ranks
                one.idle = max(known, default=0.0)
        left = self._seconds_left()
        if left <= 0:
            return
        if len(one.handles) < one.ranks:
            one.handles = [ray.get_actor(one.name(rank)) for rank in range(one.ranks)]
        answers = [rank.alive.remote(attempt_id, left) for rank in one.handles]
        if not one.answers:
            one.answers = answers
