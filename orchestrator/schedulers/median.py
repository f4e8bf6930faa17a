"""`median`: the median stopping rule of Google Vizier.

Golovin et al., "Google Vizier: A Service for Black-Box Optimization" (KDD 2017): a trial is stopped
at a point if its best result so far is worse than the median of the other trials' running averages
up to that point. Here a point is a rung and a result is held-out loss. As trials run at the same
time, all others that have got to the rung count, not only completed ones.

A batch that skips a rung leaves fewer results to average, later and lower ones. So the others'
averages are taken over the very rungs at which the judged trial was measured, and a trial that
lacks one of them is no peer.

It stops for good, as the original does: nothing is paused. Trials that come to a rung before
`LEAST_PEERS` others pass, so somebody always gets through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from orchestrator.schedulers.base import Action, Decision
from orchestrator.schedulers.tracking import Followed, TrackingScheduler

LEAST_PEERS = 5
"""Others at a rung before it stops anyone, as `n_startup_trials` of Optuna's MedianPruner."""


class MedianStopping(TrackingScheduler):
    """Stops what is worse than the median of the others' running averages."""

    name = "median"
    code = "median"
    reads_steps = False

    def _judge(self, trial: Followed) -> Decision | None:
        deepest = self._deepest_rung(trial)
        if deepest is None or str(deepest[0]) in trial.judged:
            return None
        rung, held_out = deepest
        measured = [r for r in range(rung + 1) if self._held_out(trial, r) is not None]
        best = min(self._losses(trial, measured))
        averages = [
            sum(losses) / len(losses)
            for other in self._in_order()
            if other is not trial and len(losses := self._losses(other, measured)) == len(measured)
        ]
        middle = median(averages) if averages else math.inf
        enough = len(averages) >= LEAST_PEERS
        stops = enough and best > middle
        if not enough:
            place = f"has {len(averages)} of the {LEAST_PEERS} others here that are needed to judge"
        else:
            side = "worse" if stops else "not worse"
            place = f"is {side} than {_figure(middle)}, the median of {len(averages)} others' means"
        return self._decision(
            trial,
            Action.STOP if stops else Action.CONTINUE,
            "median",
            f"best held-out loss {_figure(best)} up to {held_out.samples:,} samples {place}",
            point=str(rung),
            rung=rung,
            rung_samples=self._points(trial.info.total_samples)[rung],
            held_out_loss=held_out.loss,
            best_so_far=_finite(best),
            median_of_averages=_finite(middle),
            peers=len(averages),
            peers_needed=LEAST_PEERS,
        )

    def _losses(self, trial: Followed, rungs: Sequence[int]) -> list[float]:
        """Its held-out losses at these rungs, up to the first one where it has none."""
        losses: list[float] = []
        for rung in rungs:
            if (held_out := self._held_out(trial, rung)) is None:
                break
            losses.append(held_out.rank_key)
        return losses


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
