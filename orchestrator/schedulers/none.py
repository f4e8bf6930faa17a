"""`none`: every trial runs to its end. Its rungs are the others', so that curves compare."""

from __future__ import annotations

from orchestrator.schedulers.base import Decision
from orchestrator.schedulers.tracking import Followed, TrackingScheduler


class NoScheduler(TrackingScheduler):
    """Judges nothing. A trial whose loss is not finite is ended by the trainer itself."""

    name = "none"
    code = "none"
    reads_steps = False

    def _judge(self, trial: Followed) -> Decision | None:
        return None
