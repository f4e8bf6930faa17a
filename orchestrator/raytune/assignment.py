"""What a worker group is told to train: one attempt of one trial."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assignment:
    """One attempt. `config` is a TrainConfig as JSON; `resume_from` a checkpoint to go on from."""

    attempt_id: str
    trial_id: str
    attempt: int
    config: str
    resume_from: str | None
    epoch: int = 0
    """Of the driver that gives it."""


@dataclass(frozen=True, slots=True)
class GroupShape:
    """The ranks that one trial gets, and how long (seconds) one report may take to come."""

    ranks: int
    cpus_per_rank: float
    gpus_per_rank: float
    report_seconds: float = 1.0
    lease_seconds: float | None = None
    """Ranks end themselves when they haven't heard for so long from their driver that it holds its
    lease; None: they don't ask."""
