"""A stored sweep as the simulator takes it: each trial with its records, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.live_trial import LiveTrial
from orchestrator.objectives import Objectives
from orchestrator.schedulers.base import Outcome, TrialInfo
from orchestrator.schedulers.simulate import Recorded
from orchestrator.store import SweepRows, TrialRow
from winnow.types import TrialState

Ending = Literal["completed", "failed", "censored"]


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial with its records. `ending` says what the records tell of its end:

    `completed`: it ran its whole budget. `failed`: it diverged or failed, and would under any rule.
    `censored`: a rule, a person or a lost machine ended it before; what it would have come to is
    not known.
    """

    recorded: Recorded
    ending: Ending
    outcome: Outcome
    seconds: float
    """Worker time that it took in all, with checkpoints and what was lost."""

    @property
    def id(self) -> str:
        return self.recorded.info.id


def stored_trials(sweep: SweepRows, objectives: Objectives) -> list[StoredTrial]:
    """The search trials that ever ran, in the order in which they were proposed.

    Values are as the scheduler takes them: lower is better.
    """
    return [
        _stored(row, sweep.planned, objectives)
        for row in sorted(sweep.trials, key=lambda row: row.number)
        if row.kind == "search" and row.steps
    ]


def _stored(row: TrialRow, planned: int, objectives: Objectives) -> StoredTrial:
    outcome = objectives.outcome(LiveTrial.of(row))
    completed = row.state is TrialState.COMPLETED
    info = TrialInfo(row.id, row.number, row.params, row.total_samples, planned)
    recorded = Recorded(
        info=info,
        steps=row.steps,
        evaluations=row.evaluations,
        value=outcome.value if completed else None,
        also=outcome.also,
    )
    if completed:
        ending: Ending = "completed"
    elif row.reason == "diverged" or (
        row.state is TrialState.FAILED and row.reason != "infrastructure"
    ):
        ending = "failed"
    else:
        ending = "censored"
    return StoredTrial(recorded, ending, outcome, row.seconds)
