"""Drivers that have lost their lease: nobody may take their sweep before they are gone.

A driver that hangs, or is cut off from the database, can't end itself in time, and its workers may
train on. Whoever takes its sweep puts its trials back; were they still training, a trial would run
twice.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable

from orchestrator.store import Claimable
from orchestrator.supervision.launch import Holder, Launcher, LaunchError


class Formers:
    """Ends former drivers and tells when they are gone. Safe to share between threads."""

    def __init__(
        self,
        launcher: Launcher,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launcher = launcher
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[tuple[str, int], float] = {}
        """By sweep and epoch: when it was first found without a lease."""

    def end(self, waiting: Iterable[Claimable]) -> None:
        """Kill those that still live on this machine, and forget those that were replaced. Writes
        nothing to the database: a stopped driver may hold its only lock."""
        there: set[tuple[str, int]] = set()
        for sweep in waiting:
            there.add((sweep.id, sweep.epoch))
            self.gone(sweep)
        with self._lock:
            self._since = {key: since for key, since in self._since.items() if key in there}

    def gone(self, sweep: Claimable) -> bool:
        """Whether the driver that last held the sweep is dead, and its workers with it.

        Here that can be seen; a driver that only hangs is killed, and its workers end with it.
        Elsewhere, workers that hear nothing from their driver for a lease's time end themselves. A
        driver renews four times in that, so a quarter of it after the lease's end they are gone.
        """
        former = Holder.parse(sweep.holder)
        if former is None or not former.slots or self._launcher.dead(former):
            return True  # one without slots was an orchestrator that carried out commands
        now = self._clock()
        with self._lock:
            first = (sweep.id, sweep.epoch) not in self._since
            since = self._since.setdefault((sweep.id, sweep.epoch), now)
        if former.here:
            self._launcher.kill(former)
            return self._launcher.dead(former)
        if first:
            self._ask_to_end(former)
        return now - since >= self._lease_seconds / 4

    def _ask_to_end(self, former: Holder) -> None:
        with contextlib.suppress(LaunchError):  # the time that is waited holds either way
            self._launcher.kill(former)
