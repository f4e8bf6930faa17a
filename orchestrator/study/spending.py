"""What a sweep spends: looked at every second, shown to its readers, held to its budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from orchestrator.budget import Used, account, exhausted, no_more_trials
from orchestrator.study.ledger import Change, Ledger

LOOK_SECONDS = 1.0
TELL_SECONDS = 5.0


class Purse:
    """What the sweep of a ledger has used, by the database's clock."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._looked = self._told = -TELL_SECONDS
        self._stored: dict[str, Any] | None = None

    def look(self) -> str | None:
        """The limit that ends the sweep now, as a sentence. Looks once a second at most."""
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        used = self._used()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            if (news := self._news(used)) is not None:
                self._ledger.commit(Change(lambda tx: tx.set_plan(account=news)))
        return exhausted(self._ledger.budget, used)

    def account(self) -> dict[str, Any] | None:
        """The spending to keep with the sweep, if it has changed."""
        return self._news(self._used())

    def no_more_trials(self) -> str | None:
        """Why no further trial may begin, as a sentence."""
        return no_more_trials(self._ledger.budget, Used(self._begun(), 0.0, 0.0))

    def _news(self, used: Used) -> dict[str, Any] | None:
        ledger = self._ledger
        spending = account(ledger.budget, used, done=ledger.progress(), planned=ledger.planned)
        found = {"spending": [one.model_dump(mode="json") for one in spending]}
        if found == self._stored:
            return None
        self._stored = found
        return found

    def _used(self) -> Used:
        ledger = self._ledger
        usage = ledger.writer.read(lambda: ledger.store.usage(ledger.lease.sweep_id))
        gpus = ledger.spec.resources.gpus_per_trial
        return Used(self._begun(), usage.hours, usage.held_hours * gpus)

    def _begun(self) -> int:
        return sum(t.attempt > 0 for t in self._ledger.searched())
