"""What a run reports: one record an optimizer step, one an evaluation, one a checkpoint.

Plain frozen dataclasses of JSON values, so that they cross process, database and network borders
unchanged. A number that is not finite is None: JSON has no NaN, and None is what the reader must
handle anyway. This module is pure.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


def finite(value: float) -> float | None:
    """`value` as a float, or None where it is NaN or infinite."""
    value = float(value)
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step.

    `step` counts from 1. `samples` and `tokens` (unmasked target tokens) are totals since the
    start of the run. `loss` is the mean over the effective batch's target tokens in nats,
    `grad_norm` the global L2 norm before clipping; either is None if it was not finite. `seconds`
    is the wall time of this step, `memory` peak bytes on the fullest rank (GPU memory, or resident
    memory on CPU). `batch_samples` is the size of this effective batch; it is below the configured
    one only in a run's last step.

    `input_tokens` are all tokens of this step's samples, over all ranks, and `padding` the share of
    what the model was given that was padding, 0 … 1. `data_wait` is the part of `seconds` spent on
    planning and collating. `mfu` is model FLOPs utilisation, 0 … 1, None where the device's peak is
    unknown. `grad_sq` (‖G‖²) and `noise` (tr Σ, per sample) are the two parts of the expected
    squared norm ‖G‖² + tr Σ / B, estimated without bias (arXiv 1812.06162, appendix A.1); None
    where they don't come free, for a reason that the run's notes give as `noise_scale`.
    """

    step: int
    samples: int
    tokens: int
    loss: float | None
    grad_norm: float | None
    learning_rate: float
    seconds: float
    memory: int
    batch_samples: int
    input_tokens: int = 0
    padding: float = 0.0
    data_wait: float = 0.0
    mfu: float | None = None
    grad_sq: float | None = None
    noise: float | None = None

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Quality on one data set or benchmark after `step` steps (0: the model as it was given).

    `loss` is mean token loss in nats over `tokens` target tokens; `exact_match` the fraction of
    `generated` samples whose greedy answer equals the reference, or None if none was generated.

    `split` is where `dataset` was named: held-out, test and general sets of the run's data, a task
    of lm-evaluation-harness (`lm_eval`), or a judged set of questions (`judge`). The last two have
    no loss; `scores` holds their figures by metric (`acc`, `acc_norm`, …, `score`).
    """

    step: int
    samples: int
    split: Literal["eval", "test", "general", "lm_eval", "judge"]
    dataset: str
    loss: float | None
    tokens: int
    exact_match: float | None = None
    generated: int = 0
    seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict[str, float])

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A finished checkpoint: `state` is to resume from, `export` a Hugging Face folder."""

    step: int
    samples: int
    kind: Literal["state", "export"]
    path: str
    bytes: int
    seconds: float

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


FailureCode = Literal["diverged", "oom", "data", "config", "checkpoint", "disk", "error"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run ended before its budget. `message` is for the user, `detail` a traceback or ''."""

    code: FailureCode
    message: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What happened since the last report. `status` says whether and how the run has ended.

    `yielded` means it stopped because it was asked to; with `pause` a `state` checkpoint was
    written first.
    """

    status: Literal["running", "yielded", "completed", "failed"]
    steps: tuple[StepRecord, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    checkpoints: tuple[CheckpointRecord, ...] = ()
    failure: Failure | None = None
    total_steps: int = 0
    total_samples: int = 0
    notes: dict[str, Any] = field(default_factory=dict[str, Any])
    """Facts about the run worth keeping: samples left out as too long, device, precision, …"""
