"""The divergence gate: no model, one trial's own loss and gradient norm, robust statistics.

Three rules, each ending a trial at once as `diverged`:

- `non-finite`: the loss or the norm is not a finite number.
- `loss-blowup`: the loss has stayed far above its start for several windows running. Level and
  scatter are medians (of losses, and of second differences), so that the noise of
  small batches widens the threshold and single bad batches don't count.
- `norm-spikes`: the norm has jumped again and again far above its running median, and the loss has
  risen above its best level meanwhile.

What it finds depends on the trial's steps alone, not on how they were cut into reports.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from trainer.metrics import StepRecord

WINDOWS = 3
"""Windows in a row that must lie above the threshold."""
DEVIATIONS = 1.5
"""Robust standard deviations of a single step's loss above the start. A median of 8 steps scatters
by less than half of one, so three windows beyond this are not noise."""
LEAST_RISE = 0.2
"""Smallest rise that counts, relative to the start: a large batch has nearly no noise, and a
healthy loss may bump by some percent after warmup."""
CERTAIN_RISE = 2.0
"""A rise in nats (or by the start again, if that is more) that is divergence whatever the scatter:
a run that blows up at its second step has a start that is all scatter."""

SPIKE_MEMORY = 32
SPIKE_FACTOR = 8.0
SPIKE_DEVIATIONS = 4.0
SPIKES = 5
"""Spikes within the last SPIKE_MEMORY steps."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Why a trial is taken for diverged. `evidence` holds JSON values."""

    rule: str
    reason: str
    evidence: dict[str, Any]


@dataclass(slots=True)
class DivergenceGate:
    """Reads one trial's steps, in order. `window` and `start_steps` count steps: 8 and 16, fewer
    in runs of fewer than 160 steps, where waiting that long would be no gate."""

    window: int
    start_steps: int
    divergence: Divergence | None = None
    _losses: list[float] = field(default_factory=list)
    _log_norms: list[float] = field(default_factory=list)
    _start: tuple[float, float, float] | None = None
    _above: int = 0
    _lowest_window: float = math.inf
    _last_window: float = math.nan
    _spikes: deque[int] = field(default_factory=deque)

    @classmethod
    def of(cls, total_samples: int, batch_samples: int) -> DivergenceGate:
        steps = max(1, total_samples // max(1, batch_samples))
        window = min(8, max(1, steps // 20))
        return cls(window, max(4, 2 * window))

    def read(self, record: StepRecord) -> Divergence | None:
        """Take in one step; the divergence found so far, None while the trial looks healthy."""
        if self.divergence is None:
            self.divergence = self._read(record)
        return self.divergence

    def evidence(self) -> dict[str, Any]:
        """Where the trial stands against each threshold."""
        norms = sorted(math.exp(n) for n in self._log_norms)
        found: dict[str, Any] = {
            "window_steps": self.window,
            "windows_needed": WINDOWS,
            "windows_above": self._above,
            "spikes": len(self._spikes),
            "spikes_allowed": SPIKES - 1,
        }
        if self._start is not None:
            start, deviation, threshold = self._start
            found |= {"start_loss": start, "deviation": deviation, "threshold": threshold}
        if math.isfinite(self._last_window):
            found["window_loss"] = self._last_window
        if norms:
            found["norm_percentiles"] = {
                str(p): norms[min(len(norms) - 1, p * len(norms) // 100)] for p in (50, 90, 99)
            }
        return found

    def _read(self, record: StepRecord) -> Divergence | None:
        for name, value in (("loss", record.loss), ("gradient norm", record.grad_norm)):
            if value is None or not math.isfinite(value):
                reason = f"its {name} was not finite at step {record.step:,}"
                return Divergence("non-finite", reason, self.evidence())
        assert record.loss is not None
        assert record.grad_norm is not None
        self._losses.append(record.loss)
        spiked = self._is_spike(math.log(max(record.grad_norm, 1e-30)))
        return self._check_loss() or (self._check_spikes() if spiked else None)

    def _check_loss(self) -> Divergence | None:
        steps = len(self._losses)
        if steps < self.start_steps:
            return None
        if self._start is None:
            self._start = self._measure_start()
            first = [
                median(self._losses[i : i + self.window])
                for i in range(0, steps - self.window + 1, self.window)
            ]
        elif steps % self.window == 0:
            first = [median(self._losses[-self.window :])]
        else:
            return None
        start, deviation, threshold = self._start
        for level in first:
            self._last_window = level
            self._lowest_window = min(self._lowest_window, level)
            self._above = self._above + 1 if level > threshold else 0
            if self._above >= WINDOWS:
                reason = (
                    f"its loss stayed above {threshold:.3g} for {WINDOWS} windows of "
                    f"{self.window} steps, at {level:.3g} in the last; it started at "
                    f"{start:.3g} ± {deviation:.2g}"
                )
                return Divergence("loss-blowup", reason, self.evidence())
        return None

    def _measure_start(self) -> tuple[float, float, float]:
        """Start level, deviation of a single step, and the threshold."""
        first = self._losses[: self.start_steps]
        # From second differences, so that a loss that already climbs doesn't pass for a noisy one.
        bends = [abs(a - 2 * b + c) for a, b, c in zip(first, first[1:], first[2:], strict=False)]
        deviation = 1.4826 * median(bends) / math.sqrt(6)
        # The first steps come before a bad rate has done its harm. A single one would be too noisy:
        # the median of three, plus its standard error (bounded: scatter may be the blow-up itself).
        early = median(first[:3])
        start = min(median(first), early + min(0.7 * deviation, max(abs(early), 1.0) / 2))
        # From few steps start and deviation are themselves uncertain.
        rise = max(DEVIATIONS * deviation, LEAST_RISE * abs(start)) * (1 + 4 / self.start_steps)
        rise = min(rise, max(CERTAIN_RISE, abs(start)))
        return start, deviation, start + rise

    def _is_spike(self, log_norm: float) -> bool:
        recent = self._log_norms[-SPIKE_MEMORY:]
        self._log_norms.append(log_norm)
        step = len(self._log_norms)
        while self._spikes and self._spikes[0] <= step - SPIKE_MEMORY:
            self._spikes.popleft()
        if len(recent) < 8:
            return False
        level = median(recent)
        deviation = 1.4826 * median(abs(x - level) for x in recent)
        if log_norm - level <= max(math.log(SPIKE_FACTOR), SPIKE_DEVIATIONS * deviation):
            return False
        self._spikes.append(step)
        return True

    def _check_spikes(self) -> Divergence | None:
        if len(self._spikes) < SPIKES or self._start is None:
            return None
        recent = median(self._losses[-max(self.window, 3) :])
        _, deviation, _ = self._start
        if recent <= min(self._lowest_window, self._start[0]) + deviation:
            return None
        reason = (
            f"its gradient norm jumped above {SPIKE_FACTOR:g} times its running median "
            f"{len(self._spikes)} times in {SPIKE_MEMORY} steps, and its loss rose to {recent:.3g}"
        )
        return Divergence("norm-spikes", reason, self.evidence())
