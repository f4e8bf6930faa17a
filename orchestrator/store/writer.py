"""A driver's writes: each made exactly once, however often the database goes away meanwhile."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.errors import StoreUnavailable
from orchestrator.store.database import Database, WriteSession
from orchestrator.store.driver import DriverTransaction
from orchestrator.store.records import Lease

T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0


class Writer:
    """Writes of the driver that holds `lease`, tried again until the database takes them.

    A connection that is lost during COMMIT leaves it open whether the transaction was made. Only
    the lease's holder raises the sweep's revision, and by one a transaction: so the next try sees
    whether the last one was, and doesn't make it twice.

    One thread at a time. `patience`: seconds after which StoreUnavailable is raised after all; None
    means never, because the driver ends anyway once it can't renew its lease. A write raises
    LeaseLost when the lease is gone.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        *,
        patience: float | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._lease = lease
        self._patience = patience
        self._pause = pause
        self.away = False
        """Whether the database did not answer when it was last asked."""

    def write(self, work: Callable[[DriverTransaction], T]) -> T:
        """Run `work` in one transaction. It may run several times, and takes effect once: so it
        must have no effect but on its transaction."""
        made: list[T] = []
        before: list[int] = []

        def transaction(session: WriteSession) -> T:
            tx = DriverTransaction(session, self._lease)
            if made and tx.revision - 1 > before[-1]:
                raise _WasMade
            before.append(tx.revision - 1)
            made.append(work(tx))
            return made[-1]

        try:
            return self._patiently(lambda: self._database.transact(transaction))
        except _WasMade:
            return made[-1]

    def read(self, question: Callable[[], T]) -> T:
        """Ask until the database answers."""
        return self._patiently(question)

    def _patiently(self, act: Callable[[], T]) -> T:
        began = time.monotonic()
        tries = 0
        while True:
            try:
                answer = act()
            except StoreUnavailable as error:
                waited = time.monotonic() - began
                if self._patience is not None and waited > self._patience:
                    raise
                if not self.away:
                    log.warning("%s Trying again until it answers.", error)
                self.away = True
                self._pause(random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**tries))
                tries = min(tries + 1, 10)
            else:
                if self.away:
                    log.warning("the database answers again")
                self.away = False
                return answer


class _WasMade(Exception):
    """The transaction of the try before was made after all."""
