"""`random`: successive halving that ranks by a coin, the yardstick for every rule with an opinion.

It is `asha` in all but one point: at a rung the order is a hash of seed, trial number and rung.
Rungs, quotas, pausing and calling back are the same, so it spends what `asha` spends, and what
another rule keeps more often than this one is what its signal is worth.
"""

from __future__ import annotations

import hashlib
from typing import Any

from orchestrator.schedulers.asha import ASHA, Standing
from orchestrator.schedulers.curves import HeldOut


class RandomHalving(ASHA):
    """Asynchronous successive halving at random."""

    name = "random"
    code = "random"

    def _scores(self, rung: int, reached: dict[str, HeldOut]) -> dict[str, float]:
        return {i: self._draw(rung, self._trials[i].info.number) for i in reached}

    def _words(self, rung: int, standing: Standing) -> str:
        draw = self._draw(rung, standing.trial.info.number)
        return f"random draw {draw:.3f} at {standing.held_out.samples:,} samples"

    def _evidence(self, rung: int, standing: Standing) -> dict[str, Any]:
        missing = standing.missing(self.spec.eta)
        return super()._evidence(rung, standing) | {
            "draw": self._draw(rung, standing.trial.info.number),
            "revived_if": f"{missing} more trials reach this rung and draw worse"
            if missing
            else "",
        }

    def _draw(self, rung: int, number: int) -> float:
        """A number in [0, 1), lower goes first."""
        text = f"random/{self._seed}/{rung}/{number}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64
