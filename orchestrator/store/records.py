"""What the store hands to the orchestrator and the drivers. (The API gets `winnow.types`.)"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from orchestrator.schedulers.base import Decision
from trainer.metrics import CheckpointRecord, Evaluation, StepRecord
from winnow.types import CommandKind, SweepState, TrialKind, TrialState


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write about a sweep. Each write checks `epoch`; it rises with each driver."""

    sweep_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Claimable:
    """A sweep that waits for a driver. It had `epoch` drivers before; `holder` is the last one, if
    its lease ran out without being given back or expired."""

    id: str
    state: SweepState
    spec: dict[str, Any]
    epoch: int
    holder: str | None
    claim: Claim


@dataclass(frozen=True, slots=True)
class Claim:
    """What a sweep may ask of the cluster, as it is now. `open_trials`: those that could still run
    (waiting, running or not yet proposed), so more slots than that would be idle."""

    project: str
    priority: int
    weight: float
    max_concurrent: int | None
    open_trials: int
    running: int
    slots: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Driver:
    """A lease that is held now, and who holds it; `seconds_left` until it expires."""

    sweep_id: str
    spec: dict[str, Any]
    epoch: int
    holder: str
    seconds_left: float
    claim: Claim


@dataclass(frozen=True, slots=True)
class FinishedSweep:
    """A completed sweep, without its trials."""

    id: str
    spec: dict[str, Any]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """What a user asked for and no driver has done yet. `trial_id` None means the whole sweep."""

    id: int
    sweep_id: str
    trial_id: str | None
    kind: CommandKind
    issued_by: str
    created_at: datetime
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Desk:
    """What a driver looks at in every turn. `slots` None: nothing was granted yet."""

    slots: int | None
    max_concurrent: int | None
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint as housekeeping sees it. `superseded`: a later attempt went on before it."""

    trial_id: str
    attempt: int
    step: int
    kind: Literal["state", "export"]
    path: str
    superseded: bool
    damaged: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """`hours` since the sweep was first driven; `held_hours`: trials times hours that they held
    their workers."""

    hours: float
    held_hours: float


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose text was shown, and which holds: who asks, and what it may."""

    id: int
    name: str
    scopes: tuple[str, ...]
    project: str | None
    """None: all projects."""
    created_at: datetime
    seconds_left: float | None = None
    """Until it, or the session that stands for it, expires; None: never."""
    session_id: int | None = None
    """Set if a session was shown, not the token itself."""


Refusal = Literal["unknown", "expired", "revoked", "replaced"]
"""Why a token's text doesn't hold. `replaced`: the token was rotated, and its grace is over."""


@dataclass(frozen=True, slots=True)
class Audited:
    """A request for the audit log. `project` None: the one of the sweep that `target` is about."""

    actor: str
    token_id: int | None
    action: str
    target: str | None
    project: str | None
    status: int
    request_id: str | None
    address: str | None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial with all that a driver needs to go on with it.

    `checkpoints` are the ones to resume from (kind `state`, not superseded), newest first; `steps`
    and `evaluations` the ones that count, by rising step.
    """

    id: str
    number: int
    kind: TrialKind
    state: TrialState
    reason: str | None
    message: str | None
    params: dict[str, Any]
    config: dict[str, Any]
    attempt: int
    step: int
    samples: int
    total_samples: int
    value: float | None
    also: dict[str, float | None]
    seconds: float
    ended_at: datetime | None
    checkpoints: tuple[CheckpointRecord, ...]
    steps: tuple[StepRecord, ...]
    evaluations: tuple[Evaluation, ...]
    pinned: bool
    parent: str | None
    reused_from: str | None
    fingerprint: str | None
    attempts: tuple[AttemptRow, ...]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of a trial, oldest first in `TrialRow.attempts`. `step` is how far it came
    beyond what was kept of it: `first_step - 1` if nothing was."""

    attempt: int
    state: TrialState
    reason: str | None
    first_step: int
    step: int
    resumed_from: str | None
    notes: dict[str, Any]
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """A scheduler's decision as it was stored; `acted` is False if it was recorded only."""

    id: int
    decision: Decision
    acted: bool


@dataclass(frozen=True, slots=True)
class SweepRows:
    """A sweep as a driver finds it at its start: trials by number, decisions in their order.

    `prior` is what its first driver kept of earlier sweeps (`DriverTransaction.keep_prior`).
    """

    sweep_id: str
    name: str
    state: SweepState
    spec: dict[str, Any]
    facts: dict[str, Any]
    planned: int
    prior: dict[str, Any] | None
    project: str
    space: dict[str, Any] | None
    budget: dict[str, Any] | None
    max_concurrent: int | None
    slots: int | None
    started_at: datetime | None
    trials: tuple[TrialRow, ...]
    decisions: tuple[StoredDecision, ...]
