"""`paper-sign`: the paper's finding taken literally, as a rule to be measured against.

"Unveiling the Secret Recipe" (arXiv 2412.13337) reports that runs with a lower gradient norm and a
higher loss early on end with better benchmark scores. It gives no window and no coefficient, so
this is one reading: at one early point the score is the mean of two percentile ranks among the
trials that have got there, of a low mean log norm and of a high mean loss; the best `keep` of them
go on, the others end. With fewer than four peers there is nothing to rank, so trials wait, paused.

It ignores the rate, the batch size and the held-out loss on purpose. Use `dynamics` for a rule.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import Any

from orchestrator.schedulers.base import Action, Decision, going_on
from orchestrator.schedulers.tracking import Followed, Status, TrackingScheduler

PEERS = 4
POINT = "first"


class PaperSign(TrackingScheduler):
    """Low norm and high loss at `first_rung` of the budget go on."""

    name = "paper-sign"
    code = "paper-sign"

    def _judge(self, trial: Followed) -> Decision | None:
        if POINT in trial.judged or not self._is_there(trial):
            return None
        score = self._scores()[trial.info.id]
        if score["peers"] < PEERS:
            reason = (
                f"only {score['peers']} of the {PEERS} trials needed for ranks have got to "
                f"{self._at(trial):,} samples; it waits"
            )
            return self._say(trial, Action.PAUSE, reason, score)
        if score["rank"] <= score["quota"]:
            return self._say(trial, Action.CONTINUE, _reason(score), score)
        return self._say(trial, Action.STOP, _reason(score), score)

    def _call_back(self, waiting: int) -> Decision | None:
        if not any(t.status is Status.PAUSED for t in self._in_order()):
            return None
        scores = self._scores()
        paused = sorted(
            (t for t in self._in_order() if t.status is Status.PAUSED),
            key=lambda t: scores[t.info.id]["rank"],
        )
        best, score = paused[0], scores[paused[0].info.id]
        if score["peers"] >= PEERS and score["rank"] <= score["quota"]:
            return self._say(best, Action.RESUME, _reason(score), score)
        idle = waiting == 0 and not any(t.status is Status.ACTIVE for t in self._in_order())
        if idle and (score["peers"] < PEERS or self._nothing_left(waiting)):
            reason = "nothing else is left to run" + (
                f", and with {score['peers']} trials there is nothing to rank"
                if score["peers"] < PEERS
                else " and no trial has completed"
            )
            return self._say(best, Action.RESUME, reason, score)
        return None

    def _give_up(self, trial: Followed) -> Decision:
        score = self._scores()[trial.info.id]
        return self._say(trial, Action.STOP, _reason(score), score)

    def _at(self, trial: Followed) -> int:
        return max(1, math.ceil(self.spec.first_rung * trial.info.total_samples))

    def _is_there(self, trial: Followed) -> bool:
        return trial.curve.samples >= self._at(trial)

    def _say(self, trial: Followed, action: Action, reason: str, score: dict[str, Any]) -> Decision:
        return self._decision(trial, action, "paper-sign", reason, point=POINT, **score)

    def _scores(self) -> dict[str, dict[str, Any]]:
        """Score, rank and their parts for every trial that has got to the point."""
        there = [t for t in self._in_order() if self._is_there(t)]
        norms = {t.info.id: self._mean(t, "grad_norm") for t in there}
        losses = {t.info.id: self._mean(t, "loss") for t in there}
        # A curve without a finite value is the worst of both kinds.
        low_norm = _percentiles({i: math.inf if v is None else v for i, v in norms.items()})
        high_loss = _percentiles({i: math.inf if v is None else -v for i, v in losses.items()})
        score = {t.info.id: (low_norm[t.info.id] + high_loss[t.info.id]) / 2 for t in there}
        order = sorted(score, key=lambda i: -score[i])
        quota = math.ceil(self.spec.keep * len(there))
        return {
            i: {
                "score": score[i],
                "low_norm_percentile": low_norm[i],
                "high_loss_percentile": high_loss[i],
                "mean_log_norm": norms[i],
                "mean_loss": losses[i],
                "rank": rank,
                "peers": len(there),
                "quota": quota,
            }
            for rank, i in enumerate(order, start=1)
        }

    def _mean(self, trial: Followed, field: str) -> float | None:
        """Mean loss or mean log norm up to the point; of the first step if that is past it."""
        records = trial.curve.until(self._at(trial)) or trial.curve.steps[:1]
        values = [getattr(r, field) for r in records]
        if not values or any(v is None for v in values):
            return None
        if field == "grad_norm":
            values = [math.log(max(v, 1e-30)) for v in values]
        return sum(values) / len(values)


def _percentiles(values: dict[str, float]) -> dict[str, float]:
    """Share of the others with a higher value, ties half: 1 for the lowest, 0 for the highest."""
    if len(values) < 2:
        return dict.fromkeys(values, 0.5)
    ordered = sorted(values.values())
    n = len(ordered)
    return {
        i: (
            n
            - bisect_right(ordered, v)
            + (bisect_right(ordered, v) - bisect_left(ordered, v) - 1) / 2
        )
        / (n - 1)
        for i, v in values.items()
    }


def _reason(score: dict[str, Any]) -> str:
    return (
        f"low norm (percentile {100 * score['low_norm_percentile']:.0f}) and high loss (percentile "
        f"{100 * score['high_loss_percentile']:.0f}) together rank {score['rank']} of "
        f"{score['peers']}; {going_on(score['quota'])}"
    )
