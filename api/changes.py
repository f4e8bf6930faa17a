"""All that can be wrong with a change to a sweep is found here, before it is asked of anyone.

Each function takes the body as it was sent and returns what the command is to carry, or raises
ProblemError 422 with every fault, or Conflict if the sweep can't do it at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from api.errors import invalid_change
from api.explain import parse_as, parse_spec
from orchestrator.errors import Conflict
from orchestrator.plan import validate_space
from orchestrator.search.narrowing import check_params, merged, narrowed
from orchestrator.store import Store
from winnow.changes import Add, Clone, Configuration, Extend, Narrow, Set
from winnow.load import pointer
from winnow.spec import Fixed, Space, SweepSpec
from winnow.types import FieldError, Sweep, Trial

M = TypeVar("M", bound=BaseModel)
MOST_TRIALS = 100_000


def parse(model: type[M], document: Any) -> M:
    """The body as `model`. Raises ProblemError 422."""
    found, errors = parse_as(model, document)
    if found is None:
        raise invalid_change(errors)
    return found


def current_spec(store: Store, sweep_id: str) -> dict[str, Any]:
    """The sweep's file as it will be once all that is asked for by now was carried out."""
    spec = store.current_spec(sweep_id)
    for command in store.pending_commands(sweep_id):
        if command.kind == "narrow":
            spec["space"] = command.payload["space"]
        elif command.kind == "set" and "budget" in command.payload:
            spec["budget"] = command.payload["budget"]
    return spec


def planned_trials(store: Store, sweep: Sweep) -> int:
    """How many trials a sweep will have once all that is asked for by now was carried out."""
    planned = sweep.summary.planned
    for command in store.pending_commands(sweep.id):
        if command.kind == "extend":
            planned += int(command.payload.get("trials", 0))
        elif command.kind in ("add", "clone"):
            planned += 1
    return planned


def check_clone(
    document: Any, spec: Mapping[str, Any], trial: Trial, planned: int
) -> dict[str, Any]:
    """The changes to a trial's parameters, good in its sweep (`spec` and `planned`, as it is)."""
    wanted = parse(Clone, document)
    _refuse(_faults(trial.params | wanted.params, spec, "/params", wanted.params))
    _refuse(_too_many(planned + 1, spec, trial.sweep_id, ""))
    return {"params": wanted.params}


def check_add(
    document: Any, spec: Mapping[str, Any], sweep_id: str, planned: int
) -> list[dict[str, Any]]:
    """One payload a configuration, each with a value for every parameter that the space sets."""
    alone = isinstance(document, dict) and isinstance(document.get("params"), dict)
    wanted = parse(Add, document | {"params": [document["params"]]} if alone else document)
    space = as_it_is(spec).space.parameters()
    fixed = {n: p.fixed for n, p in space.items() if isinstance(p, Fixed) and p.when is None}
    errors: list[FieldError] = []
    added: list[dict[str, Any]] = []
    for number, given in enumerate(wanted.params):
        params = fixed | given
        errors += _faults(params, spec, "/params" if alone else f"/params/{number}", params)
        added.append({"params": params})
    _refuse(errors)
    _refuse(_too_many(planned + len(added), spec, sweep_id, "/params"))
    return added


def check_extend(
    document: Any, spec: Mapping[str, Any], sweep_id: str, planned: int
) -> dict[str, Any]:
    wanted = parse(Extend, document)
    if as_it_is(spec).search.sampler == "grid":
        raise Conflict(
            f"Sweep {sweep_id} is a grid: all its {planned:,} configurations are planned already. "
            f"Add others one by one (`winnow add {sweep_id} learning_rate=…`), or submit a sweep "
            "with a larger grid."
        )
    _refuse(_too_many(planned + wanted.trials, spec, sweep_id, "/trials"))
    return {"trials": wanted.trials}


def check_narrow(document: Any, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The space that is left, whole, and which of its parameters were narrowed."""
    wanted = parse(Narrow, document)
    now = as_it_is(spec)
    _refuse([FieldError(pointer=p, message=m) for p, m in narrowed(now.space, wanted.space)])
    space = _written(merged(now.space, wanted.space).parameters())
    _refuse(_of_the_whole(dict(spec) | {"space": space}))
    return {"space": space, "narrowed": list(wanted.space.parameters())}


def check_set(document: Any, spec: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """What changes: of `budget` every limit, those that stay too; `limits` are the changed ones."""
    wanted = parse(Set, document)
    payload = wanted.model_dump(mode="json", exclude_unset=True)
    if "budget" not in payload:
        return payload
    budget = as_it_is(spec).budget.model_dump() | payload["budget"]
    _refuse(_of_the_whole(dict(spec) | {"budget": budget}))
    _refuse(
        [
            FieldError(
                pointer=pointer("budget", spent.what),
                message=f"{spent.used:g} are used already, so the sweep would end at once; "
                f"give more, or end it with `winnow cancel {sweep.id}`",
            )
            for spent in sweep.budget
            if spent.what != "trials"  # at that limit it starts no more, and does not end
            and payload["budget"].get(spent.what) is not None
            and spent.used >= payload["budget"][spent.what]
        ]
    )
    return payload | {"budget": budget, "limits": list(payload["budget"])}


def _too_many(planned: int, spec: Mapping[str, Any], sweep_id: str, at: str) -> list[FieldError]:
    """What stands against a sweep of so many trials: its budget, or all bounds."""
    limit = as_it_is(spec).budget.trials
    if limit is not None and planned > limit:
        message = (
            f"makes {planned:,} trials, and the budget allows {limit:,}; raise it first: "
            f"`winnow set {sweep_id} --budget-trials {planned}`"
        )
    elif planned > MOST_TRIALS:
        message = f"makes {planned:,} trials; a sweep has at most {MOST_TRIALS:,}"
    else:
        return []
    return [FieldError(pointer=at, message=message)]


def as_it_is(spec: Mapping[str, Any]) -> SweepSpec:
    """A stored sweep's file. Raises Conflict if this version can't read it."""
    found, errors = parse_spec(dict(spec))
    if found is None:
        raise Conflict(
            "This sweep was stored by another version of winnow and can't be changed by this one: "
            f"{errors[0].pointer} {errors[0].message}."
        )
    return found


def _faults(
    params: Mapping[str, Any], spec: Mapping[str, Any], at: str, given: Configuration
) -> list[FieldError]:
    """What is wrong with one configuration: it is read as a sweep of this one trial.

    `given` are those of its values that the request names; only they can be changed by it.
    """
    now = as_it_is(spec)
    params = {n: v for n, v in params.items() if n in given or now.rules.is_active(n, params)}
    found = [
        text.partition(": ")
        for text in check_params(now.space, now.constraints, params, now.in_force)
    ]
    if found:
        return [
            FieldError(pointer=at + pointer(name), message=text)
            if name in Space.model_fields or name in given
            else FieldError(pointer=at, message=text)
            for name, _, text in found
        ]
    document = dict(spec) | {
        "space": {name: {"fixed": value} for name, value in params.items()},
        "constraints": [],
        "search": {"sampler": "random", "trials": 1},
    }
    return [_moved(error, at, given) for error in _of_the_whole(document)]


def _of_the_whole(document: Mapping[str, Any]) -> list[FieldError]:
    """What is wrong with a sweep's form and the values of its space."""
    spec, errors = parse_spec(dict(document))
    if spec is None:
        return errors
    return [FieldError(pointer=p, message=m) for p, m in validate_space(spec, changed=True)]


def _moved(error: FieldError, at: str, given: Configuration) -> FieldError:
    """From the sweep's field to the request's."""
    section, _, rest = error.pointer.lstrip("/").partition("/")
    name = rest.partition("/")[0]
    if section == "space" and name in given:
        return FieldError(pointer=at + pointer(name), message=error.message)
    where = f"{name}: " if section == "space" and name else ""
    return FieldError(pointer=at, message=f"{where}{error.message}")


def _written(parameters: Mapping[str, BaseModel]) -> dict[str, Any]:
    return {name: one.model_dump(mode="json") for name, one in parameters.items()}


def _refuse(errors: list[FieldError]) -> None:
    if errors:
        raise invalid_change(errors)
