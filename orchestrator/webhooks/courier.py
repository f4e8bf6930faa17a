"""Delivers webhooks' messages, beside the orchestrator's loop and never in its way.

A thread of its own makes deliveries of new events, claims those that are due and hands them to a
few senders. All that it knows is in the database: it may be killed at any time, and two couriers of
two orchestrators share the work. A message that was on its way when its courier was killed is sent
again once the claim has run out, so messages come at least once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from orchestrator.errors import StoreUnavailable
from orchestrator.store.outbox import DueDelivery, Outbox
from orchestrator.webhooks.schedule import DISABLE_AFTER, next_delay
from orchestrator.webhooks.sending import Outcome, Sender

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
SENDERS = 16
"""Messages on their way at once, from one courier."""
AT_ONCE = 4
"""Of them to one webhook, so that a slow receiver doesn't hold up the others."""
CLAIM_SECONDS = 120.0
"""How long a claim counts: longer than resolving a name, connecting and answering can take."""
KEEP_DAYS = 30.0
TIDY_SECONDS = 3600.0


class Courier(threading.Thread):
    """Delivers until it is told to `stop`. `told`: hears of each attempt's outcome."""

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        *,
        told: Callable[[str, Outcome], None] = lambda kind, outcome: None,
        disable_after: float = DISABLE_AFTER,
    ) -> None:
        super().__init__(name="courier", daemon=True)
        self._outbox = outbox
        self._sender = sender
        self._told = told
        self._disable_after = disable_after
        self._stopping = threading.Event()
        self._free = threading.Event()
        self._lock = threading.Lock()
        self._sending: Counter[str] = Counter()
        """By webhook: messages on their way."""
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="webhook")
        self._tidied = time.monotonic()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._free.clear()
            try:
                busy = self.look()
            except StoreUnavailable:
                self._stopping.wait(2.0)  # the loop says so already
            except Exception:
                log.exception("looking for webhooks to deliver failed; going on")
                self._stopping.wait(2.0)
            else:
                if not busy:
                    self._free.wait(LOOK_SECONDS)

    def stop(self, seconds: float = 5.0) -> None:
        """Begin nothing more, and wait so long for what is on its way."""
        self._stopping.set()
        self._free.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self.is_alive():
            self.join(seconds)
        deadline = time.monotonic() + seconds
        while self._sending and time.monotonic() < deadline:
            self._free.wait(0.05)

    def look(self) -> bool:
        """Make deliveries of what has happened, and begin to send what is due. Whether there may be
        more to do at once. Raises StoreUnavailable."""
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._outbox.tidy(KEEP_DAYS)
        made = self._outbox.make_deliveries() if self._outbox.behind() else 0
        with self._lock:
            room = SENDERS - self._sending.total()
            full = [webhook for webhook, count in self._sending.items() if count >= AT_ONCE]
        claimed = self._outbox.claim(min(room, AT_ONCE), CLAIM_SECONDS, full)
        for due in claimed:
            with self._lock:
                self._sending[due.webhook_id] += 1
            self._pool.submit(self._deliver, due)
        return bool(made or claimed)

    def _deliver(self, due: DueDelivery) -> None:
        try:
            self.deliver(due)
        except StoreUnavailable as error:
            log.warning("what became of a webhook's message is not stored: %s", error)
        except Exception:
            log.exception("delivering a webhook's message failed")
        finally:
            with self._lock:
                self._sending[due.webhook_id] -= 1
                self._sending += Counter()  # without zeros
            self._free.set()

    def deliver(self, due: DueDelivery) -> Outcome:
        """Send a claimed message once, and store what became of it."""
        outcome = self._sender.send(due)
        self._told(due.kind, outcome)
        if outcome.error is None:
            self._outbox.delivered(due, outcome.status or 0)
            return outcome
        again = next_delay(due.attempts, outcome.retry_after, random.random())
        disabled = self._outbox.failed(
            due,
            outcome.error,
            status=outcome.status,
            again_in=None if outcome.gone else again,
            disable_after=0.0 if outcome.gone else self._disable_after,
        )
        when = "given up" if again is None or outcome.gone else f"again in {again:.0f} s"
        log.info(
            "webhook %s: %s not delivered: %s; %s", due.webhook_id, due.id, outcome.error, when
        )
        if disabled:
            log.warning("webhook %s is disabled: %s", due.webhook_id, disabled)
        return outcome
