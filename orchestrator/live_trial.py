"""A trial while its sweep runs: what a study remembers of it between reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.search.samplers import Told
from orchestrator.store import TrialRow
from trainer.metrics import Evaluation
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
    lost: int = 0
    checkpoint: str | None = None
    """The newest one to resume from."""
    reason: str | None = None
    message: str | None = None
    value: float | None = None
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    """The latest of each eval set."""
    intent: tuple[Control, TrialState, str, str] | None = None
    """Asked to yield: how, into which state, with which reason code and message."""

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
        return cls(
            id=row.id,
            number=row.number,
            kind=row.kind,
            state=row.state,
            params=row.params,
            config=row.config,
            total_samples=row.total_samples,
            attempt=row.attempt,
            checkpoint=row.checkpoints[0].path if row.checkpoints else None,
            reason=row.reason,
            message=row.message,
            value=row.value,
            evaluations={e.dataset: e for e in row.evaluations if e.split == "eval"},
        )

    def measured(self, metric: str) -> float | None:
        """The objective over the eval sets, from the latest evaluation of each."""
        if metric == "eval/loss":
            return self._held_out()
        scored = [e for e in self.evaluations.values() if e.exact_match is not None]
        total = sum(e.generated for e in scored)
        return sum((e.exact_match or 0.0) * e.generated for e in scored) / total if total else None

    def told(self, sign: float) -> Told:
        """The trial as a sampler sees it; `sign` makes lower values better."""
        at = max((e.samples for e in self.evaluations.values()), default=0)
        rungs = self.config.get("eval_at") or []
        return Told(
            number=self.number,
            params=self.params,
            state=self.state,
            reason=self.reason,
            value=None if self.value is None else sign * self.value,
            held_out=self._held_out(),
            rung=sum(r <= at for r in rungs) if at else None,
        )

    def _held_out(self) -> float | None:
        """Token-weighted mean held-out loss over data sets; None if any is not finite."""
        found = list(self.evaluations.values())
        if not found or any(e.loss is None for e in found):
            return None
        tokens = sum(e.tokens for e in found)
        return sum((e.loss or 0.0) * e.tokens for e in found) / tokens if tokens else None
