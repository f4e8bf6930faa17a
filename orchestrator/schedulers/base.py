"""What every early-stopping rule looks like: records in, decisions with reasons out.

A scheduler is a plain object. It does not know Ray, SQL, clocks or files, so the driver and the
replay simulator drive the same one. It is deterministic: the same records in the same order give
the same decisions, and a fresh one that is fed a sweep's stored records and its stored decisions
goes on exactly where the old one was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from trainer.metrics import Evaluation, StepRecord


class Action(StrEnum):
    CONTINUE = "continue"
    PAUSE = "pause"
    """Leave the workers to another trial; keep a checkpoint; `next` may call it back."""
    STOP = "stop"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class TrialInfo:
    """A trial as a scheduler sees it: its parameters and its declared budget in samples.

    `planned` is how many trials the sweep is to have in all, 0 where that isn't known.
    """

    id: str
    number: int
    params: dict[str, Any]
    total_samples: int
    planned: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended. `value` is the objective (lower is better), None if there is none.

    `also` holds the further objectives, where the sweep has several, each lower is better too.
    """

    state: str
    reason: str
    value: float | None
    also: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to happen to a trial, and why.

    `rule` names the rule that spoke (`rung`, `first-rung`, `non-finite`, `loss-blowup`, …),
    `reason` is one sentence for a person, `code` the trial's reason code if it ends by this
    (`diverged`, `dynamics`, `asha`, `paper-sign`). `evidence` holds the numbers it rests on: JSON
    values only.
    """

    trial_id: str
    action: Action
    rule: str
    reason: str
    code: str
    samples: int
    evidence: dict[str, Any] = field(default_factory=dict)


class Scheduler(Protocol):
    """One early-stopping rule at work on one sweep.

    The caller: `add`s every trial before its first record; passes each batch of records to
    `observe`, in order; carries out what is returned (a returned CONTINUE is stored, as evidence
    that the trial was judged and passed; None means there was nothing to judge); calls `completed`
    when a trial reaches an end state for whatever reason; asks `next` for a paused trial to call
    back whenever a worker is free; and `finish` once nothing runs and nothing waits.
    """

    name: str

    def rungs(self, total_samples: int) -> tuple[int, ...]:
        """Samples at which the trainer is to hold for a decision with a held-out evaluation."""
        ...

    def add(self, trial: TrialInfo) -> None: ...

    def observe(
        self, trial_id: str, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]
    ) -> Decision | None: ...

    def completed(self, trial_id: str, outcome: Outcome) -> list[Decision]:
        """Learn how a trial ended. May decide about other trials (STOP for paused ones)."""
        ...

    def next(self, waiting: int) -> Decision | None:
        """A paused trial to RESUME now, or None. `waiting`: new trials still to be started."""
        ...

    def finish(self) -> list[Decision]:
        """Nothing runs, nothing new will come: STOP for each trial that is still paused."""
        ...

    def pin(self, trial_id: str, pinned: bool) -> None:
        """A pinned trial is judged like any other, and neither paused nor stopped."""
        ...

    def replay(self, decision: Decision) -> None:
        """Take over a decision made by an earlier life of this scheduler, in its original order."""
        ...


def going_on(quota: int) -> str:
    """How many of a rung's trials go on, in words for a reason."""
    return (
        "the best goes on" if quota == 1 else f"the best {quota} go on" if quota else "none goes on"
    )
