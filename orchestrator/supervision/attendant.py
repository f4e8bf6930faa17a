"""Carries out commands to sweeps that nobody drives: queued, paused, ended, or without slots.

A thread of its own, so that they take effect at once, however busy the orchestrator's loop is.
"""

from __future__ import annotations

import logging
import threading
import time

from orchestrator.errors import StoreUnavailable
from orchestrator.observe import traces
from orchestrator.observe.context import about
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.supervision.attend import attend
from orchestrator.supervision.formers import Formers

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
RETRY_SECONDS = 10.0
"""How long a sweep is left alone after its commands could not be carried out."""


class Attendant(threading.Thread):
    """Looks for such commands several times a second, until it is told to `stop`."""

    def __init__(self, store: Store, settings: Settings, formers: Formers) -> None:
        super().__init__(name="attendant", daemon=True)
        self._store = store
        self._formers = formers
        self._settings = settings
        self._stopping = threading.Event()
        self._not_before: dict[str, float] = {}

    def run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except StoreUnavailable:
                self._stopping.wait(1.0)  # the loop says so already
            except Exception:
                log.exception("looking for commands failed; going on")
                self._stopping.wait(1.0)

    def stop(self) -> None:
        """Finish what is being carried out, and end."""
        self._stopping.set()
        if self.is_alive():
            self.join(timeout=self._settings.stop_seconds)

    def look(self) -> None:
        """Carry out what waits now. Raises StoreUnavailable."""
        now = time.monotonic()
        waiting = self._store.unattended()
        self._not_before = {i: t for i, t in self._not_before.items() if i in waiting}
        # To take a sweep puts its trials back: not while those of its last driver may still train.
        drivable = {sweep.id: sweep for sweep in self._store.claimable()} if waiting else {}
        for sweep_id in waiting:
            if self._stopping.is_set() or self._not_before.get(sweep_id, 0.0) > now:
                continue
            if sweep_id in drivable and not self._formers.gone(drivable[sweep_id]):
                continue
            try:
                with about(sweep=sweep_id), traces.span("attend"):
                    attend(self._store, sweep_id, self._settings)
            except StoreUnavailable:
                raise
            except Exception:  # of one sweep: the others are not to wait for it
                log.exception("commands to sweep %s can't be carried out", sweep_id)
                self._not_before[sweep_id] = now + RETRY_SECONDS
