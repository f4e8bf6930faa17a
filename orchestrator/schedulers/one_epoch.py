"""`one-epoch`: everyone runs a first part, the best of it run to the end.

Each trial runs to the fraction `first_rung` of its budget, is measured on held-out loss there and
waits. When none is on its way any more and none is to be started, the best `keep` of them (rounded
up, so at least one) go on to the end. The rungs are measured for the record only.

A trial is there with its first evaluation at or after the point, however large its batches. One
that gets none before its end runs through, and nobody waits for it once it has ended. A trial that
fails or is cancelled no longer counts, so the next best takes its place. Should trials be added
after the others have gone on, they run to the point too, and the best `keep` are chosen of all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from orchestrator.schedulers.base import Action, Decision
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.tracking import Followed, Status, TrackingScheduler
from winnow.spec import SchedulerSpec

POINT = "first"


@dataclass(frozen=True, slots=True)
class _Place:
    trial: Followed
    held_out: HeldOut
    rank: int
    peers: int
    quota: int


class OneEpoch(TrackingScheduler):
    """A first part for all, the rest for the best of it. See the module's docstring."""

    name = "one-epoch"
    code = "one-epoch"
    reads_steps = False

    def __init__(self, spec: SchedulerSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._ranked: dict[str, _Place] | None = None

    def _forget(self) -> None:
        self._ranked = None

    def rungs(self, total_samples: int) -> tuple[int, ...]:
        points = {self._at(total_samples), *self._points(total_samples)}
        return tuple(sorted(p for p in points if p < total_samples))

    def _judge(self, trial: Followed) -> Decision | None:
        if POINT in trial.judged or self._there(trial) is None:
            return None
        place = self._places()[trial.info.id]
        reason = (
            f"{_words(place)} ranks {place.rank} of {place.peers} so far; all wait here until the "
            f"last one has come, then the best {self.spec.keep:.0%} go on"
        )
        return self._say(place, Action.PAUSE, reason)

    def _call_back(self, waiting: int) -> Decision | None:
        if waiting > 0 or any(
            t.status is Status.ACTIVE and self._there(t) is None for t in self._in_order()
        ):
            return None
        for place in self._places().values():
            if place.rank <= place.quota and place.trial.status is Status.PAUSED:
                best = "the best" if place.quota == 1 else f"one of the best {place.quota}"
                reason = (
                    f"all have come: {_words(place)} ranks {place.rank} of {place.peers}, "
                    f"{best}, and goes on to the end"
                )
                return self._say(place, Action.RESUME, reason)
        return None

    def _give_up(self, trial: Followed) -> Decision:
        place = self._places()[trial.info.id]
        best = "the best" if place.quota == 1 else f"the best {place.quota}"
        reason = f"{_words(place)} ranked {place.rank} of {place.peers}; only {best} went on"
        return self._say(place, Action.STOP, reason)

    def _spared(self, trial: Followed) -> bool:
        # Everyone is to wait at the point; whom the audit spares shows when all have come.
        if not super()._spared(trial):
            return False
        place = self._places().get(trial.info.id)
        return place is not None and place.rank > place.quota

    def _at(self, total_samples: int) -> int:
        return max(1, math.ceil(self.spec.first_rung * total_samples - 1e-9))

    def _there(self, trial: Followed) -> HeldOut | None:
        total = trial.info.total_samples
        return trial.curve.held_out(self._at(total), total)

    def _places(self) -> dict[str, _Place]:
        """Places at the point, best first; ties go to the lower trial number."""
        if self._ranked is None:
            there = [
                (held_out.rank_key, t, held_out)
                for t in self._in_order()
                if not _gone(t) and (held_out := self._there(t)) is not None
            ]
            there.sort(key=lambda entry: entry[0])  # Stable: equal losses stay by number.
            quota = math.ceil(self.spec.keep * len(there) - 1e-9)
            self._ranked = {
                t.info.id: _Place(t, held_out, rank, len(there), quota)
                for rank, (_, t, held_out) in enumerate(there, start=1)
            }
        return self._ranked

    def _say(self, place: _Place, action: Action, reason: str) -> Decision:
        evidence: dict[str, Any] = {
            "point": POINT,
            "rung_samples": self._at(place.trial.info.total_samples),
            "held_out_loss": place.held_out.loss,
            "rank": place.rank,
            "peers": place.peers,
            "quota": place.quota,
            "keep": self.spec.keep,
            "revived_if": f"all have come and it is among the best {self.spec.keep:.0%}",
        }
        return self._decision(place.trial, action, "one-epoch", reason, **evidence)


def _gone(trial: Followed) -> bool:
    """Whether it ended without completing."""
    return trial.outcome is not None and not trial.completed


def _words(place: _Place) -> str:
    held_out = place.held_out
    loss = "no finite loss" if held_out.loss is None else f"{held_out.loss:.4g}"
    return f"held-out loss {loss} at {held_out.samples:,} samples"
