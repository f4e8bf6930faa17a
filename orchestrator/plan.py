"""From a sweep and one set of parameters to the complete configuration of a run.

Precedence, lowest first: the trainer's defaults, the recipe, `training`, the trial's parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import BaseModel, ValidationError

from trainer import config as trainer
from trainer.config import DataConfig, TrainConfig
from trainer.curriculum import DIFFICULTY_REPLAY
from trainer.recipes import recipe
from winnow.conditions import Rules, rules
from winnow.spec import Choice, Fixed, IntUniform, LogUniform, Space, SweepSpec, Uniform
from winnow.types import TrialKind

DATA_PARAMETERS = ("strategy", "replay")
"""Parameters of the space that are fields of a run's data."""
_ENTANGLED = ("strategy", "batching", "optimizer")
"""Parameters whose values may exclude one another."""


def resolve(
    spec: SweepSpec, params: Mapping[str, Any], *, output_dir: str, cache_dir: str, **run: Any
) -> TrainConfig:
    """The run that `params` describe. `run` sets what the sweep file does not (rungs, checkpoints),
    and replaces benchmarks.

    Raises pydantic.ValidationError if the values do not make a valid configuration.
    """
    settings: dict[str, Any] = recipe(spec.recipe) if spec.recipe else {}
    settings = _overlay(settings, spec.training.overrides())
    own = {k: v for k, v in params.items() if k not in (*DATA_PARAMETERS, "adam_beta2")}
    settings = _overlay(settings, own)
    if "adam_beta2" in params:
        first, _ = settings.get("adam_betas", TrainConfig.model_fields["adam_betas"].default)
        settings["adam_betas"] = (first, params["adam_beta2"])
    measured = benchmarks(spec) if spec.evaluation.trials == "all" else {}
    return TrainConfig(
        **{
            **settings,
            **measured,
            "model": spec.model,
            "model_revision": spec.model_revision,
            "trust_remote_code": spec.trust_remote_code,
            "recipe": spec.recipe,
            "data": _data(spec, params, cache_dir),
            "output_dir": output_dir,
            **run,
        }
    )


def trial_config(
    spec: SweepSpec,
    kind: TrialKind,
    params: Mapping[str, Any],
    *,
    output_dir: str,
    cache_dir: str,
    checkpoint_seconds: float,
    model: str | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """The configuration of a trial, as JSON values: a search trial's, or that of the two which
    train nothing. `model` is what a report measures: the winner's checkpoint. `store` is the
    attempt's folder in the store of checkpoints."""
    run: dict[str, Any] = {"checkpoint_every_seconds": checkpoint_seconds, "store": store}
    values = params if kind == "search" else any_params(spec)
    if kind == "baseline":
        run = {"max_samples": 0, "export": False, "evaluate_test": bool(spec.data.test)}
        run |= benchmarks(spec)
    elif kind == "report":
        run = {"max_samples": 0, "export": False, "evaluate_test": True, "model": model}
        done = spec.evaluation.trials == "all"
        run |= dict.fromkeys(("lm_eval", "judge")) if done else benchmarks(spec)
    config = resolve(spec, values, output_dir=output_dir, cache_dir=cache_dir, **run)
    as_json = config.model_dump(mode="json")
    if kind == "report":
        as_json["data"]["eval"] = as_json["data"]["general"] = []
    return as_json


def benchmarks(spec: SweepSpec) -> dict[str, Any]:
    """The sweep's benchmarks as fields of TrainConfig."""
    lm_eval, judge = spec.evaluation.lm_eval, spec.evaluation.judge
    return {
        "lm_eval": None if lm_eval is None else trainer.LmEval(**dict(lm_eval)),
        "judge": None if judge is None else trainer.Judge(**dict(judge)),
    }


def total_samples(config: TrainConfig, facts: Mapping[str, Any]) -> int:
    """A run's declared budget in samples; exact for `stacked`, close for the others.

    `facts` are what the check of the data found: `train_samples` and, by set, `train_sets`.
    """
    if config.max_samples is not None:
        return config.max_samples
    return max(1, round(config.epochs * _epoch_samples(config.data, facts)))


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


def any_params(sweep: SweepSpec | Space) -> dict[str, Any]:
    """Some valid parameters, for runs that train nothing."""
    found = (rules(sweep) if isinstance(sweep, Space) else sweep.rules).witness()
    return dict(found or {})


def validate_space(spec: SweepSpec, *, changed: bool = False) -> list[tuple[str, str]]:
    """What is wrong with the values in `space`, as (JSON pointer, message) pairs.

    `changed`: the space is what is left of a sweep's; there a condition may never hold any more.

    Each listed value and each end of each range is tried in a configuration whose other parameters
    are known to be good, so that one bad value is reported once and by its own pointer. Then those
    that may exclude one another are tried together, as far as conditions and constraints allow, and
    each conditional parameter with what goes with it.
    """
    values = extremes(spec.space)
    problems: list[tuple[str, str]] = []
    for name, candidates in values.items():
        for pointer, value in candidates:
            message = field_problem(name, value)
            if message:
                problems.append((pointer, message))
    if not problems and not changed:
        problems = spec.rules.idle()
    if problems:
        return problems
    for params in _worth_trying(spec, values):
        try:
            resolve(spec, params, output_dir="-", cache_dir="-", **benchmarks(spec))
        except ValidationError as error:
            return [_problem(item, spec, values) for item in error.errors()]
    return []


def _worth_trying(
    spec: SweepSpec, values: Mapping[str, list[tuple[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Configurations that may exist, with every combination of the entangled parameters."""
    entangled = [name for name in _ENTANGLED if name in values]
    for combination in product(*([v for _, v in values[name]] for name in entangled)):
        chosen = dict(zip(entangled, combination, strict=True))
        found = _fixed(spec, chosen).witness()
        if found is not None:
            yield dict(found)
    for name in spec.rules.when:
        found = spec.rules.witness(name)
        if found is not None:
            yield dict(found)


def _fixed(spec: SweepSpec, chosen: Mapping[str, Any]) -> Rules:
    """The sweep's space where some parameters have one value."""
    space = spec.space.model_copy(
        update={
            name: Fixed(fixed=value, when=getattr(spec.space, name).when)
            for name, value in chosen.items()
        }
    )
    return rules(space, spec.constraints, spec.in_force)


def largest_batch(spec: SweepSpec) -> tuple[int, str]:
    """The largest effective batch that a trial may ask for, and the pointer to where it is set."""
    found: list[tuple[int, str]] = []
    candidates = extremes(spec.space).get("effective_batch_size")
    if candidates:
        pointer, value = _largest_allowed(spec, candidates)
        found.append((int(value), pointer))
        if "effective_batch_size" not in spec.rules.when:
            return found[0]
    if spec.training.effective_batch_size is not None:
        found.append((spec.training.effective_batch_size, "/training/effective_batch_size"))
    elif spec.recipe:
        found.append((int(recipe(spec.recipe)["effective_batch_size"]), "/recipe"))
    return max(found, default=(1, "/recipe"))


def _largest_allowed(
    spec: SweepSpec, candidates: Sequence[tuple[str, Any]]
) -> tuple[str, int | float]:
    """The largest batch that constraints leave; of a range, the largest that was found."""
    name = "effective_batch_size"
    falling = sorted(candidates, key=lambda item: item[1], reverse=True)
    if name not in spec.rules.tangled:
        return falling[0]
    for pointer, value in falling:
        if _fixed(spec, {name: value}).witness(name) is not None:
            if (pointer, value) == falling[0] or isinstance(
                spec.space.effective_batch_size, Choice
            ):
                return pointer, value
            break
    found = [int(one) for c in spec.rules.examples() if (one := c.get(name)) is not None]
    return falling[0][0], max(found, default=int(falling[-1][1]))


def sweep_pointer(pointer: str, spec: SweepSpec) -> str:
    """From a field of TrainConfig to the field of the sweep that set it."""
    head, _, rest = pointer.lstrip("/").partition("/")
    varied = spec.space.parameters()
    if head in ("lm_eval", "judge"):
        return f"/evaluation{pointer}"
    if head == "data" and rest in DATA_PARAMETERS and rest in varied:
        return f"/space/{rest}"
    if head == "adam_betas" and "adam_beta2" in varied:
        return "/space/adam_beta2"
    if head in varied:
        return f"/space/{head}"
    if head in type(spec.training).model_fields:
        return f"/training{pointer}"
    return pointer


def _data(spec: SweepSpec, params: Mapping[str, Any], cache_dir: str) -> DataConfig:
    data = spec.data
    strategy = str(params.get("strategy", data.strategy))
    replay = params.get("replay", data.replay)
    varied = "strategy" in spec.space.parameters()
    # Where the strategy varies, what belongs to one of them is left out of the others.
    return DataConfig(
        train=tuple(trainer.TrainSet(**dict(f)) for f in data.train),
        eval=_sets(data.eval),
        test=_sets(data.test),
        general=_sets(data.general),
        strategy=strategy,  # pyright: ignore[reportArgumentType]: checked by DataConfig
        phase_order=None if varied and strategy != "phased" else data.phase_order,
        replay=None if varied and strategy == "stacked" else replay,
        reset_optimizer=data.reset_optimizer and not (varied and strategy == "stacked"),
        difficulty_percentile=data.difficulty_percentile,
        unmask=data.unmask,
        max_length=data.max_length,
        chat_template=data.chat_template,
        cache_dir=cache_dir,
    )


def _sets(files: tuple[Any, ...]) -> tuple[trainer.EvalSet, ...]:
    return tuple(trainer.EvalSet.model_validate(f.model_dump()) for f in files)


def _epoch_samples(data: DataConfig, facts: Mapping[str, Any]) -> float:
    """Samples of one epoch of every stage, as `trainer.curriculum` makes them.

    How many samples are short is not known here; `difficulty` is taken by its percentile.
    """
    sizes = facts.get("train_sets")
    if not isinstance(sizes, list) or len(sizes) != len(data.train):
        sizes = [int(facts.get("train_samples") or 0) / len(data.train)] * len(data.train)
    weighted = [size * entry.weight for size, entry in zip(sizes, data.train, strict=True)]
    whole = sum(weighted)
    if data.strategy == "difficulty":
        replay = DIFFICULTY_REPLAY if data.replay is None else data.replay
        return whole * (1 + replay * data.difficulty_percentile / 100)
    if data.strategy == "phased" and data.replay:
        phases = data.phase_order or sorted({entry.phase for entry in data.train})
        earlier = 0.0
        for phase in phases:
            whole += data.replay * earlier
            of_phase = [w for w, e in zip(weighted, data.train, strict=True) if e.phase == phase]
            earlier += sum(of_phase)
    return whole


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`; one kind of warmup replaces the other."""
    if above.get("warmup_steps") is not None:
        below = {k: v for k, v in below.items() if k != "warmup_ratio"}
    if above.get("warmup_ratio") is not None:
        below = {k: v for k, v in below.items() if k != "warmup_steps"}
    if "epochs" in above and "max_samples" not in above:
        below = {k: v for k, v in below.items() if k != "max_samples"}
    return {**below, **above}


def _problem(
    item: Any, spec: SweepSpec, values: Mapping[str, list[tuple[str, Any]]]
) -> tuple[str, str]:
    """One of pydantic's findings about a whole configuration, at the sweep's field."""
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["loc"]:
        return sweep_pointer("".join(f"/{part}" for part in item["loc"]), spec), message
    # A rule over several fields names one of them first; the space is where the user can act.
    named = next((n for n in values if n in message.replace(":", " ").split()), None)
    return (f"/space/{named}" if named else "/training"), message


def field_problem(name: str, value: Any) -> str | None:
    """What the trainer's configuration says of one field's value, or None if it accepts it."""
    if isinstance(value, bool):
        return f"{name} does not take {str(value).lower()}"
    model: type[BaseModel] = TrainConfig
    probe: dict[str, Any] = {
        "model": "-",
        "data": {"train": [{"path": "-"}]},
        "output_dir": "-",
        "learning_rate": 1e-5,
        "effective_batch_size": 1,
    }
    if name in DATA_PARAMETERS:
        model = DataConfig
        phases = [{"path": "-", "phase": phase} for phase in (0, 1)]
        probe = {"train": phases, "strategy": "phased"}
    field, given = ("adam_betas", (0.9, value)) if name == "adam_beta2" else (name, value)
    try:
        accepted = getattr(model.model_validate(probe | {field: given}), field)
    except ValidationError as error:
        return "; ".join(str(item["msg"]) for item in error.errors())
    if isinstance(value, str) and not isinstance(accepted, str):
        return f"write {name} as a number, not as text"
    return None
