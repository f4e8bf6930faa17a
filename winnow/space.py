"""The search space of a sweep: which parameters vary, and over what."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from winnow.expression import parse

Scalar = bool | int | float | str | None


class Strict(BaseModel):
    """Frozen, with unknown keys, NaN and infinities refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _readable(text: str) -> str:
    parse(text)
    return text


Condition = Annotated[str, AfterValidator(_readable)]
"""An expression over parameters that is true or false; see `winnow.expression`."""


class Conditional(Strict):
    """A parameter. Where `when` doesn't hold it isn't set: `training` or the recipe decides."""

    when: Condition | None = None

    @model_serializer(mode="wrap")
    def _without_an_empty_condition(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        when = written.pop("when", None)
        return written if when is None else {**written, "when": when}


Number = Annotated[int | float, Field(strict=True)]


def _check_bounds(kind: str, low: float, high: float, step: float | None) -> None:
    if not low < high:
        raise ValueError(
            f"{kind}: [{low:g}, {high:g}] is empty; write the smaller number first, "
            "or give a single value to fix the parameter"
        )
    if step is not None and (low + step == low or high - step == high):
        raise ValueError(f"{kind}: step {step:g} is too small to tell values apart; leave it out")
    if step is not None and step > high - low:
        raise ValueError(f"{kind}: step {step:g} is larger than the range {high - low:g}")


class Uniform(Conditional):
    """Real numbers, evenly spread over [low, high]; with `step`, on the lattice low, low+step, …"""

    uniform: tuple[float, float]
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _bounds(self) -> Uniform:
        _check_bounds("uniform", *self.uniform, self.step)
        return self


class LogUniform(Conditional):
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


class IntUniform(Conditional):
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


class Choice(Conditional):
    """One of the listed values."""

    choice: tuple[Scalar, ...] = Field(min_length=1, max_length=10_000)

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        seen = {(type(v).__name__, v) for v in self.choice}
        if len(seen) != len(self.choice):
            raise ValueError(f"choice: values repeat in {list(self.choice)}")
        return self


class Fixed(Conditional):
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
    """The parameters that a sweep may vary; absent ones keep their value from `training`, `data` or
    the recipe.

    `strategy` and `replay` are those of `data`; `adam_beta2` is the second of `adam_betas`; the
    others are fields of `training`. Whether all weights or adapters are trained can't be varied:
    gradient norms of the two don't compare.
    """

    learning_rate: Parameter | None = None
    effective_batch_size: Parameter | None = None
    schedule: Parameter | None = None
    warmup_steps: Parameter | None = None
    warmup_ratio: Parameter | None = None
    epochs: Parameter | None = None
    weight_decay: Parameter | None = None
    max_grad_norm: Parameter | None = None
    seed: Parameter | None = None
    optimizer: Parameter | None = None
    adam_beta2: Parameter | None = None
    batching: Parameter | None = None
    lora_rank: Parameter | None = None
    lora_alpha: Parameter | None = None
    lora_dropout: Parameter | None = None
    strategy: Parameter | None = None
    replay: Parameter | None = None

    def parameters(self) -> dict[str, Uniform | LogUniform | IntUniform | Choice | Fixed]:
        """The parameters that were given, in a fixed order."""
        return {
            name: value
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None
        }

    @model_validator(mode="after")
    def _one_kind_of_warmup(self) -> Space:
        steps, ratio = self.warmup_steps, self.warmup_ratio
        if steps is not None and ratio is not None and None in (steps.when, ratio.when):
            raise ValueError(
                "vary warmup_steps or warmup_ratio, not both, or give each a `when` under which "
                "the other isn't set"
            )
        return self


def grid_size(space: Space) -> int | None:
    """Number of distinct configurations under the parameters' own conditions; None if a parameter
    is continuous, or if there are too many to count.

    `winnow.spec.planned_trials` counts with the sweep's constraints and other values too.
    """
    from winnow.conditions import Rules

    return Rules(space).size
