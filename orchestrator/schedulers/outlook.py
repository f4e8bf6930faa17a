"""Successive halving that also knows where its trials may end, and what that means for the sweep.

`Outlook` keeps the books of `dynamics`: divergence gates, early features, the scores of the rungs,
the forecast, the risk and the guard. All are functions of the records, kept until one of these
changes. What is decided from them is in `dynamics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.schedulers import guard as guards
from orchestrator.schedulers.asha import ASHA
from orchestrator.schedulers.base import Action, Decision
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.early import LEAST_EARNERS, Early, Seen, earned_weight, look
from orchestrator.schedulers.forecast import (
    DRAWS,
    Array,
    Forecast,
    Mask,
    correlation,
    forecast,
    normal_scores,
)
from orchestrator.schedulers.gates import DivergenceGate
from orchestrator.schedulers.outcome_model import Features, early_features, loss_noise
from orchestrator.schedulers.places import known_places
from orchestrator.schedulers.risk import Risk, measure, measure_front
from orchestrator.schedulers.tracking import Followed, Status
from orchestrator.schedulers.transfer import Prior, default_prior
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec

LEAST_COMPLETED = 2
"""Of the `LEAST_EARNERS` outcomes before a sweep's own norms and losses may pause anyone."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """Where the trials may end, and what that means for the sweep. Columns in trial order."""

    forecast: Forecast
    risk: Risk
    column: dict[str, int]
    guard: guards.Guard


class Outlook(ASHA):
    """See the module's docstring."""

    reads_steps = True

    def __init__(self, spec: SchedulerSpec, seed: int, prior: Prior | None = None) -> None:
        super().__init__(spec, seed)
        self.prior = prior or default_prior()
        self._gates: dict[str, DivergenceGate] = {}
        self._diverged: set[str] = set()
        self._early: dict[tuple[str, int], tuple[Features | None, float]] = {}
        self._views: dict[int, Early] = {}
        self._weights: dict[int, float] = {}
        self._forecast: tuple[Forecast, dict[str, int]] | None = None
        self._prospect: Prospect | None = None
        self._completed: int | None = None

    # --- books --------------------------------------------------------------------------------

    def _take_in(
        self, trial: Followed, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]
    ) -> None:
        seen, before = trial.curve.samples, len(trial.curve.steps)
        kept = trial.curve.extend(steps, evaluations)
        gate = self._gates.get(trial.info.id)
        healthy = gate is None or gate.divergence is None
        if gate is None or kept < before:
            unread = trial.curve.steps  # Steps done again after a crash: read the curve afresh.
            if unread:
                gate = DivergenceGate.of(trial.info.total_samples, unread[0].batch_samples)
                self._gates[trial.info.id] = gate
        else:
            unread = trial.curve.steps[kept:]
        for record in unread:
            if gate is not None:
                gate.read(record)
        if kept < before:
            for rung in range(-1, len(self.spec.rungs)):
                self._early.pop((trial.info.id, rung), None)
        points = (self._first(trial), *self._points(trial.info.total_samples))
        diverged = gate is not None and gate.divergence is not None
        (self._diverged.add if diverged else self._diverged.discard)(trial.info.id)
        if (
            kept < before
            or diverged == healthy
            or any(seen < p <= trial.curve.samples for p in points)
        ):
            self._forget()

    def _forget(self) -> None:
        """Views are functions of the records at the rungs: kept until one of these changes."""
        super()._forget()
        self._views.clear()
        self._weights.clear()
        self._forecast = self._prospect = self._completed = None

    def _completions(self) -> int:
        """How many trials have completed."""
        if self._completed is None:
            self._completed = sum(t.completed for t in self._in_order())
        return self._completed

    def _apply(self, decision: Decision) -> None:
        super()._apply(decision)
        self._prospect = None  # Who runs has changed.

    # --- scores -------------------------------------------------------------------------------

    def _scores(self, rung: int, reached: dict[str, HeldOut]) -> dict[str, float]:
        weight = self._weight(rung)
        if weight == 0.0 or not reached:
            return super()._scores(rung, reached)
        ids = list(reached)
        level = normal_scores(np.array([reached[i].rank_key for i in ids]))
        view = self._view(rung)
        return {
            i: float((z + weight * view.mean.get(i, 0.0)) / (1 + weight))
            if math.isfinite(reached[i].rank_key)
            else math.inf
            for i, z in zip(ids, level, strict=True)
        }

    def _weight(self, rung: int) -> float:
        """What norm and loss weigh beside the held-out loss (1) at a rung.

        Earlier sweeps say so to begin with; this one may earn them more, where their prediction
        brings the ranks at the rung closer to those of the trials that have ended. Later held-out
        losses don't count for that: they are what the ranks at the rung foretell by themselves.
        """
        if rung not in self._weights:
            if self._completions() < LEAST_EARNERS:
                return self.prior.dynamics.weight
            ended = {t.info.id for t in self._in_order() if t.completed}
            outcomes = {i: o for i, o in self._outcomes(rung).items() if i in ended}
            view = self._view(rung)
            level = {i: h.rank_key for i, h in self._at_rung[rung].items()}
            ids = [i for i in outcomes if i in level and view.features.get(i) is not None]
            earned = earned_weight(
                np.array([outcomes[i][0] for i in ids]),
                np.array([level[i] for i in ids]),
                np.array([view.mean[i] for i in ids]),
            )
            self._weights[rung] = max(self.prior.dynamics.weight, earned)
        return self._weights[rung]

    def _quality(self) -> float:
        """How well norm and loss alone foretell the outcome at the first rung, as a correlation:
        what earlier sweeps say, or what this one has shown by leave-one-out."""
        if self._completions() < LEAST_COMPLETED or self._view(-1).fit.outcomes < LEAST_EARNERS:
            return self.prior.dynamics.quality
        return max(self.prior.dynamics.quality, self._view(-1).fit.quality)

    # --- looking ahead ------------------------------------------------------------------------

    def _look_ahead(self) -> Prospect:
        if self._prospect is None:
            found, column = self._foresee()
            risk = self._measure(found, self._kept())
            self._prospect = Prospect(found, risk, column, self._watch(found))
        return self._prospect

    def _foresee(self) -> tuple[Forecast, dict[str, int]]:
        """The forecast; a trial's column is its place in the order of numbers."""
        if self._forecast is None:
            trials = self._in_order()
            column = {t.info.id: n for n, t in enumerate(trials)}
            points = (self.spec.first_rung, *self.spec.rungs, 1.0)
            scores = np.full((len(trials), len(points)), np.nan)
            first = self._quality()
            if first > 0.0:
                view = self._view(-1)
                for i, mean in view.mean.items():
                    if view.features[i] is not None:
                        scores[column[i], 0] = mean
            for rung in range(len(self.spec.rungs)):
                for i, score in self._scores(rung, self._at_rung[rung]).items():
                    scores[column[i], rung + 1] = score
            for t in trials:
                if t.completed and t.outcome is not None:
                    value = t.outcome.value
                    scores[column[t.info.id], -1] = math.inf if value is None else value
            out = np.array([t.outcome is not None and not t.completed for t in trials], dtype=bool)
            quality = (first, *[1.0] * (len(points) - 1))
            worlds = self.prior.worlds(same=self._is_held_out_loss())
            found = forecast(scores, points, worlds, out=out, quality=quality)
            self._forecast = found, column
        return self._forecast

    def _is_held_out_loss(self) -> bool:
        """Whether each outcome so far is the trial's own last held-out loss: what rungs measure."""
        known = [t for t in self._in_order() if t.completed and t.outcome and t.outcome.value]
        return bool(known) and all(
            t.outcome is not None
            and (last := t.curve.last_held_out()) is not None
            and math.isclose(last, t.outcome.value or 0.0, rel_tol=1e-6)
            for t in known
        )

    def _measure(self, found: Forecast, kept: Mask) -> Risk:
        also = max((len(t.outcome.also) for t in self._in_order() if t.outcome), default=0)
        if not also:
            return measure(found.draws, kept, found.tie)
        return measure_front(
            [found.draws, *(self._further(n, found.draws) for n in range(also))], kept
        )

    def _further(self, objective: int, draws: Array) -> Array:
        """Draws of a further objective: (DRAWS, n), from norm, loss, rate and batch size alone."""
        trials = self._in_order()
        known = {
            t.info.id: value
            for t in trials
            if t.completed and t.outcome and len(t.outcome.also) > objective
            if (value := t.outcome.also[objective]) is not None
        }
        places = dict(zip(known, normal_scores(np.array(list(known.values()))), strict=True))
        outcomes = {i: (float(z), 1.0) for i, z in places.items()}
        view = look(self._seen(-1, everyone=True), outcomes, {})
        # Its own noise: the columns of the first objective's draws in another order.
        rng = np.random.default_rng(objective)
        noise = rng.standard_normal((DRAWS, len(trials)))
        mean = np.array([view.mean.get(t.info.id, 0.0) for t in trials])
        out = mean + view.fit.deviation * noise
        for n, t in enumerate(trials):
            if t.info.id in places:
                out[:, n] = places[t.info.id]
        return np.where(np.isfinite(draws), out, np.inf)

    def _kept(self, without: Followed | None = None) -> Mask:
        """(n,) who has completed or runs. In shadow mode: who would, had it acted."""

        def kept(trial: Followed) -> bool:
            if self.shadow and trial.judged:
                last = list(trial.judged.values())[-1]
                if last.action in (Action.PAUSE, Action.STOP):
                    return False
            return trial.completed or trial.status is Status.ACTIVE

        return np.array([t is not without and kept(t) for t in self._in_order()], dtype=bool)

    def _risk_without(self, trial: Followed) -> float:
        """The chance of losing the best if the trial is not run on."""
        return self._measure(self._look_ahead().forecast, self._kept(without=trial)).taken

    def _watch(self, found: Forecast) -> guards.Guard:
        at_first = self._at_rung[0] if self._at_rung else {}
        ended = [
            (at_first[t.info.id].rank_key, t.outcome.value)
            for t in self._in_order()
            if t.completed and t.outcome and t.info.id in at_first
            if t.outcome.value is not None
        ]
        first, last = (np.array([pair[n] for pair in ended], dtype=float) for n in range(2))
        persistence = correlation(np.array([self._first_fraction()]), 1.0)[:, 0]
        audit = self.audit()
        false = (audit.get("false_stops", 0), audit["audited_stops"])
        if "false_stops" not in audit:
            false = (0, 0)  # not enough audits to say anything
        return guards.watch(first, last, found.worlds, persistence, false, self.spec.risk)

    def _first_fraction(self) -> float:
        return self.spec.rungs[0] if self.spec.rungs else self.spec.first_rung

    # --- norm and loss ------------------------------------------------------------------------

    def _view(self, rung: int) -> Early:
        """What norm and loss say from steps up to a rung; -1 is the first rung."""
        if rung not in self._views:
            coefficients = self.prior.dynamics.coefficients
            self._views[rung] = look(self._seen(rung), self._outcomes(rung), coefficients)
        return self._views[rung]

    def _outcomes(self, deeper_than: int) -> dict[str, tuple[float, float]]:
        """Place and weight of each trial whose end, or a point deeper than a rung, is known."""
        healthy = {t.info.id for t in self._in_order() if self._healthy(t)}
        levels = [
            {i: h.rank_key for i, h in reached.items() if i in healthy} for reached in self._at_rung
        ]
        final = {
            t.info.id: t.outcome.value
            for t in self._in_order()
            if t.completed and t.outcome is not None and t.outcome.value is not None
        }
        return known_places(levels, final, self.spec.rungs, deeper_than)

    def _seen(self, rung: int, *, everyone: bool = False) -> list[Seen]:
        seen: list[Seen] = []
        for t in self._in_order():
            found = self._early.get((t.info.id, rung)) or self._early_look(t, rung)
            if found is not None and self._healthy(t):
                seen.append(Seen(t.info.id, t.info.params, *found))
            elif everyone:
                seen.append(Seen(t.info.id, t.info.params, None, math.inf))
        return seen

    def _early_look(self, trial: Followed, rung: int) -> tuple[Features | None, float] | None:
        """Features and noise of a trial's steps up to a rung; None if it hasn't got there."""
        at = self._first(trial) if rung < 0 else self._points(trial.info.total_samples)[rung]
        if not trial.curve.steps or trial.curve.steps[-1].samples < at:
            return None
        steps = trial.curve.until(at)
        found = early_features(steps), loss_noise(steps)
        self._early[trial.info.id, rung] = found
        return found

    def _healthy(self, trial: Followed) -> bool:
        """A diverged trial says nothing about the others' curves."""
        return trial.info.id not in self._diverged

    def _first(self, trial: Followed) -> int:
        return max(1, math.ceil(self.spec.first_rung * trial.info.total_samples - 1e-9))
