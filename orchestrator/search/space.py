"""The search space as numbers: sizes, values by index, random draws, and Optuna's distributions.

A space is never expanded. A configuration of a countable space has an index in mixed radix, and
`shuffled` visits all indices once in a seeded order that needs no memory, so a space of 10⁹
configurations costs as much as one of ten.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from winnow.spec import Choice, Fixed, IntUniform, LogUniform, Scalar, Space, Uniform, grid_size

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Parameters = dict[str, Uniform | LogUniform | IntUniform | Choice | Fixed]
SIGNIFICANT_DIGITS = 4
"""Continuous draws are rounded to this: a person reads them, and training can't tell."""


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """`winnow.spec.Space` with the operations that samplers need.

    `size` is the number of distinct configurations, None if a parameter is continuous. A
    configuration is a dict from parameter name to value, fixed parameters included.
    """

    parameters: Parameters
    size: int | None

    @classmethod
    def of(cls, space: Space) -> SearchSpace:
        return cls(space.parameters(), grid_size(space))

    def at(self, index: int) -> dict[str, Scalar]:
        """Configuration `index` of a countable space, 0 ≤ index < size.

        Raises:
            IndexError: the index is outside the space, or a parameter is continuous.
        """
        if self.size is None or not 0 <= index < self.size:
            raise IndexError(f"configuration {index} of a space with size {self.size}")
        params: dict[str, Scalar] = {}
        for name, parameter in self.parameters.items():
            count = _count(parameter)
            params[name] = _value_at(parameter, index % count)
            index //= count
        return params

    def draw(self, rng: random.Random) -> dict[str, Scalar]:
        """One configuration at random."""
        return {name: _draw(parameter, rng) for name, parameter in self.parameters.items()}

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether `params` gives each parameter of the space a value inside it."""
        return all(
            name in params and _inside(parameter, params[name])
            for name, parameter in self.parameters.items()
        )

    def key(self, params: Mapping[str, Any]) -> tuple[object, ...]:
        """What makes a configuration the same as another; True and 1 differ."""
        return tuple((type(params.get(n)).__name__, params.get(n)) for n in self.parameters)

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
                    high = low + (_count(parameter) - 1) * parameter.step
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
                    if _count(parameter) > 1:
                        found[name] = o.IntDistribution(0, _count(parameter) - 1)
                case Fixed():
                    pass
        return found

    def to_optuna(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration inside the space, as Optuna's parameters."""
        return {
            name: _to_optuna(self.parameters[name], params[name]) for name in self.distributions()
        }

    def from_optuna(self, params: Mapping[str, Any]) -> dict[str, Scalar]:
        """Optuna's parameters as a configuration, fixed parameters and rounding included."""
        return {
            name: _from_optuna(parameter, params[name])
            if name in params
            else _value_at(parameter, 0)
            for name, parameter in self.parameters.items()
        }


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


def _count(parameter: object) -> int:
    match parameter:
        case Choice():
            return len(parameter.choice)
        case IntUniform():
            low, high = parameter.int_uniform
            return (high - low) // parameter.step + 1
        case Uniform(step=float() as step):
            low, high = parameter.uniform
            return math.floor((high - low) / step + 1e-9) + 1
        case Fixed():
            return 1
        case _:
            raise TypeError(f"{parameter!r} is continuous")


def _value_at(parameter: object, position: int) -> Scalar:
    match parameter:
        case Choice():
            return parameter.choice[position]
        case IntUniform():
            return parameter.int_uniform[0] + position * parameter.step
        case Uniform(step=float() as step):
            low, high = parameter.uniform
            # 0.1 + 2 * 0.1 is 0.30000000000000004; a person wrote 0.3.
            return min(float(f"{low + position * step:.12g}"), high)
        case Fixed():
            return parameter.fixed
        case _:
            raise TypeError(f"{parameter!r} is continuous")


def _draw(parameter: object, rng: random.Random) -> Scalar:
    match parameter:
        case LogUniform():
            low, high = parameter.log_uniform
            return _rounded(math.exp(rng.uniform(math.log(low), math.log(high))), low, high)
        case Uniform(step=None):
            low, high = parameter.uniform
            return _rounded(rng.uniform(low, high), low, high)
        case IntUniform(log=True):
            low, high = parameter.int_uniform
            # Each whole number owns the half unit on either side, as in Optuna.
            drawn = math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
            return min(max(round(drawn), low), high)
        case _:
            return _value_at(parameter, rng.randrange(_count(parameter)))


def _rounded(value: float, low: float, high: float) -> float:
    if high - low < 0.1 * max(abs(low), abs(high)):
        return min(max(value, low), high)  # In so narrow a range the digits are the difference.
    return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high)


def _inside(parameter: object, value: Any) -> bool:
    match parameter:
        case LogUniform(log_uniform=(low, high)) | Uniform(uniform=(low, high)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            return low <= value <= high
        case IntUniform(int_uniform=(low, high)):
            if isinstance(value, bool) or not isinstance(value, int):
                return False
            return low <= value <= high and (value - low) % parameter.step == 0
        case Choice():
            return any(type(c) is type(value) and c == value for c in parameter.choice)
        case Fixed():
            return type(parameter.fixed) is type(value) and parameter.fixed == value
        case _:
            return False


def _to_optuna(parameter: object, value: Any) -> Any:
    match parameter:
        case Choice():
            return next(
                i for i, c in enumerate(parameter.choice) if type(c) is type(value) and c == value
            )
        case Uniform(step=float() as step):
            return min(round((value - parameter.uniform[0]) / step), _count(parameter) - 1)
        case _:
            return value


def _from_optuna(parameter: object, value: Any) -> Scalar:
    match parameter:
        case LogUniform(log_uniform=(low, high)) | Uniform(uniform=(low, high), step=None):
            return _rounded(value, low, high)
        case Choice() | Uniform():
            return _value_at(parameter, value)
        case _:
            return value
