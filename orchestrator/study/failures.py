"""What becomes of a trial whose attempt failed: run again, or end. Pure.

infrastructure   its workers, node or disk were lost: again, a few times without progress
oom              again with half the tokens a micro-batch, while that can help
checkpoint       the one to resume from can't be read: again from the one before
diverged         ended: a bad configuration
everything else  ended: it would fail again
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.live_trial import LiveTrial
from trainer.metrics import Batch
from winnow.types import TrialState

MAX_LOST = 3
"""Attempts that a trial may lose to the machinery in a row, without a new checkpoint between."""
MAX_RETRIES = 6
"""Attempts in a row that may end for lack of memory or with an unreadable checkpoint."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state that an attempt's end takes its trial to. `cap`: tokens per micro-batch for the
    next attempt. `damaged`: the checkpoint that it started from is not to be used again."""

    state: TrialState
    reason: str | None
    message: str | None
    cap: int | None = None
    damaged: bool = False


def after_failure(trial: LiveTrial, batch: Batch, resumed_from: str | None) -> Verdict:
    """What to do after `batch`, the report of a failed attempt."""
    if trial.intent is not None and trial.intent[1].ended:
        _, state, reason, message = trial.intent  # it was to end anyway
        return Verdict(state, reason, message)
    failure = batch.failure
    message = failure.message if failure else str(batch.notes.get("message", "it failed"))
    code = failure.code if failure else "error"
    if batch.notes.get("infrastructure") or code == "disk":
        if trial.lost < MAX_LOST:
            return Verdict(TrialState.PENDING, "infrastructure", message)
        text = f"{message} ({trial.lost + 1} times without a new checkpoint)"
        return Verdict(TrialState.FAILED, "infrastructure", text)
    if code == "checkpoint" and resumed_from is not None and trial.retries < MAX_RETRIES:
        return Verdict(TrialState.PENDING, "checkpoint", message, damaged=True)
    if code == "oom" and trial.retries < MAX_RETRIES:
        cap = _smaller(trial)
        if cap is not None:
            text = f"out of memory; it goes on with max_tokens_per_microbatch = {cap:,}"
            return Verdict(TrialState.PENDING, "oom", text, cap=cap)
    if code == "diverged":
        return Verdict(TrialState.PRUNED, "diverged", message)
    return Verdict(TrialState.FAILED, code, message)


def _smaller(trial: LiveTrial) -> int | None:
    """Half the tokens that it trained with, but no less than its longest sample has; None if that
    is not known, or no less than before."""
    if trial.cap is None:
        return None
    half = max(trial.cap // 2, trial.longest)
    return half if half < trial.cap else None
