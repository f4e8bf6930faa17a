"""`wilcoxon`: stop a trial that a paired test finds worse than the best one so far.

As Optuna's WilcoxonPruner: Wilcoxon's signed-rank test of paired results, one-sided. Effective
batches are exact, so trials with one order of samples have met the same samples at any sample
count, whatever their batch sizes: their training losses over the same stretch of samples are a
pair. Stretches reach from one sample count at which both end a step to the next, at most
`MOST_PAIRS` of them; if that makes too few, they are the steps of the trial with the larger
batches, and the other's loss is taken as constant within a step.

It decides at the rungs only, and only against the trial with the lowest held-out loss there: a
trial that has that itself passes, so somebody always gets through. It stops for good. Neighbouring
pairs are not independent, so `p_value` is a setting, not a rate of errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.schedulers.base import Action, Decision
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.tracking import Followed, TrackingScheduler
from trainer.metrics import StepRecord

LEAST_PAIRS = 8
MOST_PAIRS = 50
"""More would add hardly anything but dependence; up to here the test is exact."""

ORDER = ("strategy", "replay", "seed", "batching")
"""Parameters on which the order of samples depends, besides the budget."""

Vector = npt.NDArray[np.float64]


class Wilcoxon(TrackingScheduler):
    """Stops what is worse than the best by a paired test."""

    name = "wilcoxon"
    code = "wilcoxon"

    def _judge(self, trial: Followed) -> Decision | None:
        deepest = self._deepest_rung(trial)
        if deepest is None or str(deepest[0]) in trial.judged:
            return None
        rung, own = deepest
        passes = f"{_words(own)} {{}}"
        best = self._best_other(trial, rung)
        if best is None:
            why = "has no other trial here yet that met the same samples"
            return self._say(trial, rung, Action.CONTINUE, passes.format(why), own)
        other, reference = best
        against: dict[str, Any] = {
            "best_trial": other.info.number,
            "best_held_out_loss": reference.loss,
        }
        if reference.rank_key >= own.rank_key:
            why = "is the best here so far"
            return self._say(trial, rung, Action.CONTINUE, passes.format(why), own, **against)
        mine, theirs = pairs(
            trial.curve.steps, other.curve.steps, min(own.samples, reference.samples)
        )
        against |= {"pairs": len(mine), "pairs_needed": LEAST_PAIRS}
        if len(mine) < LEAST_PAIRS:
            why = (
                f"is behind trial {other.info.number}, but with {len(mine)} stretches of equal "
                f"samples to compare; {LEAST_PAIRS} are needed"
            )
            return self._say(trial, rung, Action.CONTINUE, passes.format(why), own, **against)
        p = signed_rank(mine - theirs)
        worse = int((mine > theirs).sum())
        stops = p < self.spec.p_value
        why = (
            f"is behind trial {other.info.number}, and its training loss was higher in {worse} of "
            f"{len(mine)} stretches of equal samples: p = {p:.2g}, "
            f"{'below' if stops else 'not below'} {self.spec.p_value:g}"
        )
        against |= {"p": p, "higher_in": worse, "mean_difference": float((mine - theirs).mean())}
        action = Action.STOP if stops else Action.CONTINUE
        return self._say(trial, rung, action, passes.format(why), own, **against)

    def _best_other(self, trial: Followed, rung: int) -> tuple[Followed, HeldOut] | None:
        """The lowest held-out loss here, the lower number of equals, among comparable trials."""
        others = [
            (held_out.rank_key, other.info.number, other, held_out)
            for other in self._in_order()
            if other is not trial
            and (held_out := self._held_out(other, rung)) is not None
            and _same_samples(trial, other)
            and not _broke(other)
        ]
        if not others:
            return None
        _, _, other, held_out = min(others, key=lambda o: o[:2])
        return other, held_out

    def _say(
        self, trial: Followed, rung: int, action: Action, reason: str, own: HeldOut, **evidence: Any
    ) -> Decision:
        return self._decision(
            trial,
            action,
            "wilcoxon",
            reason,
            point=str(rung),
            rung=rung,
            rung_samples=self._points(trial.info.total_samples)[rung],
            held_out_loss=own.loss,
            p_value=self.spec.p_value,
            **evidence,
        )


def pairs(
    one: Sequence[StepRecord], two: Sequence[StepRecord], samples: int
) -> tuple[Vector, Vector]:
    """Mean training losses of two trials over the same stretches of samples up to `samples`, two
    vectors of equal length. A stretch in which either has a loss that isn't finite is left out."""
    curves = [_Integral.of(_forward(steps, samples)) for steps in (one, two)]
    edges = np.intersect1d(curves[0].samples, curves[1].samples)
    if len(edges) <= LEAST_PAIRS:  # Too few: split a step of one where the other has one's end.
        end = min(c.samples[-1] for c in curves)
        edges = min((c.samples[c.samples <= end] for c in curves), key=len)
    if len(edges) - 1 > MOST_PAIRS:
        edges = edges[np.linspace(0, len(edges) - 1, MOST_PAIRS + 1).round().astype(int)]
    first, second = (c.means(edges) for c in curves)
    known = np.isfinite(first) & np.isfinite(second)
    return first[known], second[known]


def signed_rank(differences: Vector) -> float:
    """One-sided p-value of Wilcoxon's signed-rank test that the differences lie above zero. Exact
    without ties; zeros are split between the signs (`zsplit`), so that all-zero gives no error."""
    from scipy.stats import wilcoxon

    sizes = np.abs(differences)
    if not sizes.any():
        return 0.5
    tied = len(np.unique(sizes)) < len(sizes) or (sizes == 0).any()
    result: Any = wilcoxon(
        differences,
        alternative="greater",
        zero_method="zsplit",
        method="approx" if tied else "exact",
    )
    return float(result.pvalue)


@dataclass(frozen=True, slots=True)
class _Integral:
    """A loss curve summed over samples, so that its mean over any stretch is a difference."""

    samples: Vector
    loss: Vector
    missing: Vector
    """Samples whose loss isn't finite."""

    @classmethod
    def of(cls, steps: Sequence[StepRecord]) -> _Integral:
        ends = np.array([0, *(s.samples for s in steps)], dtype=np.float64)
        values = np.array([math.nan if s.loss is None else s.loss for s in steps], dtype=np.float64)
        size = np.diff(ends)
        finite = np.isfinite(values)
        loss = np.where(finite, values, 0.0) * size
        return cls(
            ends,
            np.concatenate([[0.0], np.cumsum(loss)]),
            np.concatenate([[0.0], np.cumsum(np.where(finite, 0.0, size))]),
        )

    def means(self, edges: Vector) -> Vector:
        """Mean loss between neighbouring edges; NaN where a part is missing."""
        total = np.diff(np.interp(edges, self.samples, self.loss))
        missing = np.diff(np.interp(edges, self.samples, self.missing))
        return np.where(missing > 0, np.nan, total / np.diff(edges))


def _forward(steps: Sequence[StepRecord], samples: int) -> list[StepRecord]:
    """The steps up to `samples`, without any that doesn't go on from the one before it."""
    kept: list[StepRecord] = []
    for record in steps:
        if (kept[-1].samples if kept else 0) < record.samples <= samples:
            kept.append(record)
    return kept


def _same_samples(one: Followed, two: Followed) -> bool:
    """Whether both meet the same samples at the same sample counts."""
    return one.info.total_samples == two.info.total_samples and all(
        one.info.params.get(name) == two.info.params.get(name) for name in ORDER
    )


def _broke(trial: Followed) -> bool:
    """Whether it failed, diverged or was cancelled: nothing to measure others by."""
    outcome = trial.outcome
    return outcome is not None and (
        outcome.state not in ("COMPLETED", "PRUNED") or outcome.reason == "diverged"
    )


def _words(held_out: HeldOut) -> str:
    loss = "no finite loss" if held_out.loss is None else f"{held_out.loss:.4g}"
    return f"held-out loss {loss} at {held_out.samples:,} samples"
