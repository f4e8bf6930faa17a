"""`dynamics`, the default: a divergence gate, an early look at norm and loss, then halving.

1. The gate (`gates`) ends a diverging trial at once. What escapes it is ended at the first rung at
   which its held-out loss is far above where training began.
2. The first rung, before any evaluation, looks at norm and loss. Its model learns from this sweep's
   trials which way they point. As long as too few trials have finished, or the model does no better
   than rate and batch size alone, it ends nobody: it marks trials that don't learn, and settles
   which of several trials that may go on goes first. When it has earned a say, it pauses a trial
   that it gives less than a 10 % chance of ending among the best 1/eta; the trial is called back
   as soon as the chance rises, and ended only when nothing else is left.
3. From then on asynchronous successive halving (`asha`), where a rung ranks by the posterior mean
   of a trial's outcome: the held-out loss, and the dynamics with the weight that they have earned
   at that rung. The weight is zero until they improve on the held-out loss by more than shuffled
   features do; with weight zero this is ASHA.
4. Audited trials are ended by the gate alone.

Published evidence for the signal is thin: no rule on curves, tuned on some tasks, has beaten random
stopping on others. Hence the model only ever pauses, and every decision says what it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Any

import numpy as np

from orchestrator.schedulers.asha import ASHA, Standing
from orchestrator.schedulers.base import Action, Decision, Outcome
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.gates import CERTAIN_RISE, DivergenceGate
from orchestrator.schedulers.outcome_model import (
    LEAST_POINTS,
    Example,
    Features,
    Fit,
    early_features,
    fit_outcomes,
    loss_noise,
    normal_scores,
)
from orchestrator.schedulers.tracking import Followed, Status
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec

FIRST = "first"
LEAST_PEERS = 4
LEAST_OUTCOMES = 6
LEAST_COMPLETED = 2
"""Outcomes before the model may pause anyone; so many of them of trials that ran to their end."""
HOPE = 0.10
"""Chance of ending among the best 1/eta below which the first rung pauses a trial."""
UNDERFIT_DEVIATIONS = 3.0
TOP_WEIGHT = 0.5
"""Weight of dynamics beside a held-out loss (weight 1) that they approach with many outcomes."""
PERMUTATIONS = 99


@dataclass(frozen=True, slots=True)
class Early:
    """The model's view of the trials at one point, by trial id."""

    fit: Fit
    features: dict[str, Features | None]
    mean: dict[str, float]
    share: dict[str, float]
    underfit: frozenset[str]
    completed: int


class Dynamics(ASHA):
    """The default rule. See the module's docstring."""

    name = "dynamics"
    code = "asha"  # Of a stop at a rung with zero weight; others name theirs.

    def __init__(self, spec: SchedulerSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._gates: dict[str, DivergenceGate] = {}
        self._early: dict[tuple[str, int], tuple[Features | None, float]] = {}
        self._views: dict[int, Early] = {}
        self._weights: dict[int, float] = {}

    # --- books --------------------------------------------------------------------------------

    def completed(self, trial_id: str, outcome: Outcome) -> list[Decision]:
        self._forget()
        return super().completed(trial_id, outcome)

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
        if (
            evaluations
            or kept < before
            or diverged == healthy
            or any(seen < p <= trial.curve.samples for p in points)
        ):
            self._forget()

    def _forget(self) -> None:
        """Views are functions of the records at the rungs: kept until one of these changes."""
        self._views.clear()
        self._weights.clear()

    # --- judging ------------------------------------------------------------------------------

    def _judge(self, trial: Followed) -> Decision | None:
        gate = self._gates.get(trial.info.id)
        if gate is not None and gate.divergence is not None:
            if "gate" in trial.judged:
                return None  # Only its shadow runs on; there is nothing more to say about it.
            found = gate.divergence
            evidence = {**found.evidence, "point": "gate", "code": "diverged"}
            return self._decision(trial, Action.STOP, found.rule, found.reason, **evidence)
        deepest = self._deepest_rung(trial)
        if deepest is not None:
            return self._judge_blowup(trial, *deepest) or super()._judge(trial)
        if FIRST in trial.judged or trial.curve.samples < self._first(trial):
            return None
        return self._judge_first(trial)

    def _judge_blowup(self, trial: Followed, rung: int, held_out: HeldOut) -> Decision | None:
        """The gate's last net: a held-out loss far above that of the model before training.

        A run that blows up in its first few steps leaves no start of its own to compare with. But
        all trials' first steps are of the same untouched model: their losses, weighted by batch
        size, say where every trial began.
        """
        firsts = [t.curve.steps[0] for t in self._in_order() if t.curve.steps]
        known = [(s.loss, s.batch_samples) for s in firsts if s.loss is not None]
        if not known or held_out.loss is None or str(rung) in trial.judged:
            return None
        start = sum(loss * weight for loss, weight in known) / sum(weight for _, weight in known)
        threshold = start + max(CERTAIN_RISE, abs(start))
        if held_out.loss <= threshold:
            return None
        reason = (
            f"its held-out loss is {held_out.loss:.4g} at {held_out.samples:,} samples, far above "
            f"the {start:.3g} that training began at"
        )
        evidence = {
            "point": str(rung),
            "code": "diverged",
            "held_out_loss": held_out.loss,
            "start_loss": start,
            "threshold": threshold,
            "starts": len(known),
        }
        return self._decision(trial, Action.STOP, "held-out-blowup", reason, **evidence)

    def _judge_first(self, trial: Followed) -> Decision | None:
        hope, evidence = self._hope(trial)
        where = f"at {self._first(trial):,} samples"
        if evidence["features"] is None:
            why = f"{where} it has fewer than {LEAST_POINTS} usable steps, too few to judge"
        elif evidence["peers"] < LEAST_PEERS:
            why = f"{where} it has {evidence['peers'] - 1} peers; {LEAST_PEERS - 1} are needed"
        elif not evidence["may_pause"]:
            why = f"{where} norm and loss are noted; {evidence['may_not']}"
        else:
            side = "below" if hope < HOPE else "not below"
            why = (
                f"{where} norm and loss give it a {hope:.0%} chance to end among the best "
                f"1/{self.spec.eta}, {side} {HOPE:.0%}"
            )
        if evidence["underfit"]:
            why += "; it hardly learns so far"
        pause = evidence["may_pause"] and hope < HOPE
        action = Action.PAUSE if pause else Action.CONTINUE
        return self._decision(trial, action, "first-rung", why, **evidence)

    # --- calling back -------------------------------------------------------------------------

    def _call_back(self, waiting: int) -> Decision | None:
        promotion = self._promotion()
        if promotion is not None:
            return promotion
        early = [t for t in self._in_order() if self._is_early(t)]
        revived = [(hope, t, e) for t in early for hope, e in [self._hope(t)]]
        revived.sort(key=lambda r: -r[0])
        for hope, trial, evidence in revived:
            if not evidence["may_pause"] or hope >= HOPE:
                reason = (
                    f"with what has finished since, its chance is {hope:.0%}"
                    if evidence["may_pause"]
                    else f"it is called back: {evidence['may_not']}"
                )
                return self._decision(trial, Action.RESUME, "revival", reason, **evidence)
        if not self._nothing_left(waiting):
            return None
        if (last := self._last_standing()) is not None:
            return last
        for hope, trial, evidence in revived:
            reason = (
                "nothing else is left to run and no trial has completed; "
                f"its chance, {hope:.0%}, is the best"
            )
            return self._decision(trial, Action.RESUME, "last-standing", reason, **evidence)
        return None

    def _give_up(self, trial: Followed) -> Decision:
        if not self._is_early(trial):
            return super()._give_up(trial)
        hope, evidence = self._hope(trial)
        reason = (
            f"at {self._first(trial):,} samples norm and loss gave it a {hope:.0%} chance to end "
            f"among the best 1/{self.spec.eta}"
        )
        return self._decision(trial, Action.STOP, "first-rung", reason, **evidence)

    def _is_early(self, trial: Followed) -> bool:
        """Whether it is paused at the first rung."""
        paused_by = trial.paused_by
        return (
            trial.status is Status.PAUSED
            and paused_by is not None
            and paused_by.evidence.get("point") == FIRST
        )

    # --- halving with dynamics ----------------------------------------------------------------

    def _scores(self, rung: int, reached: dict[str, HeldOut]) -> dict[str, float]:
        weight = self._weight(rung)
        if weight == 0.0 or not reached:
            return super()._scores(rung, reached)
        ids = list(reached)
        held_out = normal_scores([reached[i].rank_key for i in ids])
        view = self._view(rung)
        return {
            i: (z + weight * view.mean.get(i, 0.0)) / (1 + weight)
            if math.isfinite(reached[i].rank_key)
            else math.inf
            for i, z in zip(ids, held_out, strict=True)
        }

    def _queue_key(self, standing: Standing) -> tuple[float, ...]:
        # Who goes on is settled by rank; who of them goes first, by what norm and loss say.
        share = self._view(-1).share.get(standing.trial.info.id, 0.0)
        return (round(share, 9), standing.rank)

    def _evidence(self, rung: int, standing: Standing) -> dict[str, Any]:
        trial = standing.trial
        weight = self._weight(rung)
        view = self._view(rung)
        gate = self._gates.get(trial.info.id)
        return super()._evidence(rung, standing) | {
            "dynamics_weight": weight,
            "dynamics_score": _rounded(view.mean.get(trial.info.id)),
            "features": _with_percentiles(trial.info.id, view),
            "loo_errors": view.fit.errors,
            "outcomes": view.fit.outcomes,
            "underfit": trial.info.id in view.underfit,
            "gates": gate.evidence() if gate is not None else {},
            "coin": _rounded(trial.coin),
            "audit": self.audit(),
            "code": "asha" if weight == 0.0 else "dynamics",
        }

    def _weight(self, rung: int) -> float:
        """What dynamics weigh beside the held-out loss at a rung, earned on deeper outcomes.

        Among trials that went deeper than the rung: does adding the leave-one-out prediction bring
        the held-out loss's ranks closer to the outcome's, by more than 95 % of shuffled
        predictions do?
        """
        if rung not in self._weights:
            self._weights[rung] = self._earned_weight(rung)
        return self._weights[rung]

    def _earned_weight(self, rung: int) -> float:
        outcomes = self._outcomes(deeper_than=rung)
        if len(outcomes) < LEAST_OUTCOMES:
            return 0.0
        view = self._view(rung)
        at_rung = {t.info.id: self._held_out(t, rung) for t in self._in_order()}
        ids = [i for i in outcomes if at_rung[i] is not None and view.features.get(i) is not None]
        if len(ids) < LEAST_OUTCOMES:
            return 0.0
        y = np.array([outcomes[i][0] for i in ids])
        held_out = normal_scores([h.rank_key for i in ids if (h := at_rung[i]) is not None])
        z = np.array(held_out)
        d = np.array([view.mean[i] for i in ids])
        weight = TOP_WEIGHT * len(ids) / (len(ids) + 16)
        # The seed is fixed so that equal records give equal decisions.
        shuffled = np.random.default_rng(len(ids)).permuted(np.tile(d, (PERMUTATIONS, 1)), axis=1)
        plain, *mixed = _correlations(y, np.vstack([z, z + weight * d, z + weight * shuffled]))
        gain = mixed[0] - plain
        beaten = sum(mixed[0] > m for m in mixed[1:])
        return round(weight, 6) if gain > 0 and beaten >= 0.95 * PERMUTATIONS else 0.0

    # --- the model's view ---------------------------------------------------------------------

    def _view(self, rung: int) -> Early:
        """What the model says from steps up to a rung; -1 is the first rung."""
        if rung not in self._views:
            self._views[rung] = self._look(rung)
        return self._views[rung]

    def _look(self, rung: int) -> Early:
        trials = []
        for t in self._in_order():
            at = self._first(t) if rung < 0 else self._points(t.info.total_samples)[rung]
            if t.curve.steps and t.curve.steps[-1].samples >= at and self._gates_closed(t):
                if (t.info.id, rung) not in self._early:
                    steps = t.curve.until(at)
                    self._early[t.info.id, rung] = (early_features(steps), loss_noise(steps))
                trials.append(t)
        outcomes = self._outcomes(deeper_than=rung)
        early = {t.info.id: self._early[t.info.id, rung] for t in trials}
        features = {i: f for i, (f, _) in early.items()}
        fit = fit_outcomes(
            [
                Example(features[t.info.id], t.info.params, *outcomes.get(t.info.id, (None, 0.0)))
                for t in trials
            ]
        )
        underfit = _underfit(
            {i: noise for i, (_, noise) in early.items()},
            {i: f for i, f in features.items() if f is not None},
        )
        mean, share = {}, {}
        for t, m, s in zip(trials, fit.mean, fit.dynamics_share, strict=True):
            # A rate near zero has a low norm and a high loss: no credit for that.
            idle = t.info.id in underfit
            mean[t.info.id] = max(m, 0.0) if idle else m
            share[t.info.id] = max(s, 0.0) if idle else s
        completed = sum(t.completed and t.info.id in outcomes for t in trials)
        return Early(fit, features, mean, share, underfit, completed)

    def _gates_closed(self, trial: Followed) -> bool:
        """Whether the trial is healthy: a diverged one says nothing about the others' curves."""
        gate = self._gates.get(trial.info.id)
        return gate is None or gate.divergence is None

    def _hope(self, trial: Followed) -> tuple[float, dict[str, Any]]:
        """The chance of ending among the best 1/eta as seen at the first rung; its evidence."""
        view = self._view(-1)
        fit, i = view.fit, trial.info.id
        best = NormalDist().inv_cdf(1 / self.spec.eta)
        mean = view.mean.get(i, 0.0)
        hope = NormalDist().cdf((best - mean) / fit.deviation)
        peers = sum(f is not None for f in view.features.values())
        if fit.outcomes < LEAST_OUTCOMES or view.completed < LEAST_COMPLETED:
            may_not = (
                f"{fit.outcomes} trials have an outcome, {view.completed} of them completed; "
                f"{LEAST_OUTCOMES} and {LEAST_COMPLETED} are needed to end a trial by it"
            )
        elif not fit.earned:
            may_not = "so far they predict outcomes no better than rate and batch size do"
        elif peers < LEAST_PEERS or view.features.get(i) is None:
            may_not = "it can't be compared with enough peers"
        else:
            may_not = ""
        gate = self._gates.get(i)
        return hope, {
            "point": FIRST,
            "code": "dynamics",
            "rung_samples": self._first(trial),
            "features": _with_percentiles(i, view),
            "queue_score": _rounded(view.share.get(i)),
            "predicted": _rounded(mean),
            "deviation": _rounded(fit.deviation),
            "probability": _rounded(hope),
            "threshold": HOPE,
            "weights": fit.coefficients,
            "loo_errors": fit.errors,
            "outcomes": fit.outcomes,
            "completed": view.completed,
            "peers": peers,
            "may_pause": not may_not,
            "may_not": may_not,
            "underfit": i in view.underfit,
            "gates": gate.evidence() if gate is not None else {},
            "coin": _rounded(trial.coin),
            "audit": self.audit(),
            "revived_if": f"its chance rises to {HOPE:.0%}, or norm and loss stop predicting",
        }

    def _outcomes(self, deeper_than: int) -> dict[str, tuple[float, float]]:
        """Normal score and weight of each known outcome, lower is better.

        The outcome is the objective of a completed trial; until then the deepest held-out loss
        stands for it, at a weight of √(fraction of the budget). All are brought into one order by
        their first held-out loss; then those that have got to the next rung are put in order of
        their loss there, within the places they hold, and so on to the end. So a trial is not
        taken for better because it was let go further.
        """
        fractions = self.spec.rungs
        levels: list[dict[str, float]] = []
        weight: dict[str, float] = {}
        for rung, fraction in enumerate(fractions):
            level = {
                t.info.id: h.rank_key
                for t in self._in_order()
                if self._gates_closed(t) and (h := self._held_out(t, rung)) is not None
            }
            levels.append(level)
            if rung > deeper_than:
                weight |= dict.fromkeys(level, math.sqrt(fraction))
        final = {
            t.info.id: t.outcome.value
            for t in self._in_order()
            if t.completed and t.outcome is not None and t.outcome.value is not None
        }
        levels.append(final)
        weight |= dict.fromkeys(final, 1.0)

        place: dict[str, float] = {}
        for level in levels:
            for i, score in zip(level, normal_scores(list(level.values())), strict=True):
                place.setdefault(i, score)
        order = sorted((i for i in place if i in weight), key=lambda i: place[i])
        for level in levels:
            held = [n for n, i in enumerate(order) if i in level]
            ranked = sorted((order[n] for n in held), key=lambda i: level[i])
            for n, i in zip(held, ranked, strict=True):
                order[n] = i
        scores = normal_scores(range(len(order)))
        return {i: (score, weight[i]) for i, score in zip(order, scores, strict=True)}

    def _first(self, trial: Followed) -> int:
        return max(1, math.ceil(self.spec.first_rung * trial.info.total_samples - 1e-9))


def _underfit(noise: dict[str, float], features: dict[str, Features]) -> frozenset[str]:
    """Trials whose loss has not fallen beyond its noise and lies far above the peers' median."""
    if len(features) < LEAST_PEERS:
        return frozenset()
    last = {i: f["loss_last"] for i, f in features.items()}
    middle = median(last.values())
    scatter = max(1.4826 * median(abs(v - middle) for v in last.values()), 0.01 * abs(middle))
    return frozenset(
        i
        for i, f in features.items()
        if f["loss_gain"] < 2 * noise[i] and last[i] > middle + UNDERFIT_DEVIATIONS * scatter
    )


def _with_percentiles(trial_id: str, view: Early) -> dict[str, Any] | None:
    """Each feature's value and its percentile among peers; None if they are missing."""
    own = view.features.get(trial_id)
    if own is None:
        return None
    peers = [f for f in view.features.values() if f is not None]
    return {
        name: {
            "value": _rounded(value),
            "percentile": round(100 * sum(f[name] <= value for f in peers) / len(peers), 1),
        }
        for name, value in own.items()
    }


def _correlations(y: np.ndarray, rows: np.ndarray) -> list[float]:
    """Pearson correlation of `y` (n) with each row (rows, n); 0 where one of them is constant."""
    y = y - y.mean()
    rows = rows - rows.mean(axis=1, keepdims=True)
    scale = np.sqrt((y**2).sum() * (rows**2).sum(axis=1))
    return [float(v) for v in (rows @ y) / np.where(scale > 0, scale, np.inf)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
