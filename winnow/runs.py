"""What the API sends back about a trial's runs: attempts, checkpoints, what they wrote."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from winnow.types import Model, TrialState


class Attempt(Model):
    """One run of a trial, from its start or from a checkpoint."""

    trial_id: str
    attempt: int
    id: str
    state: TrialState
    """What it took its trial to; RUNNING while it runs."""
    reason: str | None
    message: str | None
    detail: str | None
    """The traceback, if it ended by an error."""
    notes: dict[str, Any]
    """What the run said of itself: checkpoints that could not be written, memory, …"""
    resumed_from: str | None
    """The checkpoint it went on from; null if it began anew."""
    first_step: int
    started_at: datetime
    ended_at: datetime | None


CheckpointKind = Literal["state", "export"]


class Checkpoint(Model):
    """A `state` to go on from, or an `export`: the model in the hub's format."""

    trial_id: str
    attempt: int
    step: int
    kind: CheckpointKind
    samples: int
    path: str
    """A folder of the machine that trained, or an address of a store."""
    bytes: int
    seconds: float
    """What writing it took."""
    available: bool
    """Whether it is still there and whole; those that nothing needs any more are deleted."""
    superseded: bool
    """Whether a later attempt went on from before it, so that its steps no longer count."""
    created_at: datetime


class LogLine(Model):
    """One line that a process has written. `position` is where the next one begins: ask for what
    comes after it with `since`."""

    text: str
    position: str


class LogPage(Model):
    """Lines of one process, in order."""

    source: str
    """Which process: attempt and rank, or the sweep's driver."""
    items: list[LogLine]
    position: str | None
    """Where what is yet to be written will begin; null if nothing was written yet."""
    truncated: bool = False
    """Whether there are lines before the first one that were not sent."""
