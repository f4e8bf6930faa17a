"""The sweep file: everything a user writes to describe a sweep.

`SweepSpec.model_validate(...)` checks all that can be checked without opening a file or a model;
the server checks the rest before anything runs. Nothing here needs torch, Ray or a server.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

MAX_GRID = 10_000
"""Largest grid that is run in full. A larger one is counted, never expanded, and refused."""

Scalar = bool | int | float | str | None


class Strict(BaseModel):
    """Frozen, with unknown keys, NaN and infinities refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- the search space -------------------------------------------------------------------------

Number = Annotated[int | float, Field(strict=True)]


def _check_bounds(kind: str, low: float, high: float, step: float | None) -> None:
    if not low < high:
        raise ValueError(
            f"{kind}: [{low:g}, {high:g}] is empty; write the smaller number first, "
            "or give a single value to fix the parameter"
        )
    if step is not None and step > high - low:
        raise ValueError(f"{kind}: step {step:g} is larger than the range {high - low:g}")


class Uniform(Strict):
    """Real numbers, evenly spread over [low, high]; with `step`, on the lattice low, low+step, …"""

    uniform: tuple[float, float]
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _bounds(self) -> Uniform:
        _check_bounds("uniform", *self.uniform, self.step)
        return self


class LogUniform(Strict):
    """Positive real numbers, evenly spread over log [low, high]."""

    log_uniform: tuple[float, float]

    @model_validator(mode="after")
    def _bounds(self) -> LogUniform:
        low, high = self.log_uniform
        if low <= 0:
            raise ValueError(
                f"log_uniform: a logarithmic range starts above 0, got {low:g}; "
                f"start at e.g. {max(high, 1e-6) / 1e4:.0e}, or use uniform"
            )
        _check_bounds("log_uniform", low, high, None)
        return self


class IntUniform(Strict):
    """Whole numbers in [low, high]; `log` spreads them over the logarithm (then `step` is 1)."""

    int_uniform: tuple[int, int]
    step: int = Field(default=1, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _bounds(self) -> IntUniform:
        low, high = self.int_uniform
        _check_bounds("int_uniform", low, high, self.step)
        if self.log and low < 1:
            raise ValueError(f"int_uniform: with log the range starts at 1 or above, got {low}")
        if self.log and self.step != 1:
            raise ValueError("int_uniform: log and step exclude each other")
        return self


class Choice(Strict):
    """One of the listed values."""

    choice: tuple[Scalar, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        seen = {(type(v).__name__, v) for v in self.choice}
        if len(seen) != len(self.choice):
            raise ValueError(f"choice: values repeat in {list(self.choice)}")
        return self


class Fixed(Strict):
    """The same value in every trial. `learning_rate: 2.0e-5` is short for `{fixed: 2.0e-5}`."""

    fixed: Scalar


KINDS = ("uniform", "log_uniform", "int_uniform", "choice", "fixed")


def _kind_of(value: Any) -> str | None:
    if isinstance(value, dict):
        found = [k for k in KINDS if k in value]
        if len(found) == 1:
            return found[0]
        return None
    if isinstance(value, BaseModel):
        return next((k for k in KINDS if hasattr(value, k)), None)
    return None


def _scalar_is_fixed(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str)) or value is None:
        return {"fixed": value}
    return value


Parameter = Annotated[
    Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("log_uniform")]
    | Annotated[IntUniform, Tag("int_uniform")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Fixed, Tag("fixed")],
    Discriminator(
        _kind_of,
        custom_error_type="parameter_kind",
        custom_error_message="give exactly one of uniform: [low, high], log_uniform: [low, high], "
        "int_uniform: [low, high], choice: [a, b, …], or a plain value",
    ),
    BeforeValidator(_scalar_is_fixed),
]


class Space(Strict):
    """The training parameters that a sweep may vary; absent ones keep the recipe's value."""

    learning_rate: Parameter | None = None
    effective_batch_size: Parameter | None = None
    schedule: Parameter | None = None
    warmup_steps: Parameter | None = None
    warmup_ratio: Parameter | None = None
    epochs: Parameter | None = None
    weight_decay: Parameter | None = None
    max_grad_norm: Parameter | None = None
    seed: Parameter | None = None

    def parameters(self) -> dict[str, Uniform | LogUniform | IntUniform | Choice | Fixed]:
        """The parameters that were given, in a fixed order."""
        return {
            name: value
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None
        }

    @model_validator(mode="after")
    def _one_kind_of_warmup(self) -> Space:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("vary warmup_steps or warmup_ratio, not both")
        return self


def grid_size(space: Space) -> int | None:
    """Number of distinct configurations, by multiplication; None if a parameter is continuous."""
    total = 1
    for parameter in space.parameters().values():
        match parameter:
            case Choice():
                total *= len(parameter.choice)
            case IntUniform():
                low, high = parameter.int_uniform
                total *= (high - low) // parameter.step + 1
            case Uniform(step=step) if step is not None:
                low, high = parameter.uniform
                total *= math.floor((high - low) / step + 1e-9) + 1
            case Fixed():
                pass
            case _:
                return None
    return total


# --- the rest of the file ---------------------------------------------------------------------


class TrainFile(Strict):
    """A messages JSONL file to train on, and its phase."""

    path: str = Field(min_length=1)
    phase: int = 0


class EvalFile(Strict):
    """A messages JSONL file to judge on. `name` defaults to the file's stem."""

    path: str = Field(min_length=1)
    name: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _default_name(self) -> EvalFile:
        if not self.name:
            stem = self.path.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
            object.__setattr__(self, "name", stem or "eval")
        return self


class Data(Strict):
    """Training, eval (to choose the winner on) and test (to report the winner on) files."""

    train: tuple[TrainFile, ...] = Field(min_length=1)
    eval: tuple[EvalFile, ...] = Field(min_length=1)
    test: tuple[EvalFile, ...] = ()
    strategy: Literal["stacked"] = "stacked"
    max_length: int = Field(default=2048, gt=0)
    chat_template: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Data:
        for field, files in (("eval", self.eval), ("test", self.test)):
            names = [f.name for f in files]
            if len(set(names)) != len(names):
                raise ValueError(f"{field}: two files are both named {names!r}; give each a `name`")
        return self


class Training(Strict):
    """Settings that every trial shares, over the recipe's. See `trainer.config.TrainConfig`."""

    learning_rate: float | None = Field(default=None, gt=0)
    effective_batch_size: int | None = Field(default=None, gt=0)
    schedule: Literal["constant", "linear", "cosine"] | None = None
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_ratio: float | None = Field(default=None, ge=0, le=1)
    epochs: float | None = Field(default=None, gt=0, le=1000)
    max_samples: int | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)
    max_grad_norm: float | None = Field(default=None, gt=0)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    zero_stage: Literal[0, 1, 2] | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None
    activation_checkpointing: bool | None = None
    max_tokens_per_microbatch: int | None = Field(default=None, gt=0)
    exact_match: bool | None = None
    exact_match_samples: int | None = Field(default=None, gt=0)
    max_new_tokens: int | None = Field(default=None, gt=0)

    def overrides(self) -> dict[str, Any]:
        """The settings that were given."""
        return self.model_dump(exclude_none=True)


class Search(Strict):
    """How configurations are proposed. `grid` runs every combination and takes no `trials`."""

    sampler: Literal["random", "grid", "tpe"] = "tpe"
    trials: int | None = Field(default=None, gt=0, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**31)


class SchedulerSpec(Strict):
    """Which rule ends trials early.

    `eta`: at each rung about 1/eta of the trials go on. `rungs`: fractions of a trial's budget in
    samples at which held-out loss is measured. `first_rung` (dynamics only): an earlier point,
    judged on gradient norm and loss alone. `mode: shadow` records decisions without acting on
    them. `audit`: fraction of trials, picked at random, that the model never ends.
    """

    name: Literal["dynamics", "asha", "paper-sign", "none"] = "dynamics"
    mode: Literal["act", "shadow"] = "act"
    eta: int = Field(default=2, ge=2, le=10)
    rungs: tuple[float, ...] = (0.125, 0.25, 0.5)
    first_rung: float = Field(default=0.05, gt=0, lt=1)
    keep: float = Field(default=0.5, gt=0, lt=1)
    """`paper-sign` only: the fraction of trials it keeps at its rung."""
    audit: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _rungs_rise(self) -> SchedulerSpec:
        if any(not 0 < r < 1 for r in self.rungs) or list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(
                f"rungs: give rising fractions between 0 and 1, got {list(self.rungs)}"
            )
        return self


class Objective(Strict):
    """What the winner is chosen by, on the eval sets: mean held-out token loss, or exact match."""

    metric: Literal["eval/loss", "eval/exact_match"] = "eval/loss"
    mode: Literal["min", "max"] | None = None

    @model_validator(mode="after")
    def _mode_fits(self) -> Objective:
        natural = "min" if self.metric == "eval/loss" else "max"
        if self.mode is not None and self.mode != natural:
            raise ValueError(f"mode: {self.metric} goes with {natural}; leave mode out")
        object.__setattr__(self, "mode", natural)
        return self


class Resources(Strict):
    """What one trial gets, and how many run at once.

    With `gpus_per_trial: 0` a trial trains on CPU with `workers_per_trial` ranks of
    `cpus_per_worker` threads; otherwise it has one rank a GPU. `max_concurrent` null means as many
    as fit.
    """

    gpus_per_trial: int = Field(default=0, ge=0, le=4096)
    workers_per_trial: int = Field(default=1, ge=1, le=4096)
    cpus_per_worker: int = Field(default=1, ge=1, le=1024)
    max_concurrent: int | None = Field(default=None, ge=1, le=4096)

    @property
    def ranks(self) -> int:
        return self.gpus_per_trial or self.workers_per_trial


class SweepSpec(Strict):
    """A sweep, as the user wrote it."""

    name: str = Field(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f]*$")
    model: str = Field(min_length=1)
    recipe: Literal["tulu", "tulu++", "lab"] | None = None
    data: Data
    space: Space = Space()
    training: Training = Training()
    search: Search = Search()
    scheduler: SchedulerSpec = SchedulerSpec()
    objective: Objective = Objective()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _space_fits_search(self) -> SweepSpec:
        size = grid_size(self.space)
        if self.search.sampler == "grid":
            if size is None:
                raise ValueError(
                    "space: a grid needs parameters with countable values; give log_uniform and "
                    "uniform parameters as choice: [...], or use sampler: tpe"
                )
            if size > MAX_GRID:
                raise ValueError(
                    f"space: the grid has {size:,} configurations, more than {MAX_GRID:,}; "
                    "list fewer values, or use sampler: tpe with trials"
                )
            if self.search.trials is not None:
                raise ValueError(
                    f"search.trials: a grid runs all of its {size:,} configurations; leave trials "
                    "out, or use sampler: random"
                )
        elif self.search.trials is None:
            raise ValueError(f"search.trials: say how many trials {self.search.sampler} may run")
        for name in ("learning_rate", "effective_batch_size"):
            given = (getattr(self.space, name), getattr(self.training, name), self.recipe)
            if all(value is None for value in given):
                raise ValueError(
                    f"{name}: set it in space or training, or name a recipe (tulu, tulu++, lab)"
                )
        return self
