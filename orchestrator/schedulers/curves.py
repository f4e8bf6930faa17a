"""One trial's records as a scheduler keeps them: by step, superseded points dropped, held-out loss
per rung."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.schedulers.steps import Steps
from trainer.metrics import Evaluation, StepRecord


@dataclass(slots=True)
class Curve:
    """Records of one trial, by rising step.

    An attempt that starts again from a checkpoint sends some steps a second time: the later record
    counts, and what came after it in the earlier attempt is dropped.
    """

    keeps_steps: bool = True
    """Whether for good; else only the last one is kept, which tells how far the trial is."""
    steps: Steps = field(default_factory=Steps)
    _evaluations: dict[int, dict[str, Evaluation]] = field(default_factory=dict)
    _held_out: dict[tuple[int, int], HeldOut | None] = field(default_factory=dict)

    def extend(self, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]) -> int:
        """Take in a batch. Returns how many of the steps kept before it are still there."""
        kept = len(self.steps)
        for record in steps:
            self.steps.drop_from(record.step)
            kept = min(kept, len(self.steps))
            self.steps.append(record)
        if not self.keeps_steps:
            self.steps.keep_last()
        if evaluations:
            self._held_out.clear()
        for evaluation in evaluations:
            if evaluation.split == "eval":
                at = self._evaluations.setdefault(evaluation.samples, {})
                at[evaluation.dataset] = evaluation
        return kept

    @property
    def samples(self) -> int:
        """Samples seen so far, 0 before the first step."""
        seen = max(self._evaluations, default=0)
        return max(seen, self.steps.samples[-1]) if self.steps else seen

    def held_out(self, low: int, high: int) -> HeldOut | None:
        """The first evaluation with low ≤ samples < high; None if there is none."""
        if (low, high) not in self._held_out:
            at = min((s for s in self._evaluations if low <= s < high), default=None)
            self._held_out[low, high] = (
                None if at is None else HeldOut(at, mean_loss(list(self._evaluations[at].values())))
            )
        return self._held_out[low, high]

    def losses(self, samples: int) -> dict[str, float | None]:
        """Loss on each held-out set at exactly this number of samples; None if not finite."""
        return {
            name: e.loss if e.loss is not None and math.isfinite(e.loss) else None
            for name, e in self._evaluations.get(samples, {}).items()
        }

    def last_held_out(self) -> float | None:
        """The held-out loss that was measured last."""
        at = max(self._evaluations, default=None)
        return None if at is None else mean_loss(list(self._evaluations[at].values()))

    def until(self, samples: int) -> list[StepRecord]:
        """The steps that ended at `samples` or before."""
        return self.steps[: bisect_right(self.steps.samples, samples)]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out loss in nats a token at a number of samples; None if it was not finite."""

    samples: int
    loss: float | None

    @property
    def rank_key(self) -> float:
        """The loss, infinite where it is missing: a model that can't be judged counts as worst."""
        return math.inf if self.loss is None else self.loss


def mean_loss(evaluations: Sequence[Evaluation]) -> float | None:
    """Token-weighted mean loss over data sets; None if one of them has none."""
    losses = [(e.loss, e.tokens) for e in evaluations]
    if not losses or any(loss is None or not math.isfinite(loss) for loss, _ in losses):
        return None
    tokens = sum(n for _, n in losses)
    if tokens == 0:
        return sum(loss or 0.0 for loss, _ in losses) / len(losses)
    return sum((loss or 0.0) * n for loss, n in losses) / tokens
