"""Carries what a process counts to the database, where the API finds it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from orchestrator.errors import StoreUnavailable
from orchestrator.observe.tally import Figures, Tally

log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0


class Reporter(threading.Thread):
    """`carry` stores figures; it may block, and raises StoreUnavailable."""

    def __init__(
        self, tally: Tally, carry: Callable[[Figures], None], every: float = EVERY_SECONDS
    ) -> None:
        super().__init__(name="telemetry", daemon=True)
        self._tally = tally
        self._carry = carry
        self._every = every
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(self._every):
            self.report()

    def stop(self) -> None:
        """Carry what is left."""
        self._stopping.set()
        if self.is_alive():
            self.join(2.0)
        self.report()

    def report(self) -> None:
        figures = self._tally.take()
        if not figures:
            return
        try:
            self._carry(figures)
        except StoreUnavailable:
            self._tally.give_back(figures)
        except Exception:  # never a reason to end a driver
            log.exception("figures could not be stored")
