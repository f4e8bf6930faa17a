"""`rate-batch-curve`: successive halving by what rate and batch size alone would predict.

The rival that any model of training dynamics has to beat. A smooth surface over log rate × log
batch size (`surface`) is fitted to what is known of every trial's end: the objective of completed
trials, the deepest held-out loss of the others. At a rung a trial ranks by the surface at its
place, fitted without its own result; equals rank by held-out loss. So a sweep that varies neither
rate nor batch size is halved as by `asha`. Rungs, quotas, pausing and calling back are `asha`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.schedulers.asha import ASHA, Standing
from orchestrator.schedulers.base import Decision, Outcome, TrialInfo
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.outcome_model import normal_scores
from orchestrator.schedulers.surface import TERMS, Surface, fit_surface
from orchestrator.schedulers.tracking import Followed
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec


@dataclass(frozen=True, slots=True)
class _View:
    """The surface through all that is known. Scores are normal scores, lower is better."""

    surface: Surface
    predicted: dict[str, float]
    known: int


class RateBatchCurve(ASHA):
    """Asynchronous successive halving by a surface in rate and batch size."""

    name = "rate-batch-curve"
    code = "rate-batch-curve"

    def __init__(self, spec: SchedulerSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._seen: _View | None = None

    # The view is a function of trials, evaluations and outcomes: kept until one of them changes.

    def add(self, trial: TrialInfo) -> None:
        self._seen = None
        super().add(trial)

    def completed(self, trial_id: str, outcome: Outcome) -> list[Decision]:
        self._seen = None
        return super().completed(trial_id, outcome)

    def _take_in(
        self, trial: Followed, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]
    ) -> None:
        if evaluations:
            self._seen = None
        super()._take_in(trial, steps, evaluations)

    # --- ranking ------------------------------------------------------------------------------

    def _scores(self, rung: int, reached: dict[str, HeldOut]) -> dict[str, float]:
        predicted = self._view().predicted
        order = {
            i: (math.isinf(held_out.rank_key), round(predicted[i], 9), held_out.rank_key)
            for i, held_out in reached.items()
        }
        places = {key: place for place, key in enumerate(sorted(set(order.values())))}
        return {i: float(places[key]) for i, key in order.items()}

    def _view(self) -> _View:
        if self._seen is None:
            trials = self._in_order()
            scores = self._known_scores()
            surface = fit_surface(
                [_log(t.info.params, "learning_rate") for t in trials],
                [_log(t.info.params, "effective_batch_size") for t in trials],
                [scores.get(t.info.id, (0.0, 0.0))[0] for t in trials],
                [scores.get(t.info.id, (0.0, 0.0))[1] for t in trials],
                level=0.0,
            )
            predicted = {
                t.info.id: float(value)
                for t, value in zip(trials, surface.leave_one_out, strict=True)
            }
            self._seen = _View(surface, predicted, len(scores))
        return self._seen

    def _known_scores(self) -> dict[str, tuple[float, float]]:
        """Normal score and weight of what is known of each trial's end.

        Levels are the rungs and the end. A trial's weight is √(fraction of the budget) at its
        deepest level, 1 at the end. One that diverged is known to be the worst.
        """
        levels: list[dict[str, float]] = [{} for _ in self.spec.rungs]
        weights: dict[str, float] = {}
        final: dict[str, float] = {}
        for trial in self._in_order():
            i, outcome = trial.info.id, trial.outcome
            if outcome is not None and outcome.reason == "diverged":
                (levels or [final])[0][i] = math.inf
                weights[i] = 1.0
                continue
            for rung, fraction in enumerate(self.spec.rungs):
                if (held_out := self._held_out(trial, rung)) is not None:
                    levels[rung][i] = held_out.rank_key
                    weights[i] = math.sqrt(fraction)
            if trial.completed and outcome is not None and outcome.value is not None:
                final[i] = outcome.value
                weights[i] = 1.0
        order = _one_order([*levels, final])
        scores = normal_scores(range(len(order)))
        return {i: (score, weights[i]) for i, score in zip(order, scores, strict=True)}

    # --- reasons ------------------------------------------------------------------------------

    def _words(self, rung: int, standing: Standing) -> str:
        view = self._view()
        return (
            f"{standing}; by the other trials its rate and batch size promise a score of "
            f"{view.predicted[standing.trial.info.id]:+.2f} (0 is the middle, lower is better), "
            "which"
        )

    def _evidence(self, rung: int, standing: Standing) -> dict[str, Any]:
        view = self._view()
        surface = view.surface
        return super()._evidence(rung, standing) | {
            "predicted": round(view.predicted[standing.trial.info.id], 6),
            "known": view.known,
            "loo_error": round(surface.error, 6),
            "penalty": surface.penalty,
            "surface": {
                n: round(float(c), 6) for n, c in zip(TERMS, surface.coefficients, strict=True)
            },
        }


def _one_order(levels: Sequence[Mapping[str, float]]) -> list[str]:
    """All trials of all levels in one order, best first.

    Losses at different depths don't compare. So trials are put in order by the first level that
    they have, then those that have the next one are put in order there within the places that they
    hold, and so on. A trial is not taken for better because it was let go further.
    """
    first: dict[str, float] = {}
    for level in levels:
        for i, score in zip(level, normal_scores(list(level.values())), strict=True):
            first.setdefault(i, score)
    order = sorted(first, key=lambda i: first[i])
    for level in levels:
        places = [n for n, i in enumerate(order) if i in level]
        ranked = sorted((order[n] for n in places), key=lambda i: level[i])
        for n, i in zip(places, ranked, strict=True):
            order[n] = i
    return order


def _log(params: Mapping[str, Any], name: str) -> float:
    """Natural log of a parameter; NaN if the trial has no such positive number."""
    value = params.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return math.log(value) if value > 0 and math.isfinite(value) else math.nan
