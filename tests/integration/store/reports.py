"""What a trainer reports, made short for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.schedulers.base import Action, Decision
from orchestrator.store import Lease, Store
from trainer.metrics import Batch, CheckpointRecord, Evaluation, StepRecord
from winnow.types import Split, TrialKind

BATCH_SIZE = 10


def step(
    number: int, *, loss: float | None = None, grad_norm: float | None = 2.0, **parts: Any
) -> StepRecord:
    return StepRecord(
        step=number,
        samples=number * BATCH_SIZE,
        tokens=number * 100,
        loss=1.0 / number if loss is None else loss,
        grad_norm=grad_norm,
        learning_rate=1e-3,
        seconds=0.5,
        memory=1_000,
        batch_samples=BATCH_SIZE,
        **parts,
    )


def steps(first: int, last: int) -> Batch:
    return Batch("running", steps=tuple(step(n) for n in range(first, last + 1)))


def evaluation(
    at: int,
    loss: float | None,
    *,
    split: Split = "eval",
    dataset: str = "gsm8k",
    tokens: int = 100,
    exact_match: float | None = None,
    generated: int = 0,
    scores: dict[str, float] | None = None,
) -> Evaluation:
    return Evaluation(
        step=at,
        samples=at * BATCH_SIZE,
        split=split,
        dataset=dataset,
        loss=loss,
        tokens=tokens,
        exact_match=exact_match,
        generated=generated,
        seconds=0.25,
        scores=scores or {},
    )


def checkpoint(at: int, path: str, kind: Literal["state", "export"] = "state") -> CheckpointRecord:
    return CheckpointRecord(
        step=at,
        samples=at * BATCH_SIZE,
        kind=kind,
        path=path,
        bytes=5,
        seconds=0.25,
    )


def stop(trial_id: str, rule: str = "rung") -> Decision:
    return Decision(
        trial_id=trial_id,
        action=Action.STOP,
        rule=rule,
        reason="Half of the trials are better here.",
        code="asha",
        samples=100,
        evidence={"rank": 7, "peers": 8},
    )


@dataclass(frozen=True)
class Running:
    """A sweep with a driver."""

    store: Store
    sweep_id: str
    lease: Lease

    def trial(
        self, number: int = 0, *, kind: TrialKind = "search", total_samples: int = 1000
    ) -> str:
        """A new trial, waiting."""
        return self.store.add_trial(
            self.lease,
            number,
            kind,
            {"learning_rate": 1e-3},
            {"model": "m"},
            total_samples,
        )

    def started(self, number: int = 0, **kwargs) -> tuple[str, int]:
        """A new trial with its first attempt live."""
        trial_id = self.trial(number, **kwargs)
        return trial_id, self.store.start_attempt(self.lease, trial_id)


def begin(store: Store, spec: dict | None = None) -> Running:
    """A new sweep, taken by a driver."""
    sweep = store.create_sweep(spec or {}, planned=8, name="a sweep")
    lease = store.acquire_lease(sweep.id, "a driver", 60)
    assert lease is not None
    return Running(store, sweep.id, lease)
