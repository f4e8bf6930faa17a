"""The sweep file: everything a user writes to describe a sweep.

`SweepSpec.model_validate(...)` checks all that can be checked without opening a file or a model;
the server checks the rest before anything runs. Nothing here needs torch, Ray or a server.

Its parts: `winnow.training` (data, training, benchmarks), `winnow.space` with `winnow.conditions`,
`winnow.scheduling`, and the rest here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from winnow.conditions import Rules, rules
from winnow.defaults import values_in_force
from winnow.objective import Mode, parse_metric
from winnow.scheduling import (
    DYNAMICS_AUDIT,
    SCHEDULER_FIELDS,
    ReplayRequest,
    SchedulerName,
    SchedulerSpec,
)
from winnow.space import (
    KINDS,
    Choice,
    Condition,
    Fixed,
    IntUniform,
    LogUniform,
    Parameter,
    Scalar,
    Space,
    Strict,
    Uniform,
    grid_size,
)
from winnow.training import (
    Data,
    EvalFile,
    Evaluation,
    Extract,
    Judge,
    LmEval,
    TrainFile,
    Training,
)

__all__ = [
    "DYNAMICS_AUDIT",
    "KINDS",
    "MAX_GRID",
    "SCHEDULER_FIELDS",
    "Budget",
    "Checkpoints",
    "Choice",
    "Data",
    "EvalFile",
    "Evaluation",
    "Extract",
    "Fixed",
    "FurtherObjective",
    "IntUniform",
    "Judge",
    "LmEval",
    "LogUniform",
    "Objective",
    "Parameter",
    "ReplayRequest",
    "Resources",
    "Scalar",
    "SchedulerName",
    "SchedulerSpec",
    "Search",
    "Sharing",
    "Space",
    "SweepSpec",
    "TrainFile",
    "Training",
    "Uniform",
    "grid_size",
    "planned_trials",
]

MAX_GRID = 10_000
"""Largest grid that is run in full. A larger one is counted, never expanded, and refused."""

MAX_CONSTRAINTS = 50

REVISION = r"^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$"

RECIPES = ("tulu", "tulu++", "lab", "lab-7680")


class Search(Strict):
    """How configurations are proposed. `grid` runs every combination and takes no `trials`."""

    sampler: Literal["random", "grid", "tpe"] = "tpe"
    trials: int | None = Field(default=None, gt=0, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    reuse: bool = True
    """Take over the result of an identical trial that has completed before, in this project."""


class FurtherObjective(Strict):
    """One more thing that matters, beside what the winner is chosen by."""

    metric: str = Field(min_length=1, max_length=200)
    mode: Mode | None = None

    @model_validator(mode="after")
    def _mode_fits(self) -> FurtherObjective:
        object.__setattr__(self, "mode", _settled_mode(self.metric, self.mode))
        return self


MAX_FURTHER = 4
"""With many objectives nearly every trial is on the front, and nobody could be stopped."""


class Objective(Strict):
    """What the winner is chosen by; see `winnow.objective` for the names.

    `mode` is needed only where the name doesn't tell whether more is better. `also` names further
    metrics, each as text or as {metric, mode}: a trial that may be the best compromise between all
    of them isn't stopped, and the answer shows the trials that no other beats.
    """

    metric: str = Field(default="eval/loss", min_length=1, max_length=200)
    mode: Mode | None = None
    also: tuple[FurtherObjective, ...] = ()

    @field_validator("also", mode="before")
    @classmethod
    def _names_are_metrics(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        listed = cast("Sequence[Any]", value)
        return tuple({"metric": one} if isinstance(one, str) else one for one in listed)

    @model_validator(mode="after")
    def _mode_fits(self) -> Objective:
        object.__setattr__(self, "mode", _settled_mode(self.metric, self.mode))
        return self

    @model_validator(mode="after")
    def _named_once(self) -> Objective:
        if len(self.also) > MAX_FURTHER:
            raise ValueError(
                f"also: {len(self.also)} further metrics; name at most {MAX_FURTHER}: with more, "
                "nearly every trial is best in something"
            )
        seen = {self.metric}
        for further in self.also:
            if further.metric in seen:
                raise ValueError(f"also: {further.metric} is named twice; name each metric once")
            seen.add(further.metric)
        return self


def _settled_mode(metric: str, mode: Mode | None) -> Mode:
    """The mode as given, or as the name tells. Raises ValueError if they don't fit."""
    try:
        natural = parse_metric(metric).natural_mode
    except ValueError as error:
        raise ValueError(f"metric: {error}") from None
    if natural is None and mode is None:
        raise ValueError(
            f"mode: is a higher {metric} better? Write mode: max if so, else mode: min"
        )
    if natural is not None and mode not in (None, natural):
        raise ValueError(f"mode: {metric} goes with {natural}; leave mode out")
    settled = mode or natural
    assert settled is not None
    return settled


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


class Sharing(Strict):
    """A sweep's claim on the cluster, against the other sweeps.

    All that a higher `priority` can use comes first; sweeps of equal priority share by `weight`.
    """

    priority: int = Field(default=0, ge=-100, le=100)
    weight: float = Field(default=1.0, gt=0, le=1000)


class Budget(Strict):
    """The most a sweep may use. At the first limit it ends, and keeps its best.

    `trials`: search trials started. `hours`: since it was first driven, waiting and pauses
    included. `gpu_hours`: GPUs times the time they were held by its trials. `cost`: GPU-hours times
    `cost_per_gpu_hour`, in the user's currency.
    """

    trials: int | None = Field(default=None, gt=0)
    hours: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)
    cost: float | None = Field(default=None, gt=0)
    cost_per_gpu_hour: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _cost_has_a_rate(self) -> Budget:
        if self.cost is not None and self.cost_per_gpu_hour is None:
            raise ValueError("cost: say what a GPU costs in cost_per_gpu_hour")
        return self


class Checkpoints(Strict):
    """Where checkpoints are kept, and which stay.

    `store` is a folder or an fsspec address (`s3://bucket/prefix`, …); default: the server's home
    folder. The exports of the `keep_best` best trials stay, and those of pinned ones. `revivable`
    keeps the last checkpoint of trials that were stopped, so that reviving one costs nothing.
    """

    store: str | None = Field(default=None, min_length=1)
    keep_best: int = Field(default=3, ge=1, le=100_000)
    revivable: bool = True


class SweepSpec(Strict):
    """A sweep, as the user wrote it."""

    name: str = Field(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f<>]*$")
    project: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")
    model: str = Field(min_length=1, max_length=4096)
    model_revision: str | None = Field(default=None, pattern=REVISION, max_length=64)
    """Of a hub model: a commit or a tag. With `trust_remote_code`, the commit at which an admin has
    allowed the model's code, or the digest of a folder's, which is filled in if it is left out."""
    trust_remote_code: bool = False
    """Run the code that comes with the model. An admin has to have allowed it (`winnow code`)."""
    recipe: Literal["tulu", "tulu++", "lab", "lab-7680"] | None = None
    data: Data
    space: Space = Space()
    constraints: Annotated[tuple[Condition, ...], Field(max_length=MAX_CONSTRAINTS)] = ()
    """Expressions over parameters that every configuration meets; see `winnow.expression`."""
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    search: Search = Search()
    scheduler: SchedulerSpec = SchedulerSpec()
    objective: Objective = Objective()
    resources: Resources = Resources()
    sharing: Sharing = Sharing()
    budget: Budget = Budget()
    checkpoints: Checkpoints = Checkpoints()

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that trials may have."""
        parameter = self.space.strategy
        found: tuple[str, ...] = ()
        if isinstance(parameter, Choice):
            found = tuple(str(value) for value in parameter.choice)
        elif isinstance(parameter, Fixed):
            found = (str(parameter.fixed),)
        if not found or parameter is None or parameter.when is not None:
            found = tuple(dict.fromkeys((*found, self.data.strategy)))
        return found

    @property
    def in_force(self) -> dict[str, Scalar]:
        """Values of parameters that the space doesn't set, as conditions see them."""
        return values_in_force(self.recipe, self.training, self.data)

    @property
    def rules(self) -> Rules:
        """The space with its conditions and constraints."""
        return rules(self.space, self.constraints, self.in_force)

    @model_validator(mode="after")
    def _conditions_can_hold(self) -> SweepSpec:
        if self.rules.problem is not None:
            raise ValueError(": ".join(self.rules.problem))
        for name in self.rules.when:
            if name not in self.in_force:
                raise ValueError(
                    f"space.{name}: has no value where its condition doesn't hold; set "
                    f"training.{name} too"
                )
        if self.space.warmup_steps is not None and self.space.warmup_ratio is not None:
            self._check_apart("warmup_ratio", "warmup_steps")
        return self

    def _check_apart(self, one: str, other: str) -> None:
        """Raise ValueError if both parameters are active in a configuration."""
        both = [chosen for chosen in self.rules.examples() if one in chosen and other in chosen]
        if both:
            raise ValueError(
                f"space.{one}.when: {one} and {other} are both set where "
                f"{_shown(both[0])}; write conditions that exclude each other"
            )

    @model_validator(mode="after")
    def _space_fits_search(self) -> SweepSpec:
        size = self.rules.size
        if self.search.sampler == "grid":
            if not self.rules.countable:
                raise ValueError(
                    "space: a grid needs parameters with countable values; give log_uniform and "
                    "uniform parameters as choice: [...], or use sampler: tpe"
                )
            if size is None:
                raise ValueError(
                    "space: the grid has too many combinations to tell which ones the conditions "
                    "and constraints allow; list fewer values, or use sampler: tpe with trials"
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
                    f"{name}: set it in space or training, or name a recipe ({', '.join(RECIPES)})"
                )
        return self

    @model_validator(mode="after")
    def _budget_fits_resources(self) -> SweepSpec:
        if self.resources.gpus_per_trial == 0:
            for name in ("gpu_hours", "cost"):
                if getattr(self.budget, name) is not None:
                    raise ValueError(
                        f"budget.{name}: trials have no GPUs (resources.gpus_per_trial is 0); "
                        "use budget.hours or budget.trials"
                    )
        return self

    @model_validator(mode="after")
    def _strategy_fits(self) -> SweepSpec:
        phases = sorted({f.phase for f in self.data.train})
        order = self.data.phase_order
        if "phased" in self.strategies and len(phases) < 2:
            where = "space.strategy" if self.space.strategy is not None else "data.strategy"
            raise ValueError(
                f"{where}: phased needs training sets of at least two phases; give each set its "
                "`phase`, or use stacked"
            )
        if order is not None and "phased" not in self.strategies:
            raise ValueError("data.phase_order: goes with strategy: phased")
        if order is not None and sorted(order) != phases:
            raise ValueError(
                f"data.phase_order: got {list(order)}, but the training sets have the phases "
                f"{phases}; name each of them once"
            )
        if set(self.strategies) == {"stacked"}:
            for name in ("replay", "reset_optimizer"):
                if getattr(self.data, name):
                    raise ValueError(f"data.{name}: goes with strategy: phased or difficulty")
        if self.space.replay is not None and "stacked" in self.strategies:
            in_force = self.in_force
            useless = self.space.replay.when is None or any(
                "replay" in chosen and chosen.get("strategy", in_force["strategy"]) == "stacked"
                for chosen in self.rules.examples()
            )
            if useless:
                raise ValueError(
                    "space.replay: nothing is replayed with strategy: stacked; use phased or "
                    "difficulty, or give it when: \"strategy != 'stacked'\""
                )
        return self

    @model_validator(mode="after")
    def _adapters_are_asked_for(self) -> SweepSpec:
        if self.training.method in ("lora", "qlora"):
            return self
        for section in (self.space, self.training):
            for name in ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"):
                if getattr(section, name, None) is not None:
                    where = "space" if section is self.space else "training"
                    raise ValueError(
                        f"{where}.{name}: all weights are trained, so it does nothing; "
                        "set training.method: lora"
                    )
        return self

    @model_validator(mode="after")
    def _objective_is_measured(self) -> SweepSpec:
        self._check_measured(self.objective.metric, "objective.metric: ")
        for further in self.objective.also:
            self._check_measured(further.metric, "objective.also: ")
        return self

    def _check_measured(self, name: str, at: str) -> None:
        """Raise ValueError, led by `at`, if nothing in this sweep measures the metric."""
        metric = parse_metric(name)
        if metric.kind in ("eval", "general"):
            names = [f.name for f in getattr(self.data, metric.kind)]
            if not names:
                raise ValueError(f"{at}there are no general sets; name one in data.general")
            if metric.dataset is not None and metric.dataset not in names:
                raise ValueError(
                    f"{at}no set of data.{metric.kind} is named '{metric.dataset}'; there "
                    f"{'is' if len(names) == 1 else 'are'} {', '.join(names)}"
                )
            if metric.name == "exact_match" and self.training.exact_match is False:
                raise ValueError(f"{at}exact match isn't measured; leave out training.exact_match")
            return
        part = self.evaluation.lm_eval if metric.kind == "lm_eval" else self.evaluation.judge
        if part is None:
            way_out = (
                f"evaluation: {{lm_eval: {{tasks: [{metric.dataset}]}}}}"
                if metric.kind == "lm_eval"
                else "evaluation: {judge: {base_url: …, model: …, questions: …}}"
            )
            raise ValueError(f"{at}nothing measures {name}; add {way_out}")
        if isinstance(part, LmEval) and metric.dataset not in part.tasks:
            raise ValueError(
                f"{at}'{metric.dataset}' is not in evaluation.lm_eval.tasks "
                f"({', '.join(part.tasks)}); add it there"
            )
        if self.evaluation.trials == "winner":
            raise ValueError(
                f"{at}trials are compared by {name}, so each must be measured; "
                "leave out evaluation.trials: winner"
            )


def planned_trials(spec: SweepSpec) -> int:
    """Search trials that the sweep runs, if none is left out: all of a grid's configurations, or as
    many as were asked for."""
    return spec.search.trials or spec.rules.size or 1


def _shown(chosen: dict[str, Scalar]) -> str:
    return ", ".join(f"{name} is {value!r}" for name, value in chosen.items())
