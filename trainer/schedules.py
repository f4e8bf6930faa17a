"""Learning rate as a function of the optimizer step. Pure.

Steps count from 1. With W warmup steps of T in all, step k ≤ W has rate · k / W, so the first step
already moves the weights. After the warmup the rate starts at its peak; `linear` and `cosine`
would reach 0 one step after the last, so no step is wasted on a rate of 0.
"""

from __future__ import annotations

import math

from trainer.config import Schedule, TrainConfig


def warmup_steps(config: TrainConfig, total_steps: int) -> int:
    """Number of warmup steps; a ratio is rounded up."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    if config.warmup_ratio is not None:
        return math.ceil(round(config.warmup_ratio * total_steps, 9))
    return 0


def learning_rate(
    step: int, *, peak: float, schedule: Schedule, total_steps: int, warmup: int
) -> float:
    """Rate of optimizer step `step`, in 1 … `total_steps`.

    Raises:
        ValueError: `step` is out of range.
    """
    if not 1 <= step <= total_steps:
        raise ValueError(f"step {step} is not in 1 … {total_steps}")
    if step <= warmup:
        return peak * step / warmup
    if schedule == "constant":
        return peak
    progress = (step - warmup - 1) / (total_steps - warmup)
    if schedule == "linear":
        return peak * (1.0 - progress)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
