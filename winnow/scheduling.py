"""The part of a sweep file that names the rule which ends trials early."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from winnow.space import Strict

SchedulerName = Literal[
    "dynamics",
    "asha",
    "hyperband",
    "median",
    "wilcoxon",
    "pareto",
    "one-epoch",
    "rate-batch-curve",
    "paper-sign",
    "random",
    "none",
]

SCHEDULER_FIELDS: dict[SchedulerName, tuple[str, ...]] = {
    "dynamics": ("eta", "rungs", "first_rung", "risk", "audit", "transfer"),
    "asha": ("eta", "rungs", "audit"),
    "hyperband": ("eta", "rungs", "audit"),
    "median": ("rungs", "audit"),
    "wilcoxon": ("rungs", "p_value", "audit"),
    "pareto": ("eta", "rungs", "audit"),
    "one-epoch": ("first_rung", "keep", "rungs", "audit"),
    "rate-batch-curve": ("eta", "rungs", "audit"),
    "paper-sign": ("first_rung", "keep", "rungs", "audit"),
    "random": ("eta", "rungs", "audit"),
    "none": ("rungs",),
}
"""What each scheduler reads, besides `name` and `mode`."""

DYNAMICS_AUDIT = 0.05


class SchedulerSpec(Strict):
    """Which rule ends trials early.

    `eta`: at each rung about 1/eta of the trials go on. `rungs`: fractions of a trial's budget in
    samples at which held-out loss is measured. `first_rung`: an earlier point, judged on gradient
    norm and loss alone (`dynamics`, `paper-sign`); the only point of `one-epoch`, judged on
    held-out loss. `mode: shadow` records decisions without acting on them. A field that the
    scheduler doesn't read is refused.
    """

    name: SchedulerName = "dynamics"
    mode: Literal["act", "shadow"] = "act"
    eta: int = Field(default=2, ge=2, le=10)
    rungs: tuple[float, ...] = (0.125, 0.25, 0.5)
    first_rung: float = Field(default=0.05, gt=0, lt=1)
    risk: float = Field(default=0.05, gt=0, lt=1)
    """`dynamics`: the chance that may be taken, over the whole sweep, of losing every trial that
    is within seed noise of its best."""
    keep: float = Field(default=0.5, gt=0, lt=1)
    """`paper-sign`, `one-epoch`: the fraction of trials that goes on."""
    p_value: float = Field(default=0.1, gt=0, lt=1)
    """`wilcoxon`: a trial ends when it is worse than the best at this level."""
    audit: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of trials, picked at random, that no model ends, so that false stops can be counted.
    `dynamics` audits one in twenty unless it is told otherwise."""
    transfer: bool = True
    """`dynamics`: start from what earlier sweeps of the same model, data and method showed."""

    @model_validator(mode="after")
    def _dynamics_audits(self) -> SchedulerSpec:
        if self.name == "dynamics" and "audit" not in self.model_fields_set:
            object.__setattr__(self, "audit", DYNAMICS_AUDIT)
        return self

    @model_validator(mode="after")
    def _rungs_rise(self) -> SchedulerSpec:
        if any(not 0 < r < 1 for r in self.rungs) or list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(
                f"rungs: give rising fractions between 0 and 1, got {list(self.rungs)}"
            )
        return self

    @model_validator(mode="after")
    def _fields_are_read(self) -> SchedulerSpec:
        read = SCHEDULER_FIELDS[self.name]
        for field in sorted(self.model_fields_set - {"name", "mode"}):
            if field not in read and getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(
                    f"{field}: scheduler {self.name} doesn't read it; leave it out. "
                    f"It reads {', '.join(read)}"
                )
        return self


class ReplayRequest(Strict):
    """How to replay a finished sweep: under which scheduler.

    Rungs that are not given are the sweep's own: held-out loss was measured there. `seed` defaults
    to the sweep's, `workers` to as many as ran at once.
    """

    scheduler: SchedulerSpec
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    workers: int | None = Field(default=None, ge=1, le=4096)

    @model_validator(mode="after")
    def _acts(self) -> ReplayRequest:
        if self.scheduler.mode != "act":
            raise ValueError("scheduler.mode: a replay shows what acting would do; leave mode out")
        return self
