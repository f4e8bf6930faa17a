"""Conditional spaces: which parameters a configuration has, and which configurations are allowed.

A parameter with `when` is *active* where its condition holds; elsewhere it is absent, and what the
sweep file or the recipe says holds. A *constraint* must hold for every configuration. Both see the
values in force: of active parameters those that were chosen, of all others the sweep's own.

What conditions and constraints are about is counted exactly where it is countable and small
enough, and tried at random otherwise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from winnow import domains
from winnow.domains import Domain, is_countable
from winnow.expression import Expression, ExpressionError, Value, parse, suggestion
from winnow.space import Choice, Fixed, Scalar, Space

MAX_LOOKED_AT = 50_000
"""Values that are set while counting; a space that needs more is tried at random."""
TRIED = 10_000
"""Configurations tried at random before conditions count as impossible."""
_LOOKED_AT_LEAST = 200
"""Configurations that are tried in any case, so that one that can't be computed shows."""
_MOVES = 200
"""Steps from a configuration that is known to be allowed, where drawing finds none."""

TEXTS: Mapping[str, tuple[str, ...]] = {
    "schedule": ("constant", "linear", "cosine"),
    "optimizer": ("adamw", "adam", "nadam", "radam", "rmsprop", "sgd", "lion", "adamw_8bit"),
    "batching": ("exact", "paper"),
    "strategy": ("stacked", "phased", "difficulty"),
}
"""What parameters that are texts can be."""

Chosen = dict[str, Scalar]


class Rules:
    """A space with its conditions and constraints.

    Args:
        space: the parameters.
        constraints: expressions that every configuration meets.
        in_force: values of parameters that the space doesn't set.

    Raises:
        ValueError: an expression names an unknown parameter, or a condition depends on itself. The
            message begins with the field.
    """

    def __init__(
        self,
        space: Space,
        constraints: Sequence[str] = (),
        in_force: Mapping[str, Scalar] | None = None,
    ) -> None:
        self.domains: dict[str, Domain] = space.parameters()
        self.in_force: dict[str, Scalar] = dict(in_force or {})
        self.constraints: tuple[Expression, ...] = tuple(parse(text) for text in constraints)
        self.when: dict[str, Expression] = {
            name: parse(domain.when)
            for name, domain in self.domains.items()
            if domain.when is not None
        }
        self._check_names()
        self.order = self._ordered()

    # --- one configuration ----------------------------------------------------------------------

    @property
    def plain(self) -> bool:
        """Whether there are neither conditions nor constraints."""
        return not self.when and not self.constraints

    def is_active(self, name: str, chosen: Mapping[str, Value]) -> bool:
        """Whether a parameter is set, given those before it in `order`. A condition that can't be
        computed, such as one on the size of what isn't set, doesn't hold."""
        condition = self.when.get(name)
        if condition is None:
            return True
        try:
            return condition.holds(self.in_force | dict(chosen))
        except (ExpressionError, KeyError):
            return False

    def active(self, values: Mapping[str, Any]) -> Chosen:
        """What of a value for each parameter is a configuration: the active ones, in the space's
        order."""
        chosen: Chosen = {}
        for name in self.order:
            if self.is_active(name, chosen):
                chosen[name] = values[name]
        return {name: chosen[name] for name in self.domains if name in chosen}

    def broken(self, chosen: Mapping[str, Value]) -> int | None:
        """The first constraint that a configuration doesn't meet, by index; None if it meets all.
        One that can't be computed isn't met."""
        values = self.in_force | dict(chosen)
        for index, constraint in enumerate(self.constraints):
            try:
                if not constraint.holds(values):
                    return index
            except (ExpressionError, KeyError):
                return index
        return None

    def contains(self, chosen: Mapping[str, Any]) -> bool:
        """Whether a configuration sets exactly its active parameters, each to one of its values.
        Constraints aren't looked at."""
        known: Chosen = {}
        for name in self.order:
            if not self.is_active(name, known):
                if name in chosen:
                    return False
                continue
            if name not in chosen or not domains.contains(self.domains[name], chosen[name]):
                return False
            known[name] = chosen[name]
        return True

    # --- all configurations ---------------------------------------------------------------------

    @cached_property
    def tangled(self) -> tuple[str, ...]:
        """Parameters that conditions or constraints are about, in `order`."""
        named = {name for name in self.when if is_countable(self.domains[name])}
        for expression in (*self.when.values(), *self.constraints):
            named |= expression.names
        return tuple(name for name in self.order if name in named)

    @cached_property
    def free(self) -> tuple[str, ...]:
        """The others, but for `dependent` ones."""
        return tuple(n for n in self.domains if n not in self.tangled and n not in self.when)

    @cached_property
    def dependent(self) -> tuple[str, ...]:
        """Continuous parameters with a condition, on which nothing depends."""
        return tuple(n for n in self.domains if n not in self.tangled and n in self.when)

    @cached_property
    def combinations(self) -> tuple[Chosen, ...] | None:
        """Every allowed combination of the tangled parameters, inactive ones absent, once each,
        without the others; None if they can't be counted, or are too many."""
        if not all(is_countable(self.domains[name]) for name in self.tangled):
            return None
        found: list[Chosen] = []
        for chosen in self._walk():
            if chosen is None:
                return None
            found.append(chosen)
        return tuple(found)

    @property
    def countable(self) -> bool:
        """Whether no parameter is continuous."""
        return all(is_countable(domain) for domain in self.domains.values())

    @cached_property
    def size(self) -> int | None:
        """How many distinct configurations there are; None if they can't be counted."""
        if self.combinations is None:
            return None
        if not self.countable:
            return None
        return len(self.combinations) * math.prod(domains.count(self.domains[n]) for n in self.free)

    def at(self, index: int) -> Chosen:
        """Configuration `index`, 0 ≤ index < size. Raises IndexError."""
        if self.size is None or not 0 <= index < self.size or self.combinations is None:
            raise IndexError(f"configuration {index} of a space with size {self.size}")
        index, combination = divmod(index, len(self.combinations))
        chosen: Chosen = dict(self.combinations[combination])
        for name in self.free:
            index, position = divmod(index, domains.count(self.domains[name]))
            chosen[name] = domains.value_at(self.domains[name], position)
        return self._in_order(chosen)

    def draw(self, rng: random.Random) -> Chosen | None:
        """One allowed configuration at random; None if none was found.

        Values are drawn as the parameters say, until all constraints are met. Where that is rare,
        one of the allowed combinations is taken, or a walk from a configuration that is known.
        """
        for _ in range(TRIED // 10):
            chosen = self.active(self._any_values(rng))
            if self.broken(chosen) is None:
                return chosen
        if self.combinations is not None:
            if not self.combinations:
                return None
            return self._completed(rng.choice(self.combinations), self._any_values(rng))
        return self._wander(rng)

    @cached_property
    def problem(self) -> tuple[str, str] | None:
        """(field, message) if no configuration meets the constraints, or one can't be computed.
        The field is `space.<name>.when` or `constraints`."""
        if self.plain:
            return None
        broken = self._uncomputable()
        if broken is not None:
            return broken
        if self.combinations is not None:
            possible, tried = bool(self.combinations), "no combination of values"
        else:
            possible, tried = self.witness() is not None, f"no configuration of {TRIED:,} tried"
        return None if possible else ("constraints", f"{tried} satisfies {self._to_blame()}")

    def idle(self) -> list[tuple[str, str]]:
        """(JSON pointer, message) for each condition that never holds, and each constraint that is
        about nothing that varies: mistakes in a new sweep, but not where its space was narrowed."""
        found = [
            (
                f"/constraints/{i}",
                f"'{constraint.text}' names nothing that varies, so it is always the same; leave "
                "it out, or vary one of its parameters",
            )
            for i, constraint in enumerate(self.constraints)
            if not constraint.names & self.domains.keys()
        ]
        tried = f"no configuration of {TRIED:,} tried"
        if self.combinations is not None:
            tried = "no combination of values"
        seen: set[str] = set()
        for chosen in self.examples():
            seen |= chosen.keys()
            if seen.issuperset(self.when):
                break
        for name, condition in self.when.items():
            if name not in seen:
                others = " and the constraints" if self.constraints else ""
                message = (
                    f"'{condition.text}' never holds: {tried} satisfies it{others}; change it, or "
                    f"leave {name} out of the space"
                )
                found.append((f"/space/{name}/when", message))
        return found

    def witness(self, wanted: str | None = None) -> Chosen | None:
        """Some allowed configuration, one in which `wanted` is active; None if none was found."""
        return next((c for c in self.examples() if wanted is None or wanted in c), None)

    def examples(self) -> Iterator[Chosen]:
        """Allowed configurations: every combination of the tangled parameters where they can be
        counted, else those that were found among `TRIED`."""
        if self.combinations is not None:
            first = {name: _first(domain) for name, domain in self.domains.items()}
            for combination in self.combinations:
                yield self._completed(combination, first)
            return
        for chosen in self._samples():
            if self.broken(chosen) is None:
                yield chosen

    # --- what it is made of ---------------------------------------------------------------------

    def _check_names(self) -> None:
        known = sorted(self.domains.keys() | self.in_force.keys())
        fields = [(f"space.{name}.when", e) for name, e in self.when.items()]
        fields += [("constraints", e) for e in self.constraints]
        for field, expression in fields:
            for name in sorted(expression.names):
                if name not in Space.model_fields:
                    raise ValueError(
                        f"{field}: '{expression.text}' names {name}, which is no parameter"
                        f"{suggestion(name, known) or '; there are ' + ', '.join(known)}"
                    )
            for name, text, position in expression.compared():
                values = self._texts(name)
                if text not in values:
                    raise ValueError(
                        f"{field}: '{expression.text}', position {position + 1}: {name} is never "
                        f"'{text}'{suggestion(text, sorted(values))}; it is one of "
                        f"{', '.join(sorted(values)) or 'no texts'}"
                    )

    def _texts(self, name: str) -> set[str]:
        """The texts that a parameter can be, in this space or another."""
        domain = self.domains.get(name)
        values: list[Scalar] = [*TEXTS.get(name, ()), self.in_force.get(name)]
        if isinstance(domain, Choice):
            values += domain.choice
        elif isinstance(domain, Fixed):
            values.append(domain.fixed)
        return {value for value in values if isinstance(value, str)}

    def _ordered(self) -> tuple[str, ...]:
        """All parameters, each after those that its condition names."""
        needs = {
            name: self.when[name].names & self.domains.keys() if name in self.when else frozenset()
            for name in self.domains
        }
        placed: list[str] = []
        while len(placed) < len(needs):
            following = next(
                (n for n, before in needs.items() if n not in placed and before <= {*placed}), None
            )
            if following is None:
                circle = _circle({n: b for n, b in needs.items() if n not in placed})
                raise ValueError(
                    f"space.{circle[0]}.when: conditions go in a circle: "
                    f"{' → '.join((*circle, circle[0]))}; let one of them depend on something else"
                )
            placed.append(following)
        return tuple(placed)

    def _walk(self) -> Iterator[Chosen | None]:
        """The allowed combinations of tangled parameters, depth first; None when there are more
        than can be looked at. A constraint is checked as soon as all it names is decided."""
        place = {name: i for i, name in enumerate(self.tangled)}
        due: list[list[Expression]] = [[] for _ in self.tangled]
        for constraint in self.constraints:
            decided = [place[name] for name in constraint.names if name in place]
            if decided:
                due[max(decided)].append(constraint)
            elif not self._meets([constraint], {}):
                return
        looked_at = 0

        def below(depth: int, chosen: Chosen) -> Iterator[Chosen | None]:
            nonlocal looked_at
            if depth == len(self.tangled):
                yield dict(chosen)
                return
            name = self.tangled[depth]
            domain = self.domains[name]
            is_active = self.is_active(name, chosen)
            for position in range(domains.count(domain) if is_active else 1):
                looked_at += 1
                if looked_at > MAX_LOOKED_AT:
                    yield None
                    return
                further = chosen
                if is_active:
                    further = {**chosen, name: domains.value_at(domain, position)}
                if self._meets(due[depth], further):
                    yield from below(depth + 1, further)
                    if looked_at > MAX_LOOKED_AT:
                        return

        yield from below(0, {})

    def _meets(self, constraints: Sequence[Expression], chosen: Chosen) -> bool:
        if not constraints:
            return True
        values = self.in_force | chosen
        try:
            return all(constraint.holds(values) for constraint in constraints)
        except (ExpressionError, KeyError):
            return False

    def _any_values(self, rng: random.Random) -> Chosen:
        return {name: domains.draw(domain, rng) for name, domain in self.domains.items()}

    def _samples(self) -> Iterator[Chosen]:
        """The same configurations at each call, constraints not looked at."""
        rng = random.Random(0)
        for _ in range(TRIED):
            yield self.active(self._any_values(rng))

    def _uncomputable(self) -> tuple[str, str] | None:
        """The first expression that can't be computed for some configuration."""
        for _, chosen in zip(range(_LOOKED_AT_LEAST), self._samples(), strict=False):
            values = self.in_force | chosen
            fields = [(f"space.{name}.when", e) for name, e in self.when.items()]
            for field, expression in [*fields, *(("constraints", e) for e in self.constraints)]:
                if not expression.names <= values.keys():
                    continue  # what sets it is asked for elsewhere
                inactive = expression.names & (self.domains.keys() - chosen.keys())
                if inactive and field != "constraints":
                    continue  # a condition on what isn't set doesn't hold
                try:
                    expression.holds(values)
                except ExpressionError as error:
                    shown = ", ".join(f"{n}={values[n]!r}" for n in sorted(expression.names))
                    return field, f"'{expression.text}' can't be computed for {shown}: {error}"
        return None

    def _to_blame(self) -> str:
        """The constraints that alone admit nothing; all of them if none does."""
        alone = [
            f"'{constraint.text}'"
            for constraint in self.constraints
            if not any(self._meets([constraint], chosen) for chosen in self._samples())
        ]
        if alone:
            return f"{' or '.join(alone)}; loosen it, or widen the space"
        texts = " and ".join(f"'{constraint.text}'" for constraint in self.constraints)
        return f"{texts} together; loosen one, or widen the space"

    @cached_property
    def _start(self) -> Chosen | None:
        """A value for each parameter that makes an allowed configuration."""
        rng = random.Random(0)
        for _ in range(TRIED):
            values = self._any_values(rng)
            if self.broken(self.active(values)) is None:
                return values
        return None

    def _wander(self, rng: random.Random) -> Chosen | None:
        if self._start is None:
            return None
        values, names = dict(self._start), list(self.domains)
        for _ in range(_MOVES):
            name = rng.choice(names)
            moved = values | {name: domains.draw(self.domains[name], rng)}
            if self.broken(self.active(moved)) is None:
                values = moved
        return self.active(values)

    def _completed(self, combination: Chosen, values: Chosen) -> Chosen:
        """A combination of the tangled parameters with `values` for the others."""
        chosen = {**combination, **{name: values[name] for name in self.free}}
        chosen |= {n: values[n] for n in self.dependent if self.is_active(n, combination)}
        return self._in_order(chosen)

    def _in_order(self, chosen: Mapping[str, Scalar]) -> Chosen:
        return {name: chosen[name] for name in self.domains if name in chosen}


def rules(
    space: Space, constraints: Sequence[str] = (), in_force: Mapping[str, Scalar] | None = None
) -> Rules:
    """`Rules`, counted once a process for each sweep. Raises ValueError as it does."""
    pairs = tuple(sorted((in_force or {}).items()))
    return _remembered(space.model_dump_json(), tuple(constraints), repr(pairs), pairs)


@lru_cache(maxsize=64)
def _remembered(
    space: str, constraints: tuple[str, ...], types: str, in_force: tuple[tuple[str, Scalar], ...]
) -> Rules:
    del types  # tells 1 from True, which are equal as keys
    return Rules(Space.model_validate_json(space), constraints, dict(in_force))


def _first(domain: Domain) -> Scalar:
    """Some value: the first, or the lower end."""
    if is_countable(domain):
        return domains.value_at(domain, 0)
    bounds: tuple[float, float] = getattr(domain, "uniform", None) or getattr(domain, "log_uniform")  # noqa: B009
    return bounds[0]


def _circle(needs: Mapping[str, frozenset[str]]) -> list[str]:
    """Names that need each other in turn; each of `needs` needs at least one of them."""
    path = [next(iter(needs))]
    while True:
        following = min(name for name in needs[path[-1]] if name in needs)
        if following in path:
            return path[path.index(following) :]
        path.append(following)
