"""What all rules share: following the trials of a sweep, and taking up again after a restart.

Everything a rule knows is a function of four sets: the trials added, their records, the decisions
made, and how trials ended. It does not depend on how these were interleaved. So a restarted driver
rebuilds a scheduler with `add`, `completed` and `replay` for everything that is stored, and then
`observe` for each trial's stored records, in one batch or many. A point that was judged is never
judged twice; if `observe` returns a decision during this, it is one that was not stored before the
driver died, and it is carried out like any other. For the same reason every PAUSE and STOP that is
returned must take effect, on a trial that has yielded meanwhile too: the scheduler counts on it.

All evaluations at one point come in one call of `observe`: a rung is judged on what it has.

Shadow mode. The decisions are the ones the rule would make, but the caller carries none out, and
the scheduler knows it: a trial that was to pause or stop counts as running on, so it is judged at
its later points too, `next` has nobody to call back and `finish` nobody to end.

Audited trials run on in the same way: the decision comes back as CONTINUE, and its evidence says
what it would have been.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from orchestrator.schedulers.audit import AuditedStop, coin, false_stops
from orchestrator.schedulers.base import Action, Decision, Outcome, TrialInfo
from orchestrator.schedulers.curves import Curve, HeldOut
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec


class Status(StrEnum):
    ACTIVE = "active"
    """Started, or called back, and not paused since."""
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(slots=True)
class Followed:
    """A trial under observation."""

    info: TrialInfo
    audited: bool
    coin: float
    pinned: bool = False
    curve: Curve = field(default_factory=Curve)
    status: Status = Status.ACTIVE
    judged: dict[str, Decision] = field(default_factory=dict)
    """The decision at each point that was judged, by the point's name."""
    paused_by: Decision | None = None
    outcome: Outcome | None = None

    @property
    def completed(self) -> bool:
        return self.outcome is not None and self.outcome.state == "COMPLETED"


class TrackingScheduler(ABC):
    """Base of all rules: keeps the books, leaves `_judge` and `_call_back` to the rule."""

    name: str
    code: str
    reads_steps: bool = True
    """Whether the rule looks at steps before the last; if not, they take no memory."""

    def __init__(self, spec: SchedulerSpec, seed: int) -> None:
        self.spec = spec
        self.shadow = spec.mode == "shadow"
        self._seed = seed
        self._trials: dict[str, Followed] = {}
        self._ordered: list[Followed] = []
        self._rung_points: dict[int, list[int]] = {}
        self._at_rung: list[dict[str, HeldOut]] = [{} for _ in spec.rungs]
        """Who was evaluated at each rung."""

    # --- the interface ------------------------------------------------------------------------

    def rungs(self, total_samples: int) -> tuple[int, ...]:
        points = sorted({p for p in self._points(total_samples) if p < total_samples})
        return tuple(points)

    def add(self, trial: TrialInfo) -> None:
        if trial.id not in self._trials:
            value = coin(self._seed, trial.number)
            self._trials[trial.id] = Followed(
                trial, value < self.spec.audit, value, curve=Curve(self.reads_steps)
            )
            insort(self._ordered, self._trials[trial.id], key=lambda t: (t.info.number, t.info.id))
            self._forget()

    def observe(
        self, trial_id: str, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]
    ) -> Decision | None:
        trial = self._trial(trial_id)
        self._take_in(trial, steps, evaluations)
        if evaluations:
            self._note_rungs(trial)
        if trial.status is not Status.ACTIVE:
            return None  # The last records of a trial that has been told to yield.
        decision = self._judge(trial)
        if decision is None:
            return None
        decision = self._audited(trial, decision)
        self._apply(decision)
        return decision

    def completed(self, trial_id: str, outcome: Outcome) -> list[Decision]:
        trial = self._trial(trial_id)
        trial.outcome = outcome
        trial.status = Status.ENDED
        self._forget()
        return []

    def next(self, waiting: int) -> Decision | None:
        if self.shadow:
            return None
        decision = self._call_back(waiting)
        if decision is not None:
            self._apply(decision)
        return decision

    def finish(self) -> list[Decision]:
        stops = [self._give_up(t) for t in self._in_order() if t.status is Status.PAUSED]
        for stop in stops:
            self._apply(stop)
        return stops

    def pin(self, trial_id: str, pinned: bool) -> None:
        self._trial(trial_id).pinned = pinned

    def replay(self, decision: Decision) -> None:
        self._apply(decision)

    def summary(self) -> dict[str, Any]:
        """What the rule says about the whole sweep, as JSON values, for people to read."""
        return {"scheduler": self.name, "audit": self.audit()}

    def audit(self) -> dict[str, Any]:
        """What the audited trials say about false stops. See `audit.false_stops`."""
        stops: list[AuditedStop] = []
        best = math.inf
        for trial in self._in_order():
            if not trial.completed or trial.outcome is None:
                continue
            value = trial.outcome.value
            if self._spared(trial):
                stops.append(AuditedStop(trial.info.id, value))
            elif value is not None:
                best = min(best, value)
        return false_stops(stops, best if math.isfinite(best) else None)

    # --- for the rules ------------------------------------------------------------------------

    @abstractmethod
    def _judge(self, trial: Followed) -> Decision | None:
        """The decision for an active trial after new records; None if there is nothing new."""

    def _call_back(self, waiting: int) -> Decision | None:
        """A paused trial to resume."""
        return None

    def _give_up(self, trial: Followed) -> Decision:
        """The STOP for a trial that is still paused at the end."""
        raise AssertionError(f"{self.name} pauses no trials")

    def _spared(self, trial: Followed) -> bool:
        """Whether only the audit has let the trial run to its end."""
        return any(d.evidence.get("would") is not None for d in trial.judged.values())

    def _take_in(
        self, trial: Followed, steps: Sequence[StepRecord], evaluations: Sequence[Evaluation]
    ) -> None:
        trial.curve.extend(steps, evaluations)

    def _forget(self) -> None:  # noqa: B027  (most rules keep nothing)
        """Records have come that what was derived from the earlier ones may depend on."""

    def _note_rungs(self, trial: Followed) -> None:
        for rung, reached in enumerate(self._at_rung):
            if (found := self._held_out(trial, rung)) is not None:
                reached[trial.info.id] = found
        self._forget()

    def _in_order(self) -> list[Followed]:
        """All trials by number, so that nothing hangs on the order in which they came."""
        return self._ordered

    def _nothing_left(self, waiting: int) -> bool:
        """Nothing runs, nothing is to come, and no trial has completed: someone has to go on."""
        return waiting == 0 and not any(
            t.status is Status.ACTIVE or t.completed for t in self._trials.values()
        )

    def _points(self, total_samples: int) -> list[int]:
        """Samples of each rung of the specification, in its order."""
        if total_samples not in self._rung_points:
            points = [max(1, math.ceil(r * total_samples - 1e-9)) for r in self.spec.rungs]
            self._rung_points[total_samples] = points
        return self._rung_points[total_samples]

    def _deepest_rung(self, trial: Followed) -> tuple[int, HeldOut] | None:
        """Index and held-out loss of the last rung at which the trial was evaluated."""
        for rung in reversed(range(len(self.spec.rungs))):
            if (found := self._held_out(trial, rung)) is not None:
                return rung, found
        return None

    def _held_out(self, trial: Followed, rung: int) -> HeldOut | None:
        """The evaluation at a rung: the first one past it and before the next rung. A batch that
        spans two rungs counts for the later one only, where it compares with its equals."""
        points = [*self._points(trial.info.total_samples), trial.info.total_samples]
        return trial.curve.held_out(points[rung], points[rung + 1])

    def _decision(
        self, trial: Followed, action: Action, rule: str, reason: str, **evidence: Any
    ) -> Decision:
        """A decision about a trial where it stands now."""
        samples = trial.curve.samples
        left = max(0, trial.info.total_samples - samples)
        evidence.setdefault("samples_saved", left if action in (Action.PAUSE, Action.STOP) else 0)
        if self.shadow:
            evidence["mode"] = "shadow"
        code = evidence.pop("code", self.code)
        return Decision(trial.info.id, action, rule, reason, code, samples, evidence)

    def _trial(self, trial_id: str) -> Followed:
        try:
            return self._trials[trial_id]
        except KeyError:
            raise ValueError(
                f"trial {trial_id!r} is not known; add it before its records"
            ) from None

    def _audited(self, trial: Followed, decision: Decision) -> Decision:
        if not trial.audited and not trial.pinned:
            return decision
        evidence = dict(decision.evidence)
        if trial.audited:
            evidence |= {"audited": True, "coin": round(trial.coin, 6)}
        if trial.pinned:
            return self._pinned(trial, replace(decision, evidence=evidence))
        if decision.action not in (Action.PAUSE, Action.STOP) or decision.code == "diverged":
            return replace(decision, evidence=evidence)
        evidence |= {"would": str(decision.action), "samples_saved": 0}
        reason = f"{decision.reason}; it is audited, so it runs on"
        return replace(decision, action=Action.CONTINUE, reason=reason, evidence=evidence)

    def _pinned(self, trial: Followed, decision: Decision) -> Decision:
        """What is done about a pinned trial. It isn't counted with the audited ones: those were
        picked at random."""
        if decision.action not in (Action.PAUSE, Action.STOP):
            return decision
        evidence = {**decision.evidence, "pinned": True, "samples_saved": 0}
        reason = f"{decision.reason}; it is pinned, so it runs on"
        return replace(decision, action=Action.CONTINUE, reason=reason, evidence=evidence)

    def _apply(self, decision: Decision) -> None:
        trial = self._trial(decision.trial_id)
        point = decision.evidence.get("point")
        if decision.action is not Action.RESUME and point is not None:
            trial.judged.setdefault(str(point), decision)
        if decision.action is Action.RESUME and decision.rule == "user":
            # Somebody brought it back, from wherever it was.
            trial.status, trial.paused_by, trial.outcome = Status.ACTIVE, None, None
            self._forget()
            return
        if trial.outcome is not None or trial.status is Status.ENDED or self.shadow:
            return
        match decision.action:
            case Action.PAUSE:
                trial.status, trial.paused_by = Status.PAUSED, decision
            case Action.RESUME:
                trial.status, trial.paused_by = Status.ACTIVE, None
            case Action.STOP:
                trial.status = Status.ENDED
            case Action.CONTINUE:
                pass
