"""What the API sends back. The client returns these; the server's responses are made of them.

Times are UTC, ISO 8601. A number that was not finite is null.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class SweepState(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def ended(self) -> bool:
        return self in (SweepState.COMPLETED, SweepState.FAILED, SweepState.CANCELED)


class TrialState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def ended(self) -> bool:
        return self not in (TrialState.PENDING, TrialState.RUNNING, TrialState.PAUSED)


TrialKind = Literal["search", "baseline", "report"]
"""`search` trials compete; `baseline` judges the model before training, `report` the winner on
the test sets. The latter two train nothing."""


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Page(Model, Generic[T]):
    """One page of a list. `next` is the cursor of the following page, null on the last."""

    items: list[T]
    next: str | None = None


Split = Literal["eval", "test", "general", "lm_eval", "judge"]
"""Held-out, test and general data sets; benchmarks; answers graded by a judge."""


class Scores(Model):
    """Quality on one split: token-weighted mean loss in nats and mean exact match over its sets.

    Benchmarks and judges have `scores` instead, by `task/metric`.
    """

    loss: float | None = None
    exact_match: float | None = None
    scores: dict[str, float] = {}


class Trial(Model):
    """One configuration of a sweep, with its latest numbers."""

    id: str
    sweep_id: str
    number: int
    kind: TrialKind
    state: TrialState
    reason: str | None
    """Reason code of the end state: dynamics, asha, paper-sign, diverged, oom, user, error, …"""
    message: str | None
    """The same, as a sentence."""
    params: dict[str, Any]
    attempt: int
    """Number of the latest attempt; 0 before the first."""
    step: int
    total_steps: int
    samples: int
    total_samples: int
    loss: float | None
    grad_norm: float | None
    eval_loss: float | None
    exact_match: float | None
    value: float | None
    """The objective; null until it was measured at the end of training."""
    also: dict[str, float | None] = {}
    """The further objectives by metric, as measured, where the sweep has any."""
    seconds: float
    """Worker time so far, over all attempts."""
    checkpoint: str | None
    """Folder of the exported model, once there is one."""
    pinned: bool = False
    """A scheduler never ends it."""
    parent: str | None = None
    """The trial that it was cloned from."""
    reused_from: str | None = None
    """The identical trial whose result it took over instead of training."""
    why_pending: str | None = None
    """Why it waits, as a sentence; null unless it is PENDING or PAUSED."""
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class SweepSummary(Model):
    """Where a sweep stands."""

    trials: int
    """Search trials created so far."""
    planned: int
    by_state: dict[str, int]
    samples_trained: int
    samples_full: int
    """What running every created trial to its full budget would take."""
    seconds: float
    best_trial: str | None
    best_value: float | None
    front: list[str] = []
    """With several objectives: the completed trials that no other beats in all of them (the Pareto
    front), best by the first objective first."""
    baseline: dict[str, Scores]
    """The model before training, by split."""
    winner: dict[str, Scores]
    """The best trial, by split."""


class Spending(Model):
    """What a sweep has used of one thing, and what it may. `projected`: at its end, as far as can
    be told; null before that can be said."""

    what: Literal["trials", "hours", "gpu_hours", "cost"]
    used: float
    limit: float | None = None
    projected: float | None = None


class Quota(Model):
    """The most that a project's sweeps may have: GPUs and trials at once, GPU-hours in all."""

    gpus: int | None = None
    trials: int | None = None
    gpu_hours: float | None = None


class Project(Model):
    """Sweeps that share a quota. Projects share the cluster by `weight`."""

    id: str
    quota: Quota
    weight: float
    used: Quota
    """What its sweeps have now, and have had (GPU-hours)."""


CommandKind = Literal[
    "stop",
    "pause",
    "resume",
    "revive",
    "pin",
    "unpin",
    "clone",
    "cancel",
    "add",
    "extend",
    "narrow",
    "set",
]
"""Of a trial: stop, pause, resume, revive, pin, unpin, clone. Of a sweep: cancel, pause, resume,
add, extend, narrow, set."""


class Command(Model):
    """What somebody asked for. `result` says what became of it, null until it is carried out."""

    id: int
    sweep_id: str
    trial_id: str | None
    kind: CommandKind
    payload: dict[str, Any] | None = None
    """clone: {params}; add: {params}; extend: {trials}; narrow: {space}; set: any of
    max_concurrent, priority, weight, budget."""
    issued_by: str
    result: str | None = None
    created_at: datetime
    finished_at: datetime | None = None


class Sweep(Model):
    id: str
    name: str
    project: str = "default"
    state: SweepState
    message: str | None
    spec: dict[str, Any]
    facts: dict[str, Any] = {}
    """What the check of data and model found: train_samples, too_long (by file), parameters, …"""
    summary: SweepSummary
    scheduler_summary: dict[str, Any] | None = None
    """What the scheduler says of its evidence: `audit`, and for `dynamics` the weights of norm and
    loss, risk, guard, agreement with the paper's sign, transfer. Null before its first decision."""
    priority: int = 0
    weight: float = 1.0
    max_concurrent: int | None = None
    """Trials at once, as it is now; null: as many as it gets."""
    slots: int | None = None
    """Trials at once that the cluster grants it now; null before that was decided."""
    why_pending: str | None = None
    """Why it has fewer slots than it could use, as a sentence."""
    budget: list[Spending] = []
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Curve(Model):
    """A trial's points, as columns of equal length, by rising step. Columns that were not asked for
    are empty."""

    trial_id: str
    step: list[int]
    samples: list[int]
    loss: list[float | None] = []
    grad_norm: list[float | None] = []
    learning_rate: list[float] = []
    total_points: int
    """Points that were asked for; more than were sent if they were thinned out."""
    x: list[float] | None = None
    """Where each point lies on the axis that was asked for: steps, samples, tokens, or seconds of
    training."""
    details: dict[str, list[float | None]] | None = None
    """On request: seconds, memory (bytes), input_tokens, tokens_per_second, padding (a share),
    data_wait (seconds), mfu, grad_sq and noise; see the trainer's step records."""


class EvaluationPoint(Model):
    trial_id: str
    step: int
    samples: int
    split: Split
    dataset: str
    loss: float | None
    exact_match: float | None
    tokens: int
    generated: int
    scores: dict[str, float] = {}
    """Figures by metric, of a benchmark or a judge."""


class Metrics(Model):
    curves: list[Curve]
    evaluations: list[EvaluationPoint]
    next: str | None = None
    """The cursor of the following trials, null if these were the last."""


class Decision(Model):
    """What the scheduler decided about a trial, and why."""

    id: int
    trial_id: str
    trial_number: int
    action: Literal["continue", "pause", "resume", "stop"]
    rule: str
    reason: str
    code: str
    samples: int
    evidence: dict[str, Any]
    acted: bool
    """False if it was recorded only (mode: shadow, or an audited trial)."""
    created_at: datetime


class ParameterImportance(Model):
    name: str
    importance: float
    """Its share; all together are 1."""


class Importance(Model):
    """How much each parameter matters for being among the best trials, by PED-ANOVA."""

    sweep_id: str
    metric: str
    mode: Literal["min", "max"]
    method: Literal["ped-anova"] = "ped-anova"
    samples: int | None
    """Where in training the trials were measured; null: at their ends."""
    trials: int
    """How many it is based on, those that diverged included."""
    best: int
    """How many of them are the best ones."""
    parameters: list[ParameterImportance]
    """Those that vary, the most important first; empty if nothing can be said."""
    why: str | None = None
    """Why nothing can be said."""


class Event(Model):
    """Something that happened to a sweep. `id` rises without gaps and is the SSE id."""

    id: int
    sweep_id: str
    trial_id: str | None
    type: str
    """sweep.created, sweep.state, trial.created, trial.state, attempt.started, decision,
    evaluation, checkpoint, command, driver.started, driver.lost, budget.reached."""
    data: dict[str, Any]
    created_at: datetime


class Recipe(Model):
    """A named set of values for `training`. `defaults` are those of the fields that it leaves
    alone."""

    name: str
    fields: dict[str, Any]
    defaults: dict[str, Any] = {}


class FieldError(Model):
    """One thing wrong with the input. `pointer` is a JSON pointer into it (RFC 6901)."""

    pointer: str
    message: str


class Problem(Model):
    """An error, as RFC 9457 application/problem+json."""

    type: str
    title: str
    status: int
    detail: str = ""
    errors: list[FieldError] = []
    request_id: str | None = None


class Health(Model):
    status: Literal["ok", "degraded"]
    version: str
    database: Literal["ok", "unreachable"]
    orchestrator: Literal["ok", "silent"]
    """`silent` if no orchestrator has reported for some seconds."""
    cluster: dict[str, float]
    """Resources of the Ray cluster as last reported, e.g. {"CPU": 2, "GPU": 0}."""
