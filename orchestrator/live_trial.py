"""A trial while its sweep runs: what a study remembers of it between reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.search.samplers import Told
from orchestrator.store import AttemptRow, TrialRow
from trainer.metrics import Batch, Evaluation
from winnow.objective import Metric
from winnow.types import TrialKind, TrialState

Control = Literal["go", "pause", "stop"]


@dataclass(slots=True)
class LiveTrial:
    """One trial. Nothing in it that its rows do not tell, but for what it was just asked to do."""

    id: str
    number: int
    kind: TrialKind
    state: TrialState
    params: dict[str, Any]
    config: dict[str, Any]
    total_samples: int
    attempt: int = 0
    samples: int = 0
    lost: int = 0
    """Attempts in a row that the machinery lost since its checkpoint last moved on."""
    retries: int = 0
    """Attempts in a row that ended for lack of memory or with an unreadable checkpoint."""
    cap: int | None = None
    """Tokens per micro-batch that its last attempt trained with, and the least that can help."""
    longest: int = 1
    checkpoints: list[str] = field(default_factory=list)
    """Those to resume from, newest first."""
    unsaved: float = 0.0
    """Seconds of training since the newest one."""
    pinned: bool = False
    parent: str | None = None
    reused_from: str | None = None
    fingerprint: str | None = None
    why_pending: str | None = None
    reason: str | None = None
    message: str | None = None
    value: float | None = None
    also: dict[str, float | None] = field(default_factory=dict)
    """The further objectives by metric, as measured."""
    evaluations: dict[tuple[str, str], Evaluation] = field(default_factory=dict)
    """The latest of each split and data set, task or judge."""
    intent: tuple[Control, TrialState, str, str] | None = None
    """Asked to yield: how, into which state, with which reason code and message."""

    @property
    def checkpoint(self) -> str | None:
        """The one to resume from."""
        return self.checkpoints[0] if self.checkpoints else None

    @property
    def waits_for_user(self) -> bool:
        """Whether a user has paused it, so that only a user calls it back."""
        return self.state is TrialState.PAUSED and self.reason == "user"

    @property
    def attempt_id(self) -> str:
        return f"{self.id}-a{self.attempt}"

    @property
    def pausing(self) -> bool:
        """Whether the scheduler has set it aside, but it has not yielded yet."""
        return self.intent is not None and self.intent[1] is TrialState.PAUSED

    @classmethod
    def of(cls, row: TrialRow) -> LiveTrial:
        """The trial as its rows tell it."""
        notes: dict[str, Any] = {}
        for attempt in row.attempts:
            notes |= attempt.notes
        saved_at = row.checkpoints[0].step if row.checkpoints else 0
        trial = cls(
            id=row.id,
            number=row.number,
            kind=row.kind,
            state=row.state,
            params=row.params,
            config=row.config,
            total_samples=row.total_samples,
            attempt=row.attempt,
            samples=row.samples,
            lost=_in_a_row(row.attempts, ("infrastructure",)),
            retries=_in_a_row(row.attempts, ("oom", "checkpoint")),
            checkpoints=[c.path for c in row.checkpoints],
            unsaved=sum(s.seconds for s in row.steps if s.step > saved_at),
            pinned=row.pinned,
            parent=row.parent,
            reused_from=row.reused_from,
            fingerprint=row.fingerprint,
            reason=row.reason,
            message=row.message,
            value=row.value,
            also=row.also,
            evaluations={(e.split, e.dataset): e for e in row.evaluations},
        )
        trial.note_cap(notes)
        return trial

    def take(self, batch: Batch) -> None:
        """Remember what a report tells: what was measured, what was saved, what it trains with."""
        self.note(batch.evaluations)
        self.note_cap(batch.notes)
        self.unsaved += sum(s.seconds for s in batch.steps)
        if batch.steps:
            self.samples = batch.steps[-1].samples
        for saved in batch.checkpoints:
            if saved.kind == "state":
                self.checkpoints.insert(0, saved.path)
                self.unsaved, self.lost, self.retries = 0.0, 0, 0

    def note_cap(self, notes: Mapping[str, Any]) -> None:
        if isinstance(cap := notes.get("max_tokens_per_microbatch"), int):
            self.cap = cap
        if isinstance(longest := notes.get("longest"), int):
            self.longest = longest

    def note(self, evaluations: Iterable[Evaluation]) -> None:
        """Remember what was measured."""
        self.evaluations |= {(e.split, e.dataset): e for e in evaluations}

    def measured(self, metric: Metric) -> float | None:
        """The objective, from the latest evaluations; None if it is missing or wasn't finite."""
        found = self._of(metric.kind, metric.dataset)
        if metric.kind in ("lm_eval", "judge"):
            names = (metric.name, f"category/{metric.name}")
            figures = [figure(e.scores, name) for e in found for name in names]
            return next((f for f in figures if f is not None), None)
        if metric.name == "loss":
            return _mean_loss(found)
        scored = [e for e in found if e.exact_match is not None]
        total = sum(e.generated for e in scored)
        return sum((e.exact_match or 0.0) * e.generated for e in scored) / total if total else None

    def figures(self, metric: Metric) -> list[str]:
        """The names of what was measured where `metric` is to be found."""
        return sorted({n for e in self._of(metric.kind, metric.dataset) for n in e.scores})

    def told(self, sign: float) -> Told:
        """The trial as a sampler sees it; `sign` makes lower values better."""
        held_out = self._of("eval", None)
        at = max((e.samples for e in held_out), default=0)
        rungs = self.config.get("eval_at") or []
        return Told(
            number=self.number,
            params=self.params,
            state=self.state,
            reason=self.reason,
            value=None if self.value is None else sign * self.value,
            held_out=_mean_loss(held_out),
            rung=sum(r <= at for r in rungs) if at else None,
        )

    def _of(self, split: str, dataset: str | None) -> list[Evaluation]:
        return [
            e
            for (kind, name), e in self.evaluations.items()
            if kind == split and dataset in (None, name)
        ]


def _in_a_row(attempts: Sequence[AttemptRow], reasons: Sequence[str]) -> int:
    """The last attempts that ended for one of the reasons without leaving a checkpoint that the
    next one could start from."""
    count, first_step = 0, 0
    for attempt in reversed(attempts):
        if attempt.reason not in reasons or attempt.state is not TrialState.PENDING:
            break
        if count and attempt.first_step < first_step:
            break
        first_step = attempt.first_step
        count += 1
    return count


def figure(scores: Mapping[str, float], name: str) -> float | None:
    """A benchmark's figure. lm-evaluation-harness writes its filter behind a comma: `acc,none`;
    without one in `name`, the plain figure is meant, or the only one there is."""
    if name in scores:
        return scores[name]
    if f"{name},none" in scores:
        return scores[f"{name},none"]
    filtered = [key for key in scores if key.startswith(f"{name},")]
    return scores[filtered[0]] if len(filtered) == 1 else None


def _mean_loss(found: list[Evaluation]) -> float | None:
    """Token-weighted mean loss over data sets; None if any is not finite."""
    if not found or any(e.loss is None for e in found):
        return None
    tokens = sum(e.tokens for e in found)
    return sum((e.loss or 0.0) * e.tokens for e in found) / tokens if tokens else None
