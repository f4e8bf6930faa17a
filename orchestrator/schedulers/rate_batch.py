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

import numpy as np

from orchestrator.schedulers.asha import ASHA, Standing
from orchestrator.schedulers.base import Decision, Outcome
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.forecast import normal_scores
from orchestrator.schedulers.surface import TERMS, Surface, Vector, fit_surface
from orchestrator.schedulers.tracking import Followed
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec


@dataclass(frozen=True, slots=True)
class _View:
    """The surface through all that is known. Scores are normal scores, lower is better."""

    surface: Surface
    predicted: dict[str, float]
    known: int


@dataclass(frozen=True, slots=True)
class _Known:
    """A trial's place in the sweep, and what is known of its end: its losses at the rungs and its
    objective, NaN where there is none, and the weight of the deepest of them."""

    log_rate: float
    log_batch: float
    levels: tuple[float, ...]
    weight: float


class RateBatchCurve(ASHA):
    """Asynchronous successive halving by a surface in rate and batch size."""

    name = "rate-batch-curve"
    code = "rate-batch-curve"

    def __init__(self, spec: SchedulerSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._known: dict[str, _Known] = {}
        self._seen: _View | None = None

    def _forget(self) -> None:
        self._seen = None
        super()._forget()

    def completed(self, trial_id: str, outcome: Outcome) -> list[Decision]:
        self._known.pop(trial_id, None)
        return super().completed(trial_id, outcome)

    def _take_in(
        self, trial: Followed, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]
    ) -> None:
        if evaluations:
            self._known.pop(trial.info.id, None)
        super()._take_in(trial, steps, evaluations)

    # --- ranking ------------------------------------------------------------------------------

    def _scores(self, rung: int, reached: dict[str, HeldOut]) -> dict[str, float]:
        predicted = self._view().predicted
        order = {i: (math.isinf(h.rank_key), predicted[i], h.rank_key) for i, h in reached.items()}
        places = {key: place for place, key in enumerate(sorted(set(order.values())))}
        return {i: float(places[key]) for i, key in order.items()}

    def _view(self) -> _View:
        if self._seen is None:
            trials = self._in_order()
            known = [self._what_is_known(t) for t in trials]
            scores = _scores([k.levels for k in known])
            surface = fit_surface(
                [k.log_rate for k in known],
                [k.log_batch for k in known],
                scores,
                [k.weight for k in known],
                level=0.0,
            )
            # Rounded, so that the arithmetic doesn't part equals.
            values = surface.leave_one_out.round(9).tolist()
            predicted = {t.info.id: value for t, value in zip(trials, values, strict=True)}
            self._seen = _View(surface, predicted, sum(k.weight > 0 for k in known))
        return self._seen

    def _what_is_known(self, trial: Followed) -> _Known:
        if trial.info.id not in self._known:
            levels = [math.nan] * (len(self.spec.rungs) + 1)
            weight = 0.0
            outcome = trial.outcome
            if outcome is not None and outcome.reason == "diverged":
                levels[0] = math.inf  # Whatever it showed before, it is known to be the worst.
                weight = 1.0
            else:
                for rung, fraction in enumerate(self.spec.rungs):
                    if (held_out := self._held_out(trial, rung)) is not None:
                        levels[rung] = held_out.rank_key
                        weight = math.sqrt(fraction)
                if trial.completed and outcome is not None and outcome.value is not None:
                    levels[-1] = outcome.value
                    weight = 1.0
            self._known[trial.info.id] = _Known(
                _log(trial.info.params, "learning_rate"),
                _log(trial.info.params, "effective_batch_size"),
                tuple(levels),
                weight,
            )
        return self._known[trial.info.id]

    # --- reasons ------------------------------------------------------------------------------

    def _words(self, rung: int, standing: Standing) -> str:
        predicted = self._view().predicted[standing.trial.info.id]
        return (
            f"predicted score {predicted:+.2f} from rate and batch size alone (lower is better; "
            f"{standing})"
        )

    def _evidence(self, rung: int, standing: Standing) -> dict[str, Any]:
        view = self._view()
        surface = view.surface
        evidence = super()._evidence(rung, standing)
        if evidence["revived_if"]:
            evidence["revived_if"] = "new outcomes move the surface so that it ranks higher"
        return evidence | {
            "predicted": round(view.predicted[standing.trial.info.id], 6),
            "known": view.known,
            "loo_error": round(surface.error, 6),
            "penalty": surface.penalty,
            "surface": {
                n: round(float(c), 6) for n, c in zip(TERMS, surface.coefficients, strict=True)
            },
        }


def _scores(levels: Sequence[Sequence[float]]) -> Vector:
    """Normal scores (trials,) of what is known of each trial at each level, NaN where nothing is.

    Losses at different depths don't compare. So trials are put in order by the first level that
    they have, then those that have the next one are put in order there within the places that they
    hold, and so on. A trial is not taken for better because it was let go further.
    """
    losses = np.array(levels, dtype=np.float64).reshape(len(levels), -1)
    place = np.full(len(losses), np.nan)
    for level in losses.T:
        there = ~np.isnan(level)
        new = there & np.isnan(place)
        place[new] = normal_scores(level[there])[new[there]]
    order = np.argsort(place, kind="stable")[: int((~np.isnan(place)).sum())]  # NaN comes last.
    for level in losses.T:
        (held,) = np.nonzero(~np.isnan(level[order]))
        order[held] = order[held][np.argsort(level[order[held]], kind="stable")]
    scores = np.full(len(losses), np.nan)
    scores[order] = normal_scores(np.arange(len(order), dtype=np.float64))
    return scores


def _log(params: Mapping[str, Any], name: str) -> float:
    """Natural log of a parameter; NaN if the trial has no such positive number."""
    value = params.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return math.log(value) if value > 0 and math.isfinite(value) else math.nan
