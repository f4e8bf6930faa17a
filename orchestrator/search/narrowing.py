"""Users' own changes to what is searched: a narrower space, a configuration of their own. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from orchestrator.plan import field_problem
from winnow.conditions import rules
from winnow.domains import Domain, contains, count, is_countable, value_at
from winnow.expression import suggestion
from winnow.space import Choice, Fixed, IntUniform, LogUniform, Scalar, Space, Uniform

_MOST_VALUES = 10_000
"""Values of a parameter that are compared one by one."""


def narrowed(old: Space, new: Space) -> list[tuple[str, str]]:
    """What is wrong with `new` as a part of `old`, as (JSON pointer, message) pairs.

    `new` names the parameters that are narrowed: each of its values must be one of the old ones.
    """
    problems: list[tuple[str, str]] = []
    before = old.parameters()
    for name, domain in new.parameters().items():
        at = f"/space/{name}"
        if name not in before:
            varied = ", ".join(before) or "nothing"
            message = f"{name} doesn't vary in this sweep; what varies is {varied}"
            problems.append((at, message + suggestion(name, list(before))))
            continue
        was = before[name]
        if domain.when is not None and domain.when != was.when:
            message = f"the condition of {name} is part of the sweep and stays; leave `when` out"
            problems.append((f"{at}/when", message))
        fault = _outside(was, domain)
        if fault:
            problems.append((at, f"{fault} {name} was {described(was)}; give a part of that"))
    return problems


def merged(old: Space, new: Space) -> Space:
    """`old` with the parameters that `new` narrows; conditions stay."""
    values: dict[str, Any] = {
        name: domain.model_dump() for name, domain in old.parameters().items()
    }
    for name, domain in new.parameters().items():
        when = values.get(name, {}).get("when")
        values[name] = {**domain.model_dump(), "when": when}
    return Space.model_validate(values)


def check_params(
    space: Space,
    constraints: Sequence[str],
    params: Mapping[str, Any],
    in_force: Mapping[str, Scalar] | None = None,
) -> list[str]:
    """What is wrong with a user's own configuration, a sentence each, the field first.

    It may lie outside of the space. Wrong are values that a trial can't have, a parameter that its
    condition leaves out, one that is missing, and constraints that aren't met.
    """
    problems: list[str] = []
    for name, value in params.items():
        if name not in Space.model_fields:
            fields = list(Space.model_fields)
            hint = suggestion(name, fields) or f"; there are {', '.join(fields)}"
            problems.append(f"{name}: is no parameter{hint}")
            continue
        fault = field_problem(name, value)
        if fault:
            problems.append(f"{name}: {fault}")
    if problems:
        return problems
    found = rules(space, constraints, in_force)
    known: dict[str, Any] = {n: v for n, v in params.items() if n not in found.domains}
    for name in found.order:
        active = found.is_active(name, known)
        if active and name in params:
            known[name] = params[name]
        elif active:
            problems.append(f"{name}: is missing; give it a value")
        elif name in params:
            problems.append(
                f"{name}: is only set when {found.when[name].text}, which doesn't hold here; leave "
                "it out"
            )
    broken = None if problems else found.broken(known)
    if broken is not None:
        text = found.constraints[broken].text
        names = sorted(found.constraints[broken].names)
        values = found.in_force | known
        shown = ", ".join(f"{name} = {values[name]!r}" for name in names if name in values)
        problems.append(f"constraints: '{text}' isn't met by {shown}; change one of them")
    return problems


def described(domain: Domain) -> str:
    """A parameter's values in words."""
    match domain:
        case Choice():
            return f"one of {', '.join(map(_shown, domain.choice))}"
        case Fixed():
            return f"always {_shown(domain.fixed)}"
        case IntUniform(int_uniform=(low, high)):
            by = f" in steps of {domain.step}" if domain.step != 1 else ""
            return f"a whole number from {low} to {high}{by}"
        case LogUniform(log_uniform=(low, high)) | Uniform(uniform=(low, high), step=None):
            return f"a number from {low:g} to {high:g}"
        case Uniform(uniform=(low, high)):
            return f"a number from {low:g} to {high:g} in steps of {domain.step:g}"


def _outside(old: Domain, new: Domain) -> str | None:
    """Why `new` isn't a part of `old`, as the beginning of a sentence; None if it is."""
    low, high = _bounds(new)
    if is_countable(new) and count(new) <= _MOST_VALUES:
        for value in (value_at(new, i) for i in range(count(new))):
            if not _has(old, value):
                return f"{_shown(value)} is outside:"
        return None
    if is_countable(old) and not is_countable(new):
        return "a continuous range isn't a part of single values:"
    for value in (low, high):
        if value is not None and not _has(old, value):
            return f"{_shown(value)} is outside:"
    if is_countable(old) and count(old) <= _MOST_VALUES:
        return "it has more values than there were:"
    first = [value_at(new, i) for i in range(2)] if is_countable(new) else []
    if any(not _has(old, other) for _, other in pairwise(first)):
        return "its steps aren't steps of the old ones:"
    return None


def _bounds(domain: Domain) -> tuple[Scalar, Scalar]:
    match domain:
        case LogUniform(log_uniform=(low, high)) | Uniform(uniform=(low, high)):
            return low, high
        case IntUniform(int_uniform=(low, high)):
            return low, value_at(domain, count(domain) - 1) if high > low else high
        case _:
            return None, None


def _has(old: Domain, value: Scalar) -> bool:
    """Whether `old` has the value; 1 and 1.0 are the same, and steps count."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return contains(old, value)
    match old:
        case Uniform(uniform=(low, high), step=float() as step):
            steps = (value - low) / step
            return low <= value <= high and abs(steps - round(steps)) < 1e-6
        case Choice() | Fixed():
            values = old.choice if isinstance(old, Choice) else (old.fixed,)
            return any(v == value and not isinstance(v, bool) for v in values)
        case IntUniform():
            return float(value).is_integer() and contains(old, int(value))
        case _:
            return contains(old, value)


def _shown(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
