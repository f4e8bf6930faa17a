"""`asha`: asynchronous successive halving on held-out loss, by pausing.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020). At each rung the
best 1/eta of the trials that have got there go on; the others are paused with a checkpoint. When a
worker is free, a paused trial that has come to be among its rung's best 1/eta goes first, at the
deepest rung that has one; only then does a new trial start. Nobody has to finish before the first
pause. What is paused when nothing is left to run is ended.

Trials are compared at equal fractions of their budgets, in samples seen. A trial that fails on its
way to a rung doesn't count there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.schedulers.base import Action, Decision, going_on
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.tracking import Followed, Status, TrackingScheduler
from winnow.spec import SchedulerSpec


@dataclass(frozen=True, slots=True)
class Standing:
    """A trial's place at a rung: `rank` from 1 among `peers`, of whom the best `quota` go on."""

    trial: Followed
    held_out: HeldOut
    rank: int
    peers: int
    quota: int

    @property
    def passes(self) -> bool:
        return self.rank <= self.quota

    def missing(self, eta: int) -> int:
        """How many more trials have to reach the rung behind this one before it goes on."""
        return max(0, self.rank * eta - self.peers)

    def __str__(self) -> str:
        loss = "no finite loss" if self.held_out.loss is None else f"{self.held_out.loss:.4g}"
        return f"held-out loss {loss} at {self.held_out.samples:,} samples"


class ASHA(TrackingScheduler):
    """Asynchronous successive halving. Subclasses may rank by more than the held-out loss."""

    name = "asha"
    code = "asha"
    reads_steps = False

    def __init__(self, spec: SchedulerSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._ranked: dict[int, dict[str, Standing]] = {}

    def _forget(self) -> None:
        self._ranked.clear()

    def _judge(self, trial: Followed) -> Decision | None:
        deepest = self._deepest_rung(trial)
        if deepest is None or str(deepest[0]) in trial.judged:
            return None
        rung = deepest[0]
        standing = self._standings(rung)[trial.info.id]
        action = Action.CONTINUE if standing.passes else Action.PAUSE
        if standing.peers < self.spec.eta:
            place = f"comes first to its rung; it waits until {self.spec.eta} trials have got there"
        else:
            place = f"ranks {standing.rank} of {standing.peers}; {going_on(standing.quota)}"
        reason = f"{self._words(rung, standing)} {place}"
        return self._decision(trial, action, "rung", reason, **self._evidence(rung, standing))

    def _call_back(self, waiting: int) -> Decision | None:
        return self._promotion() or (self._last_standing() if self._nothing_left(waiting) else None)

    def _give_up(self, trial: Followed) -> Decision:
        rung = next(r for r in range(len(self.spec.rungs)) if self._paused_at(trial, r))
        standing = self._standings(rung)[trial.info.id]
        reason = (
            f"{self._words(rung, standing)} ranked {standing.rank} of {standing.peers}; "
            f"only the best {'' if standing.quota == 1 else f'{standing.quota} '}went on"
        )
        return self._decision(trial, Action.STOP, "rung", reason, **self._evidence(rung, standing))

    def _promotion(self) -> Decision | None:
        """The paused trial that may go on, at the deepest rung that has one."""
        for rung in reversed(range(len(self.spec.rungs))):
            if not any(self._paused_at(t, rung) for t in self._trials.values()):
                continue
            may = [
                s
                for s in self._standings(rung).values()
                if s.passes and self._paused_at(s.trial, rung)
            ]
            if may:
                best = min(may, key=self._queue_key)
                words = self._words(rung, best)
                reason = f"{words} now ranks {best.rank} of {best.peers}; {going_on(best.quota)}"
                evidence = self._evidence(rung, best)
                return self._decision(best.trial, Action.RESUME, "promotion", reason, **evidence)
        return None

    def _last_standing(self) -> Decision | None:
        """The best paused trial at the deepest rung, whatever its rank."""
        for rung in reversed(range(len(self.spec.rungs))):
            for best in self._standings(rung).values():
                if self._paused_at(best.trial, rung):
                    reason = (
                        "nothing else is left to run and no trial has completed; "
                        f"{self._words(rung, best)} is the best at the deepest rung"
                    )
                    evidence = self._evidence(rung, best)
                    return self._decision(
                        best.trial, Action.RESUME, "last-standing", reason, **evidence
                    )
        return None

    def _spared(self, trial: Followed) -> bool:
        """Whether its place would have ended it. One that was to be paused only until others came
        would have been called back: that is judged by the places as they are now."""
        rungs = [
            int(point)
            for point, decision in trial.judged.items()
            if decision.evidence.get("would") is not None and point.isdigit()
        ]
        if not rungs:
            return super()._spared(trial)
        return any(not self._standings(rung)[trial.info.id].passes for rung in rungs)

    # --- for subclasses -----------------------------------------------------------------------

    def _scores(self, rung: int, reached: dict[str, HeldOut]) -> dict[str, float]:
        """What ranks the trials at a rung, lower is better. ASHA: the held-out loss."""
        return {trial_id: held_out.rank_key for trial_id, held_out in reached.items()}

    def _words(self, rung: int, standing: Standing) -> str:
        """What a trial was ranked by, as the subject of a sentence."""
        return str(standing)

    def _queue_key(self, standing: Standing) -> tuple[float, ...]:
        """Which of several trials that may go on goes first, lowest first."""
        return (standing.rank,)

    def _evidence(self, rung: int, standing: Standing) -> dict[str, Any]:
        """The numbers behind a rung decision, as JSON values."""
        missing = standing.missing(self.spec.eta)
        return {
            "point": str(rung),
            "rung": rung,
            "rung_samples": self._points(standing.trial.info.total_samples)[rung],
            "held_out_loss": standing.held_out.loss,
            "rank": standing.rank,
            "peers": standing.peers,
            "quota": standing.quota,
            "eta": self.spec.eta,
            "revived_if": f"{missing} more trials reach this rung and do worse" if missing else "",
        }

    # --- standings ----------------------------------------------------------------------------

    def _standings(self, rung: int) -> dict[str, Standing]:
        """Places at a rung, best first. Ties go to the lower trial number."""
        if rung not in self._ranked:
            self._ranked[rung] = self._standings_among(self._in_order(), rung)
        return self._ranked[rung]

    def _standings_among(self, trials: Sequence[Followed], rung: int) -> dict[str, Standing]:
        """Places at a rung where only these trials compete, given by number."""
        out: set[str] = set()
        for depth in range(rung + 1):
            at_rung = self._at_rung[depth]
            reached = {t.info.id: at_rung[t.info.id] for t in trials if t.info.id in at_rung}
            # An audited trial that lost its place at an earlier rung is no peer further on: the
            # quota there must be what it would be without the audit.
            peers = {i: h for i, h in reached.items() if i not in out}
            scores = self._scores(depth, peers)
            order = sorted(peers, key=lambda i: scores[i])  # Stable: equal scores stay by number.
            quota = len(order) // self.spec.eta
            standings = {
                i: Standing(self._trials[i], peers[i], rank, len(order), quota)
                for rank, i in enumerate(order, start=1)
            }
            if depth == rung:
                for i in reached.keys() - peers.keys():
                    standings[i] = Standing(
                        self._trials[i], reached[i], len(order) + 1, len(order) + 1, quota
                    )
                return standings
            if not self.shadow:
                out |= {i for i, s in standings.items() if s.trial.audited and not s.passes}
        raise AssertionError("unreachable")

    def _paused_at(self, trial: Followed, rung: int) -> bool:
        paused_by = trial.paused_by
        return (
            trial.status is Status.PAUSED
            and paused_by is not None
            and paused_by.evidence.get("point") == str(rung)
        )
