"""What a user may ask of a sweep that runs, waits or has ended: the bodies of those requests."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from winnow.space import Scalar, Space, Strict
from winnow.types import Quota

__all__ = [
    "PROJECT_NAME",
    "Add",
    "BudgetChange",
    "Clone",
    "Configuration",
    "Extend",
    "Limits",
    "Narrow",
    "NewProject",
    "ProjectChange",
    "Set",
]

PROJECT_NAME = r"^[a-z0-9][a-z0-9._-]{0,31}$"
MAX_ADDED = 1000
"""Configurations in one request."""

Configuration = dict[str, Scalar]
"""A value for each parameter, by name."""


class Clone(Strict):
    """A new trial like another one, but for the values in `params`."""

    params: Configuration = Field(default_factory=dict)


def _as_list(value: Any) -> Any:
    """One configuration may be written without its list."""
    return (value,) if isinstance(value, dict) else value


class Add(Strict):
    """Configurations to run beside those that the sampler proposes: one, or a list of them."""

    params: Annotated[tuple[Configuration, ...], BeforeValidator(_as_list)] = Field(
        min_length=1, max_length=MAX_ADDED
    )


class Extend(Strict):
    """This many trials more, proposed by the sweep's sampler."""

    trials: int = Field(gt=0, le=100_000)


class Narrow(Strict):
    """From now on the sampler proposes from this. Parameters that are left out stay as they are."""

    space: Space

    @model_validator(mode="after")
    def _says_something(self) -> Narrow:
        if not self.space.parameters():
            raise ValueError("space: name at least one parameter, and what is left of it")
        return self


class BudgetChange(Strict):
    """Limits of a budget that change (see `winnow.spec.Budget`); null lifts one."""

    trials: int | None = Field(default=None, gt=0)
    hours: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)
    cost: float | None = Field(default=None, gt=0)
    cost_per_gpu_hour: float | None = Field(default=None, gt=0)


class Set(Strict):
    """A sweep's claim on the cluster and its budget. What is left out stays as it is.

    `max_concurrent` null: as many trials at once as it gets.
    """

    max_concurrent: int | None = Field(default=None, ge=1, le=4096)
    priority: int = Field(default=0, ge=-100, le=100)
    weight: float = Field(default=1.0, gt=0, le=1000)
    budget: BudgetChange = BudgetChange()

    @model_validator(mode="after")
    def _says_something(self) -> Set:
        if not self.model_fields_set:
            raise ValueError("give at least one of max_concurrent, priority, weight and budget")
        return self


class Limits(Strict):
    """A project's quota. Null, or left out: no limit."""

    gpus: int | None = Field(default=None, ge=0, le=1_000_000)
    trials: int | None = Field(default=None, ge=0, le=1_000_000)
    gpu_hours: float | None = Field(default=None, ge=0)

    def quota(self) -> Quota:
        return Quota(gpus=self.gpus, trials=self.trials, gpu_hours=self.gpu_hours)


class ProjectChange(Strict):
    """All that can be said of a project. Projects share the cluster by `weight`."""

    quota: Limits = Limits()
    weight: float = Field(default=1.0, gt=0, le=1000)


class NewProject(ProjectChange):
    id: str = Field(pattern=PROJECT_NAME)
