"""What a watcher knows about a sweep, from its live stream. Pure: no terminal, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from winnow.client import Update
from winnow.types import Event, Sweep, Trial, TrialState

RECENT = 6
"""Decisions kept on the screen."""


@dataclass
class SweepView:
    """A sweep and its trials as last heard of, and the latest decisions that changed something."""

    sweep: Sweep | None = None
    trials: dict[str, Trial] = field(default_factory=dict)
    decisions: deque[Event] = field(default_factory=lambda: deque(maxlen=RECENT))
    ended: bool = False

    def apply(self, update: Update) -> None:
        if update.sweep is not None:
            self.sweep = update.sweep
        for trial in update.trials:
            self.trials[trial.id] = trial
        if update.event is not None and is_verdict(update.event):
            self.decisions.append(update.event)
        if update.kind == "end":
            self.ended = True

    @property
    def searching(self) -> list[Trial]:
        """The trials that compete, by number."""
        return sorted(
            (t for t in self.trials.values() if t.kind == "search"), key=lambda t: t.number
        )

    def ranked(self) -> list[Trial]:
        """What a reader wants to see first: running trials, then finished ones, best first."""
        return in_order(self.searching, self.sweep)

    def progress(self) -> float:
        """Part of the trials that is over, between 0 and 1; a running one counts in part."""
        if self.sweep is None or not self.sweep.summary.planned:
            return 0.0
        if self.ended:
            return 1.0
        return min(1.0, sum(map(_done, self.searching)) / self.sweep.summary.planned)

    def seconds_left(self, now: datetime) -> float | None:
        """Guess: trials to come train as many samples as those that were judged did on average.

        None while it is too early to say, or when nothing is known to be ahead.
        """
        judged = [t for t in self.searching if t.state.ended or t.state is TrialState.PAUSED]
        done = sum(t.samples for t in self.searching)
        starts = [t.started_at for t in self.searching if t.started_at is not None]
        if self.sweep is None or self.ended or len(judged) < 2 or not done or not starts:
            return None
        usual = sum(t.samples for t in judged) / len(judged)
        others = [t for t in self.searching if t not in judged]
        ahead = max(0, self.sweep.summary.planned - len(self.searching)) * usual
        ahead += sum(max(0.0, usual - t.samples) for t in others)
        elapsed = (now - min(starts)).total_seconds()
        return elapsed * ahead / done if ahead > 0 else None

    def saved(self) -> float | None:
        """Part of the training samples that stopping early has saved; None before any was stopped.

        Against running every created trial to its end. What ended trials left out counts alone:
        trials that still run have saved nothing yet.
        """
        full = sum(t.total_samples for t in self.searching)
        left_out = sum(t.total_samples - t.samples for t in self.searching if t.state.ended)
        return left_out / full if full and left_out > 0 else None


def in_order(trials: Iterable[Trial], sweep: Sweep | None) -> list[Trial]:
    """Running trials, then finished ones by the objective, then the others by held-out loss."""
    objective = (sweep.spec.get("objective") or {}) if sweep is not None else {}
    sign = -1.0 if objective.get("mode") == "max" else 1.0
    return sorted(trials, key=lambda t: _rank(t, sign))


def is_verdict(event: Event) -> bool:
    """Whether an event is a decision that was carried out and changed a trial's course."""
    return (
        event.type == "decision"
        and event.data.get("action") != "continue"
        and event.data.get("acted") is True
    )


def _done(trial: Trial) -> float:
    """A paused trial counts for half at least: most are never called back."""
    if trial.state.ended:
        return 1.0
    part = min(1.0, trial.samples / max(trial.total_samples, 1))
    return 0.5 + part / 2 if trial.state is TrialState.PAUSED else part


def _rank(trial: Trial, sign: float) -> tuple[int, float, int]:
    group = {
        TrialState.RUNNING: 0,
        TrialState.COMPLETED: 1,
        TrialState.PAUSED: 2,
        TrialState.PENDING: 3,
        TrialState.PRUNED: 4,
    }.get(trial.state, 5)
    if group == 0:
        return (0, 0.0, trial.number)
    if group == 1 and trial.value is not None:
        return (group, sign * trial.value, trial.number)
    held_out = trial.eval_loss if trial.eval_loss is not None else float("inf")
    return (group, held_out, trial.number)
