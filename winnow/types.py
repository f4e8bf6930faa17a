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


Fate = Literal["kept", "stopped", "failed", "unknown"]


class ReplayedTrial(Model):
    """What another rule would have made of a trial.

    `fate`: it runs to its end (`kept`), the rule ends it (`stopped`), it diverges or fails before
    that (`failed`), or the rule lets it go on past all that was recorded of it (`unknown`).
    """

    trial_id: str
    number: int
    fate: Fate
    censored: bool
    """It was ended early when the sweep ran, so its own end isn't known."""
    samples: int
    """Where the replay leaves it."""
    recorded_samples: int
    total_samples: int
    value: float | None
    """The objective, as measured."""
    rule: str | None = None
    reason: str | None = None
    """Of the decision that stopped it."""


class RandomChoice(Model):
    """Random search at the replay's compute: `trials` of the sweep's trials, picked blindly and run
    whole (K, not a whole number in general).

    With n trials of which m have a value, v₁ ≤ … ≤ v_m best first, and K of them drawn without
    replacement, the best drawn is vᵢ with probability pᵢ = C(n−i, K−1) / C(n, K), and none drawn
    has a value with probability p₀ = C(n−m, K) / C(n, K). So `value` = Σ vᵢ pᵢ / (1 − p₀), and the
    chance that the very best is drawn, `best_kept`, is K / n. Between whole K, linear.
    """

    trials: float
    best_kept: float
    value: float | None
    regret: float | None


class Replay(Model):
    """A finished sweep under another scheduler: what that would have saved, and lost.

    Shares, seconds and hours are of the trials whose fate is known, and net of what the rule costs:
    its evaluations and pauses.
    """

    sweep_id: str
    scheduler: dict[str, Any]
    seed: int
    workers: int
    metric: str
    mode: Literal["min", "max"]
    trials: int
    completed: int
    """Trials that had run to their end when the sweep ran, and have a value."""
    censored: int
    stopped: int
    unknown: int
    samples_trained: int
    samples_full: int
    seconds: float
    seconds_full: float
    """Worker time, under the rule and with every trial run to its end. What a censored trial would
    still have taken is estimated by its own pace."""
    saved: float
    """1 − seconds / seconds_full."""
    saved_at_least: float
    """The same if each trial of unknown fate had run to its end."""
    device: Literal["GPU", "CPU"]
    device_hours: float
    device_hours_full: float
    wall_seconds: float
    wall_seconds_full: float
    """With `workers` trials at once."""
    best_trial: str
    best_value: float
    """Of the trials that completed when the sweep ran."""
    best_kept: bool
    """Whether the replay's choice is as good as that."""
    chosen_trial: str | None
    """What the replay would have chosen; null if nothing completes in it."""
    chosen_value: float | None
    regret: float | None
    """How much worse it is than the best, in the objective's units; 0 if it is kept."""
    front: list[str] = []
    front_kept: list[str] = []
    """With several objectives: the completed trials that no other beats in all of them, and those
    of them that the replay runs to their end."""
    random: RandomChoice
    notes: list[str]
    """What has to be known to read this right."""
    outcomes: list[ReplayedTrial]


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


class Token(Model):
    """An API token, without its text: that is told once, when it is made or rotated."""

    id: int
    name: str
    prefix: str
    """The first characters of its text, by which people tell tokens apart."""
    scopes: list[Literal["read", "submit", "control", "admin"]]
    """As given; `submit` and `control` can read too, `admin` can do everything."""
    project: str | None
    """The only project that it sees; null: all of them."""
    state: Literal["active", "expired", "revoked"]
    created_by: str | None
    """Name of the token that made it; null: the server, at its first start."""
    created_at: datetime
    expires_at: datetime | None
    """Null: never."""
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None
    previous_expires_at: datetime | None = None
    """When the text that it had before it was rotated stops working, if it still works."""


class TokenSecret(Token):
    """A token that was just made or rotated."""

    token: str | None
    """Its text. It is told only now: null where an answer is repeated (`Idempotency-Key`)."""


class Session(Model):
    """A browser that is signed in. It may do what its token may, and ends with it."""

    name: str
    """The token's name."""
    token_id: int
    scopes: list[Literal["read", "submit", "control", "admin"]]
    """All that it may do."""
    project: str | None
    expires_at: datetime
    csrf: str
    """Requests that change something send this as the header `X-CSRF-Token`."""


class AuditEntry(Model):
    """A request that asked for a change, or was refused one."""

    id: int
    created_at: datetime
    actor: str
    """The token's name."""
    token_id: int | None
    action: str
    """What was asked for: `sweeps.create`, `trials.stop`, `tokens.revoke`, …"""
    target: str | None
    """The address that it was asked of, or where what was made can be found."""
    project: str | None
    status: int
    """Of the answer. 403: it was refused, as the token lacks the scope."""
    request_id: str | None
    address: str | None
    detail: dict[str, Any] | None = None


class Health(Model):
    status: Literal["ok", "degraded"]
    version: str
    database: Literal["ok", "unreachable"]
    orchestrator: Literal["ok", "silent"]
    """`silent` if no orchestrator has reported for some seconds."""
    cluster: dict[str, float]
    """Resources of the Ray cluster as last reported, e.g. {"CPU": 2, "GPU": 0}."""
