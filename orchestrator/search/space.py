"""The search space as numbers: sizes, configurations by index or at random, Optuna's distributions.

A space is never expanded, but for what its conditions and constraints are about. A configuration
of a countable space has an index, and `shuffled` visits all indices once in a seeded order that
needs no memory, so a space of 10⁹ configurations costs as much as one of ten.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from winnow import domains
from winnow.conditions import Rules, rules
from winnow.domains import Domain, count, value_at
from winnow.spec import Choice, Fixed, IntUniform, LogUniform, Scalar, Space, Uniform

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """`winnow.spec.Space` with the operations that samplers need.

    A configuration is a dict from parameter name to value, fixed parameters included; a parameter
    whose condition doesn't hold is absent.
    """

    rules: Rules

    @classmethod
    def of(
        cls,
        space: Space,
        constraints: Sequence[str] = (),
        in_force: Mapping[str, Scalar] | None = None,
    ) -> SearchSpace:
        """`in_force`: values of parameters that the space doesn't set, as conditions see them."""
        return cls(rules(space, constraints, in_force))

    @property
    def parameters(self) -> dict[str, Domain]:
        return self.rules.domains

    @property
    def size(self) -> int | None:
        """The number of distinct configurations, None if they can't be counted."""
        return self.rules.size

    def at(self, index: int) -> dict[str, Scalar]:
        """Configuration `index` of a countable space, 0 ≤ index < size.

        Raises:
            IndexError: the index is outside the space, or a parameter is continuous.
        """
        return self.rules.at(index)

    def draw(self, rng: random.Random) -> dict[str, Scalar] | None:
        """One configuration at random; None if none was found that the constraints allow."""
        return self.rules.draw(rng)

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether `params` sets each active parameter of the space, and no other one of it, to a
        value inside it."""
        return self.rules.contains(params)

    def allows(self, params: Mapping[str, Any]) -> bool:
        """Whether all constraints are met."""
        return self.rules.broken(params) is None

    def key(self, params: Mapping[str, Any]) -> tuple[object, ...]:
        """What makes a configuration the same as another; True and 1 differ. Values of parameters
        that aren't active don't count."""
        rules = self.rules
        known: dict[str, Any] = {}
        for name in rules.order:
            if name in params and rules.is_active(name, known):
                known[name] = params[name]
        known |= {name: value for name, value in params.items() if name not in rules.domains}
        return tuple((name, type(value).__name__, value) for name, value in sorted(known.items()))

    # --- Optuna's view -----------------------------------------------------------------------

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna distributions of the parameters that vary. A choice is its position in the list:
        Optuna compares choices with ==, and then True is 1."""
        from optuna import distributions as o

        found: dict[str, BaseDistribution] = {}
        for name, parameter in self.parameters.items():
            match parameter:
                case Choice():
                    if len(parameter.choice) > 1:
                        found[name] = o.CategoricalDistribution(tuple(range(len(parameter.choice))))
                case IntUniform():
                    low, _ = parameter.int_uniform
                    high = low + (count(parameter) - 1) * parameter.step
                    if high > low:
                        found[name] = o.IntDistribution(
                            low, high, log=parameter.log, step=parameter.step
                        )
                case LogUniform():
                    found[name] = o.FloatDistribution(*parameter.log_uniform, log=True)
                case Uniform(step=None):
                    found[name] = o.FloatDistribution(*parameter.uniform)
                case Uniform():
                    # The lattice's position: steps of 0.1 have no exact floating-point multiples.
                    if count(parameter) > 1:
                        found[name] = o.IntDistribution(0, count(parameter) - 1)
                case Fixed():
                    pass
        return found

    def to_optuna(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration inside the space, as Optuna's parameters."""
        return {
            name: _to_optuna(self.parameters[name], params[name])
            for name in self.distributions()
            if name in params
        }

    def from_optuna(self, params: Mapping[str, Any]) -> dict[str, Scalar]:
        """Optuna's parameters as a configuration, fixed parameters and rounding included."""
        return self.rules.active(
            {
                name: _from_optuna(parameter, params[name])
                if name in params
                else value_at(parameter, 0)
                for name, parameter in self.parameters.items()
            }
        )

    def suggest(self, trial: Trial) -> dict[str, Scalar]:
        """A configuration from Optuna, parameter by parameter, so that only active ones are asked
        for."""
        distributions = self.distributions()
        chosen: dict[str, Scalar] = {}
        for name in self.rules.order:
            if not self.rules.is_active(name, chosen):
                continue
            domain = self.parameters[name]
            if name in distributions:
                chosen[name] = _from_optuna(domain, _ask(trial, name, distributions[name]))
            else:
                chosen[name] = value_at(domain, 0)
        return {name: chosen[name] for name in self.parameters if name in chosen}


def shuffled(position: int, size: int, seed: int) -> int:
    """Index visited at `position` of a seeded permutation of range(size), in constant memory.

    A four-round Feistel network over the next even power of two, walked until it lands inside.
    """
    if not 0 <= position < size:
        raise IndexError(f"position {position} of {size}")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = position
    while True:
        left, right = value >> half, value & mask
        for turn in range(4):
            left, right = right, left ^ (_hash(seed, turn, right) & mask)
        value = left << half | right
        if value < size:
            return value


def rng(seed: int, *names: object) -> random.Random:
    """A generator of its own for each (seed, names): its draws don't depend on other draws."""
    return random.Random(_hash(seed, *names))


def _hash(*names: object) -> int:
    text = "/".join(str(n) for n in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _ask(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    from optuna import distributions as o

    match distribution:
        case o.CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case o.IntDistribution():
            return trial.suggest_int(
                name,
                distribution.low,
                distribution.high,
                step=distribution.step,
                log=distribution.log,
            )
        case o.FloatDistribution():
            return trial.suggest_float(
                name, distribution.low, distribution.high, log=distribution.log
            )
        case _:
            raise AssertionError(distribution)


def _to_optuna(parameter: object, value: Any) -> Any:
    match parameter:
        case Choice():
            return next(
                i for i, c in enumerate(parameter.choice) if type(c) is type(value) and c == value
            )
        case Uniform(step=float() as step):
            return min(round((value - parameter.uniform[0]) / step), count(parameter) - 1)
        case _:
            return value


def _from_optuna(parameter: object, value: Any) -> Scalar:
    match parameter:
        case LogUniform(log_uniform=(low, high)) | Uniform(uniform=(low, high), step=None):
            return domains.rounded(value, low, high)
        case Choice() | Uniform():
            return value_at(parameter, value)
        case _:
            return value
