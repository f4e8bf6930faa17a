"""`dynamics`, the default: halving sets the order, the risk sets the end.

1. The gate (`gates`) ends a diverging trial at once. What escapes it is ended at the first rung at
   which its held-out loss is far above where training began.
2. The first rung, before any evaluation, looks at norm and loss: it marks trials that don't learn,
   and gives each trial a chance by what norm and loss were worth in earlier sweeps. Where this
   sweep has confirmed that, it pauses a trial that has hardly a chance to be the best.
3. From then on asynchronous successive halving (`asha`) sets the order. A rung ranks by the
   posterior mean of a trial's outcome: the held-out loss, and norm and loss with the weight that
   they have earned on earlier sweeps and in this one. With weight zero the order is ASHA's.
4. How long it goes on is set by the `risk`. A forecast (`forecast`) says where each trial may end,
   with doubts that are learned from this sweep and from earlier ones, and so how likely it is that
   the best is among those that are left. Once nothing new is to be started, the paused trial that
   lowers that chance most is called back, until it is within the risk; only then is what is still
   paused ended. A trial that the order would let go on is left where the best is nearly sure
   without it (a fifth of the risk).
5. The best of each decade of rate and of each batch size goes on with the better fraction until
   its group has hardly a chance.
6. The guard (`guard`) stops all killing, and calls everybody back, where early evidence doesn't
   predict. Audited trials are ended by the gate alone.

With several objectives the best are the trials that may be on the Pareto front.
"""

from __future__ import annotations

import math
from typing import Any

from orchestrator.schedulers.asha import Standing
from orchestrator.schedulers.base import Action, Decision
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.early import LEAST_PEERS, paper_sign, rounded, with_percentiles
from orchestrator.schedulers.gates import CERTAIN_RISE
from orchestrator.schedulers.outcome_model import LEAST_POINTS
from orchestrator.schedulers.outlook import LEAST_COMPLETED, Outlook
from orchestrator.schedulers.tracking import Followed, Status

FIRST = "first"
SURE = 0.2
"""Of the risk: so little of it lets a trial be left that the order would let go on. The rest of the
risk is for those that the order leaves."""
COHORT = 32
"""Trials that get to the first evaluation before any goes on. In larger sweeps the later ones join
those that are ahead."""


class Dynamics(Outlook):
    """The default rule. See the module's docstring."""

    name = "dynamics"
    code = "asha"  # Of a stop at a rung where norm and loss weigh nothing; others name theirs.

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
            return self._judge_blowup(trial, *deepest) or self._judge_rung(trial, deepest[0])
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

    def _judge_rung(self, trial: Followed, rung: int) -> Decision | None:
        if str(rung) in trial.judged:
            return None
        standing = self._standings(rung)[trial.info.id]
        prospect = self._look_ahead()
        without = self._risk_without(trial)
        place = self._place(standing)
        gathering = self._to_gather(trial) if rung == 0 else 0
        if prospect.guard.fired:
            action, rule, why = Action.CONTINUE, "guard", f"goes on, because {prospect.guard.text}"
        elif gathering:
            action, rule = Action.PAUSE, "gather"
            why = f"it waits for the {gathering} trials that are still to get there"
        elif without <= SURE * self.spec.risk and not self._alone(trial):
            action, rule = Action.PAUSE, "risk"
            why = f"the chance of losing the best without it is {without:.1%}"
        elif standing.passes:
            action, rule, why = Action.CONTINUE, "rung", ""
        else:
            action, rule, why = Action.PAUSE, "rung", ""
        reason = f"{standing} {place}" + (f"; {why}" if why else "")
        return self._decision(trial, action, rule, reason, **self._evidence(rung, standing))

    def _judge_first(self, trial: Followed) -> Decision | None:
        evidence = self._first_evidence(trial)
        chance, threshold = evidence["probability"], evidence["threshold"]
        where = f"at {self._first(trial):,} samples"
        if evidence["features"] is None:
            why = f"{where} it has fewer than {LEAST_POINTS} usable steps, too few to judge"
        elif evidence["peers"] < LEAST_PEERS:
            why = f"{where} it has {evidence['peers'] - 1} peers; {LEAST_PEERS - 1} are needed"
        elif not evidence["may_pause"]:
            why = f"{where} norm and loss are noted; {evidence['may_not']}"
        else:
            side = "below" if chance < threshold else "not below"
            why = (
                f"{where} norm and loss give it a chance of {chance:.1%} to be the best, "
                f"{side} {threshold:.1%}"
            )
        if evidence["underfit"]:
            why += "; it hardly learns so far"
        pause = evidence["may_pause"] and chance < threshold
        action = Action.PAUSE if pause else Action.CONTINUE
        return self._decision(trial, action, "first-rung", why, **evidence)

    def _to_gather(self, trial: Followed) -> int:
        """How many trials are still to come to the first evaluation before it is decided who goes
        on from there. Going wide first, the order rests on all, and not on who came early."""
        arrived = len(self._at_rung[0])
        lost = sum(
            t.outcome is not None and t.info.id not in self._at_rung[0] for t in self._in_order()
        )
        wanted = min(trial.info.planned, COHORT)
        return max(0, wanted - lost - arrived)

    def _place(self, standing: Standing) -> str:
        if standing.peers < self.spec.eta:
            return f"comes first to its rung; {self.spec.eta} have to get there to compare"
        return f"ranks {standing.rank} of {standing.peers}, of whom {standing.quota} go on"

    def _alone(self, trial: Followed) -> bool:
        """Whether nobody else has completed or is running: someone has to."""
        return not any(
            t.completed or t.status is Status.ACTIVE for t in self._in_order() if t is not trial
        )

    def _survivor(self, paused: list[Followed]) -> tuple[Followed, str] | None:
        """The most hopeful paused trial of a group (decade of rate, batch size) none of which has
        gone on, unless the group has hardly a chance."""
        prospect = self._look_ahead()
        probability, waiting = prospect.risk.probability, {t.info.id for t in paused}
        for name, key in (("learning rates", _decade), ("batch size", _batch)):
            groups: dict[int, list[Followed]] = {}
            for t in self._in_order():
                if (own := key(t)) is not None:
                    groups.setdefault(own, []).append(t)
            for own, members in groups.items():
                chance = {t.info.id: probability[prospect.column[t.info.id]] for t in members}
                there = [t for t in members if t.info.id in waiting]
                if any(t.completed or t.status is Status.ACTIVE for t in members) or not there:
                    continue
                if sum(chance.values()) > self.spec.risk / len(groups):
                    said = f"1e{own:+d} …" if key is _decade else f"{own}"
                    best = max(there, key=lambda t: chance[t.info.id])
                    return best, f"it is the most hopeful of its {name}, {said}, and none went on"
        return None

    # --- calling back -------------------------------------------------------------------------

    def _call_back(self, waiting: int) -> Decision | None:
        paused = [t for t in self._in_order() if t.status is Status.PAUSED]
        if not paused:
            return None
        prospect = self._look_ahead()
        if prospect.guard.fired:
            why = f"it is called back, because {prospect.guard.text}"
            return self._resume(paused[0], "guard", why)
        if waiting and self.spec.rungs and self._to_gather(paused[0]):
            return None
        if waiting:
            return self._promotion()
        if self._nothing_left(waiting):
            return self._last_standing() or self._resume(
                paused[0], "last-standing", "nothing else is left to run"
            )
        taken = prospect.risk.taken
        if taken > SURE * self.spec.risk and (promotion := self._promotion()) is not None:
            return promotion
        if taken <= self.spec.risk:
            return None
        if (survivor := self._survivor(paused)) is not None:
            return self._resume(survivor[0], "survivor", survivor[1])
        gain = prospect.risk.gain()
        best = max(paused, key=lambda t: gain[prospect.column[t.info.id]])
        if gain[prospect.column[best.info.id]] <= 0.0:
            return None
        why = (
            f"the chance of losing the best is {taken:.1%}, above the risk of "
            f"{self.spec.risk:.1%}, and this trial would lower it most"
        )
        return self._resume(best, "risk", why)

    def _resume(self, trial: Followed, rule: str, why: str) -> Decision:
        if self._is_early(trial):
            evidence = self._first_evidence(trial)
        else:
            rung = self._paused_rung(trial)
            evidence = self._evidence(rung, self._standings(rung)[trial.info.id])
        return self._decision(trial, Action.RESUME, rule, why, **evidence)

    def _give_up(self, trial: Followed) -> Decision:
        taken = self._look_ahead().risk.taken
        end = f"the chance that the best is among those let go is {taken:.1%}"
        if self._is_early(trial):
            evidence = self._first_evidence(trial)
            reason = (
                f"at {self._first(trial):,} samples norm and loss gave it a chance of "
                f"{evidence['probability']:.1%} to be the best; {end}"
            )
            return self._decision(trial, Action.STOP, "first-rung", reason, **evidence)
        rung = self._paused_rung(trial)
        standing = self._standings(rung)[trial.info.id]
        reason = f"{standing} ranked {standing.rank} of {standing.peers}; {end}"
        evidence = self._evidence(rung, standing)
        return self._decision(trial, Action.STOP, "rung", reason, **evidence)

    def _paused_rung(self, trial: Followed) -> int:
        return next(r for r in range(len(self.spec.rungs)) if self._paused_at(trial, r))

    def _is_early(self, trial: Followed) -> bool:
        """Whether it is paused at the first rung."""
        paused_by = trial.paused_by
        return (
            trial.status is Status.PAUSED
            and paused_by is not None
            and paused_by.evidence.get("point") == FIRST
        )

    # --- evidence -----------------------------------------------------------------------------

    def _evidence(self, rung: int, standing: Standing) -> dict[str, Any]:
        trial = standing.trial
        weight = self._weight(rung)
        view = self._view(rung)
        return (
            super()._evidence(rung, standing)
            | {
                "dynamics_weight": weight,
                "dynamics_score": rounded(view.mean.get(trial.info.id)),
                "features": with_percentiles(trial.info.id, view),
                "loo_errors": view.fit.errors,
                "outcomes": view.fit.outcomes,
                "underfit": trial.info.id in view.underfit,
                "code": "asha" if weight == 0.0 else "dynamics",
            }
            | self._own_evidence(trial)
        )

    def _first_evidence(self, trial: Followed) -> dict[str, Any]:
        view, i = self._view(-1), trial.info.id
        peers = sum(f is not None for f in view.features.values())
        if self._completions() < LEAST_COMPLETED or not view.fit.earned:
            may_not = "in this sweep they have not foretold outcomes yet, so they pause nobody"
        elif self._look_ahead().guard.fired:
            may_not = self._look_ahead().guard.text
        elif peers < LEAST_PEERS or view.features.get(i) is None:
            may_not = "it can't be compared with enough peers"
        else:
            may_not = ""
        return {
            "point": FIRST,
            "code": "dynamics",
            "rung_samples": self._first(trial),
            "features": with_percentiles(i, view),
            "queue_score": rounded(view.share.get(i)),
            "predicted": rounded(view.mean.get(i)),
            "threshold": self.spec.risk / max(1, len(self._in_order())),
            "weights": view.fit.coefficients,
            "loo_errors": view.fit.errors,
            "outcomes": view.fit.outcomes,
            "peers": peers,
            "may_pause": not may_not,
            "may_not": may_not,
            "underfit": i in view.underfit,
        } | self._own_evidence(trial)

    def _own_evidence(self, trial: Followed) -> dict[str, Any]:
        """What every decision rests on: the trial's prospect, the sweep's risk, gates and audit."""
        prospect = self._look_ahead()
        column = prospect.column[trial.info.id]
        gate = self._gates.get(trial.info.id)
        left = max(0, trial.info.total_samples - trial.curve.samples)
        return {
            "probability": rounded(float(prospect.risk.probability[column])),
            "expected_place": rounded(float(prospect.forecast.mean[column])),
            "deviation": rounded(float(prospect.forecast.deviation[column])),
            "risk": self.spec.risk,
            "risk_taken": rounded(prospect.risk.taken),
            "guard": prospect.guard.as_json()["state"],
            "gates": gate.evidence() if gate is not None else {},
            "coin": rounded(trial.coin),
            "audit": self.audit(),
            "seconds_saved": rounded(left * self._pace(trial)),
        }

    def _pace(self, trial: Followed) -> float:
        """Seconds a sample, of the steps made so far."""
        steps = trial.curve.steps
        return sum(steps.seconds) / max(1, steps.samples[-1]) if steps else 0.0

    def summary(self) -> dict[str, Any]:
        prospect, dynamics = self._look_ahead(), self.prior.dynamics
        mean, low, high = prospect.forecast.persistence(self._first_fraction())
        return super().summary() | {
            "weights": {
                "held_out": 1.0,
                "norm_and_loss": max(map(self._weight, range(len(self.spec.rungs))), default=0.0),
                "interval": list(dynamics.interval),
                "first_rung_quality": rounded(self._quality()),
            },
            "announced_risk": self.spec.risk,
            "risk_taken": rounded(prospect.risk.taken),
            "persistence": {"mean": rounded(mean), "interval": [rounded(low), rounded(high)]},
            "guard": prospect.guard.as_json(),
            "paper_sign": self._paper_sign(),
            "transfer": {"sweeps": self.prior.sweeps, "weight": self.prior.share},
            "saved": self._saved(),
        }

    def _saved(self) -> dict[str, Any]:
        """What ended and paused trials have not trained so far."""
        idle = [
            t
            for t in self._in_order()
            if t.status is not Status.ACTIVE and not t.completed and t.curve.steps
        ]
        left = {t.info.id: max(0, t.info.total_samples - t.curve.samples) for t in idle}
        total = sum(t.info.total_samples for t in self._in_order())
        return {
            "samples": sum(left.values()),
            "share": rounded(sum(left.values()) / total) if total else 0.0,
            "seconds": rounded(sum(left[t.info.id] * self._pace(t) for t in idle)),
        }

    def _paper_sign(self) -> dict[str, Any]:
        """Whether low norm and high loss go with a good end here, beyond rate and batch size."""
        params = {t.info.id: t.info.params for t in self._in_order()}
        return paper_sign(self._view(-1), self._outcomes(-1), params)


def _decade(trial: Followed) -> int | None:
    rate = trial.info.params.get("learning_rate")
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        return None
    return math.floor(math.log10(rate))


def _batch(trial: Followed) -> int | None:
    batch = trial.info.params.get("effective_batch_size")
    return batch if isinstance(batch, int) else None
