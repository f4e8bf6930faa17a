"""How many trials a sweep may run at once, and which of them yield when that sinks."""

from __future__ import annotations

from orchestrator.live_trial import LiveTrial
from orchestrator.study.ledger import Ledger


class Slots:
    """What the cluster grants a sweep, and what its user allows it."""

    def __init__(self, ledger: Ledger, granted: int | None) -> None:
        self._ledger = ledger
        self.granted = granted
        """By the cluster; None where nobody has said."""

    def full(self) -> bool:
        """Whether another trial would be one too many."""
        limit = self._limit()
        return limit is not None and len(self._staying()) >= limit

    def to_yield(self) -> list[tuple[LiveTrial, str]]:
        """Trials that there is no slot for any more, and what to tell them: those that lose least
        by it."""
        limit = self._limit()
        if limit is None:
            return []
        lost = self.granted is not None and self.granted <= limit
        why = "its slot went to another sweep" if lost else f"at most {limit} at once"
        staying = self._staying()
        staying.sort(key=lambda t: (t.pinned, t.unsaved, -t.number))
        return [(trial, why) for trial in staying[: max(0, len(staying) - limit)]]

    def waiting_for(self) -> str:
        """What a trial that could run waits for, as a sentence."""
        if self.granted == 0:
            return "the sweep has no slot now"
        limit = self._limit()
        if limit is None:
            return "it waits for a slot"
        return "it waits for the sweep's slot" if limit == 1 else f"it waits for a slot of {limit}"

    def _limit(self) -> int | None:
        limits = [n for n in (self.granted, self._ledger.max_concurrent) if n is not None]
        return min(limits) if limits else None

    def _staying(self) -> list[LiveTrial]:
        return [t for t in self._ledger.running() if t.intent is None]
