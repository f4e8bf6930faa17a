"""What ending trials early saved, against running every created trial to its full budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Protocol


class TrialUse(Protocol):
    """What a trial used. `winnow.types.Trial` and the store's rows both fit."""

    @property
    def samples(self) -> int: ...
    @property
    def total_samples(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Saved:
    """Training samples and worker seconds. `seconds_saved` is an estimate: what a trial left is
    taken at its own pace, or at the trials' median pace if it never trained."""

    samples_trained: int
    samples_full: int
    seconds: float
    seconds_saved: float

    @property
    def samples_saved(self) -> int:
        return self.samples_full - self.samples_trained

    @property
    def fraction(self) -> float:
        """Share of the full sweep's samples that was not trained; 0 for an empty sweep."""
        return self.samples_saved / self.samples_full if self.samples_full else 0.0


def compute_saved(trials: Iterable[TrialUse]) -> Saved:
    """Compute saved over a sweep's search trials (leave baseline and report trials out)."""
    used = list(trials)
    trained = [min(t.samples, t.total_samples) for t in used]
    paces = [t.seconds / n for t, n in zip(used, trained, strict=True) if n]
    typical = median(paces) if paces else 0.0
    left = [
        (t.total_samples - n) * (t.seconds / n if n else typical)
        for t, n in zip(used, trained, strict=True)
    ]
    return Saved(
        samples_trained=sum(trained),
        samples_full=sum(t.total_samples for t in used),
        seconds=sum(t.seconds for t in used),
        seconds_saved=sum(left),
    )
