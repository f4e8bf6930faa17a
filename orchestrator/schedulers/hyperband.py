"""`hyperband`: several `asha` brackets that start halving at different rungs.

Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization" (JMLR 2018), in
the asynchronous form of Li et al. (MLSys 2020): a hedge against early ranks that mislead. Bracket b
takes no notice of the rungs before rung b; the last bracket halves nowhere, its trials run to their
end. Trials compete within their bracket only, and are dealt to brackets by their number, in the
proportions of Hyperband's first rungs: ⌈(s_max + 1) / (s + 1) · eta^s⌉ for a bracket with s
halvings, s_max the number of rungs.
"""

from __future__ import annotations

import math
from typing import Any

from orchestrator.schedulers.asha import ASHA, Standing
from orchestrator.schedulers.curves import HeldOut
from orchestrator.schedulers.tracking import Followed
from winnow.spec import SchedulerSpec


class Hyperband(ASHA):
    """Asynchronous Hyperband."""

    name = "hyperband"
    code = "hyperband"

    def __init__(self, spec: SchedulerSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._deal = deal(spec.eta, len(spec.rungs))

    def _bracket(self, trial: Followed) -> int:
        return self._deal[trial.info.number % len(self._deal)]

    def _held_out(self, trial: Followed, rung: int) -> HeldOut | None:
        return None if rung < self._bracket(trial) else super()._held_out(trial, rung)

    def _standings(self, rung: int) -> dict[str, Standing]:
        if rung not in self._ranked:
            self._ranked[rung] = self._in_brackets(rung)
        return self._ranked[rung]

    def _in_brackets(self, rung: int) -> dict[str, Standing]:
        brackets: dict[int, list[Followed]] = {}
        for trial in self._in_order():
            brackets.setdefault(self._bracket(trial), []).append(trial)
        merged = [
            standing
            for bracket, trials in sorted(brackets.items())
            if bracket <= rung
            for standing in self._standings_among(trials, rung).values()
        ]
        merged.sort(key=lambda s: s.held_out.rank_key)
        return {s.trial.info.id: s for s in merged}

    def _words(self, rung: int, standing: Standing) -> str:
        return f"{standing} in bracket {self._bracket(standing.trial)}"

    def _evidence(self, rung: int, standing: Standing) -> dict[str, Any]:
        missing = standing.missing(self.spec.eta)
        return super()._evidence(rung, standing) | {
            "bracket": self._bracket(standing.trial),
            "brackets": len(self.spec.rungs) + 1,
            "revived_if": f"{missing} more trials of its bracket reach this rung and do worse"
            if missing
            else "",
        }


def deal(eta: int, rungs: int) -> list[int]:
    """The brackets of trials 0, 1, 2, …, until it repeats: at each one the bracket that is furthest
    behind its share, so that a sweep of any size is near the proportions."""
    sizes = [math.ceil((rungs + 1) / (s + 1) * eta**s - 1e-9) for s in range(rungs, -1, -1)]
    total = sum(sizes)
    dealt = [0] * len(sizes)
    order: list[int] = []
    for number in range(1, total + 1):
        behind = [size * number / total - done for size, done in zip(sizes, dealt, strict=True)]
        bracket = max(range(len(sizes)), key=lambda b: (round(behind[b], 9), -b))
        dealt[bracket] += 1
        order.append(bracket)
    return order
