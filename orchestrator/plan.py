"""From a sweep and one set of parameters to the complete configuration of a run.

Precedence, lowest first: the trainer's defaults, the recipe, `training`, the trial's parameters.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from trainer.config import DataConfig, EvalSet, TrainConfig, TrainSet
from trainer.recipes import recipe
from winnow.spec import Choice, Fixed, IntUniform, LogUniform, Space, SweepSpec, Uniform


def resolve(
    spec: SweepSpec, params: dict[str, Any], *, output_dir: str, cache_dir: str, **run: Any
) -> TrainConfig:
    """The run that `params` describe. `run` sets what the sweep file does not (rungs, checkpoints).

    Raises pydantic.ValidationError if the values do not make a valid configuration.
    """
    settings: dict[str, Any] = recipe(spec.recipe) if spec.recipe else {}
    for layer in (spec.training.overrides(), params):
        settings = _overlay(settings, layer)
    data = DataConfig(
        train=tuple(TrainSet(path=f.path, phase=f.phase) for f in spec.data.train),
        eval=tuple(EvalSet(path=f.path, name=f.name) for f in spec.data.eval),
        test=tuple(EvalSet(path=f.path, name=f.name) for f in spec.data.test),
        strategy=spec.data.strategy,
        max_length=spec.data.max_length,
        chat_template=spec.data.chat_template,
        cache_dir=cache_dir,
    )
    return TrainConfig(
        **{
            **settings,
            "model": spec.model,
            "recipe": spec.recipe,
            "data": data,
            "output_dir": output_dir,
            **run,
        }
    )


def total_samples(config: TrainConfig, train_samples: int) -> int:
    """A run's declared budget in samples."""
    if config.max_samples is not None:
        return config.max_samples
    return max(1, round(config.epochs * train_samples))


def extremes(space: Space) -> dict[str, list[tuple[str, Any]]]:
    """For each parameter, the values worth checking, each with its JSON pointer into the sweep."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for name, parameter in space.parameters().items():
        at = f"/space/{name}"
        match parameter:
            case Choice(choice=values):
                found[name] = [(f"{at}/choice/{i}", value) for i, value in enumerate(values)]
            case Fixed(fixed=value):
                found[name] = [(at, value)]
            case Uniform(uniform=bounds):
                found[name] = [(f"{at}/uniform/{i}", value) for i, value in enumerate(bounds)]
            case LogUniform(log_uniform=bounds):
                found[name] = [(f"{at}/log_uniform/{i}", value) for i, value in enumerate(bounds)]
            case IntUniform(int_uniform=bounds):
                found[name] = [(f"{at}/int_uniform/{i}", value) for i, value in enumerate(bounds)]
    return found


def any_params(space: Space) -> dict[str, Any]:
    """Some valid parameters, for runs that train nothing."""
    return {name: values[0][1] for name, values in extremes(space).items()}


def validate_space(spec: SweepSpec) -> list[tuple[str, str]]:
    """What is wrong with the values in `space`, as (JSON pointer, message) pairs.

    Each listed value and each end of each range is tried in a configuration whose other parameters
    are known to be good, so that one bad value is reported once and by its own pointer.
    """
    values = extremes(spec.space)
    problems: list[tuple[str, str]] = []
    for name, candidates in values.items():
        for pointer, value in candidates:
            message = _field_problem(name, value)
            if message:
                problems.append((pointer, message))
    if problems:
        return problems
    try:
        resolve(spec, any_params(spec.space), output_dir="-", cache_dir="-")
    except ValidationError as error:
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else ""
            pointer = (
                f"/space/{name}" if name in values else f"/training/{name}" if name else "/space"
            )
            problems.append((pointer, str(item["msg"]).removeprefix("Value error, ")))
    return problems


def largest_batch(spec: SweepSpec) -> tuple[int, str]:
    """The largest effective batch that a trial may ask for, and the pointer to where it is set."""
    candidates = extremes(spec.space).get("effective_batch_size")
    if candidates:
        pointer, value = max(candidates, key=lambda item: item[1])
        return int(value), pointer
    if spec.training.effective_batch_size is not None:
        return spec.training.effective_batch_size, "/training/effective_batch_size"
    return int(recipe(spec.recipe)["effective_batch_size"]) if spec.recipe else 1, "/recipe"


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`; one kind of warmup replaces the other."""
    if above.get("warmup_steps") is not None:
        below = {k: v for k, v in below.items() if k != "warmup_ratio"}
    if above.get("warmup_ratio") is not None:
        below = {k: v for k, v in below.items() if k != "warmup_steps"}
    if "epochs" in above and "max_samples" not in above:
        below = {k: v for k, v in below.items() if k != "max_samples"}
    return {**below, **above}


def _field_problem(name: str, value: Any) -> str | None:
    """What TrainConfig says of one field's value, or None if it accepts it."""
    if isinstance(value, bool):
        return f"{name} does not take {str(value).lower()}"
    probe: dict[str, Any] = {
        "model": "-",
        "data": {"train": [{"path": "-"}]},
        "output_dir": "-",
        "learning_rate": 1e-5,
        "effective_batch_size": 1,
        name: value,
    }
    try:
        accepted = getattr(TrainConfig.model_validate(probe), name)
    except ValidationError as error:
        return "; ".join(str(item["msg"]) for item in error.errors())
    if isinstance(value, str) and not isinstance(accepted, str):
        return f"write {name} as a number, not as text"
    return None
