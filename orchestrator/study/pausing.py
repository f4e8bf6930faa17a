"""What a pause costs: writing and reading a checkpoint, or training the same steps again. Pure.

Training is deterministic, so a trial that was set aside without a checkpoint comes back by being
trained again from its last one. That is cheaper where a checkpoint is large and little was trained
since the last one, as at the first rung of a large model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BYTES_PER_WEIGHT = 12
"""fp32 weights and two moments; of the trained weights only."""
BYTES_PER_SECOND = 200e6
"""How fast one is written until it has been seen: a network disk's pace."""
READ_SHARE = 0.5
"""Reading one back, as a share of the time to write it: nothing has to reach the disk."""


@dataclass(slots=True)
class Prices:
    """What checkpoints of this sweep cost, as far as is known."""

    bytes: float | None = None
    seconds: float | None = None

    @classmethod
    def expected(cls, trained_weights: int | None) -> Prices:
        """Before the first was written; nothing is known of a model of unknown size."""
        if not trained_weights:
            return cls()
        size = float(trained_weights) * BYTES_PER_WEIGHT
        return cls(bytes=size, seconds=size / BYTES_PER_SECOND)

    def learn(self, written: Iterable[tuple[int, float]]) -> None:
        """The newest one written tells best: (bytes, seconds) each."""
        for size, seconds in written:
            self.bytes, self.seconds = float(size), seconds

    def of_keeping(self) -> float:
        """Seconds to write one and to read it back; 0 if nothing is known."""
        return (self.seconds or 0.0) * (1 + READ_SHARE)

    def reason_to_drop(self, unsaved: float) -> str | None:
        """Why a pause should write no checkpoint, given the seconds of training since the last one;
        None if it should."""
        if self.of_keeping() <= unsaved:
            return None
        return (
            f"no checkpoint was written: training {unsaved:.1f} s again is cheaper than "
            f"{self.of_keeping():.1f} s for {(self.bytes or 0.0) / 1e9:.2g} GB"
        )
