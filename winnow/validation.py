"""What a check of a sweep tells before it is started: its size, its needs, and what looks odd."""

from __future__ import annotations

from typing import Any, Literal

from winnow.types import Model


class SweepWarning(Model):
    """Something that can run but may not be meant. `pointer` is a JSON pointer into the sweep."""

    pointer: str
    message: str
    code: str
    """Stable, for programs: learning-rate, batch-size, warmup, steps, rungs, budget, trials,
    small-eval, left-out, max-samples, overlap, memory."""


class Range(Model):
    low: float
    high: float


class SampledConfiguration(Model):
    """A configuration that the sweep's own sampler proposes, and how long it trains."""

    params: dict[str, Any]
    steps: int
    samples: int


class MemoryNeed(Model):
    """Bytes on one GPU (`device` gpu), or of one process, at the largest micro-batch of the trial
    that needs most; and bytes on disk."""

    device: Literal["gpu", "cpu"]
    total: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    framework: int
    host: int
    """Offloaded to the host, a rank."""
    available: int | None = None
    """Of the smallest GPU, or of the host; null if trials run on machines that aren't known."""


class DiskNeed(Model):
    """Bytes. `at_most`: all that the sweep can hold at once, with every stopped trial revivable."""

    checkpoint: int
    export: int
    at_most: int
    free: int | None = None


class MeasuredSweep(Model):
    id: str
    name: str


class Throughput(Model):
    """Tokens a second of one trial, as measured in earlier sweeps: the middle 80 % of their trials
    (all of them if they are fewer than ten). Evaluations, starts and checkpoints are included."""

    tokens_per_second: Range
    trials: int
    sweeps: list[MeasuredSweep]
    basis: str
    """What the earlier sweeps have in common with this one."""


class Estimate(Model):
    """What a sweep would take if every trial ran to its end. Early stopping makes it less.

    Times, GPU-hours and cost are null where no earlier sweep has measured the speed.
    """

    space: int | Literal["continuous"]
    """Distinct configurations. `continuous`: more than can be counted."""
    sampled: list[SampledConfiguration]
    """The first proposals of the sweep's sampler and seed."""
    trials: int
    """Search trials that are planned."""
    at_once: int | None
    """Trials that run at once, on the cluster as it is; null if it isn't known."""
    steps: Range
    """Optimizer steps of a trial."""
    samples: Range
    tokens: float
    """Of all trials together, as expected."""
    parameters: int
    memory: MemoryNeed | None
    """Null if the model's files don't tell its sizes."""
    disk: DiskNeed | None
    throughput: Throughput | None
    trial_seconds: Range | None
    wall_seconds: Range | None
    gpu_hours: Range | None
    cost: Range | None
    notes: list[str]
    """What has to be known to read this right."""


class Validation(Model):
    """The sweep can run as written. One that can't is answered with 422, as when it is created."""

    valid: Literal[True] = True
    estimate: Estimate
    warnings: list[SweepWarning]
