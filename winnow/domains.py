"""What values a parameter can take: how many, which comes where, one at random.

A space is never expanded: values are computed from their position.
"""

from __future__ import annotations

import math
import random
from typing import Any

from winnow.space import Choice, Fixed, IntUniform, LogUniform, Scalar, Uniform

Domain = Uniform | LogUniform | IntUniform | Choice | Fixed

SIGNIFICANT_DIGITS = 4
"""Continuous draws are rounded to this: a person reads them, and training can't tell."""


def is_countable(domain: Domain) -> bool:
    """Whether its values can be counted: it isn't a range of real numbers."""
    return not isinstance(domain, LogUniform) and not (
        isinstance(domain, Uniform) and domain.step is None
    )


def count(domain: Domain) -> int:
    """How many values there are. Raises TypeError if they can't be counted."""
    match domain:
        case Choice():
            return len(domain.choice)
        case IntUniform():
            low, high = domain.int_uniform
            return (high - low) // domain.step + 1
        case Uniform(step=float() as step):
            low, high = domain.uniform
            return math.floor((high - low) / step + 1e-9) + 1
        case Fixed():
            return 1
        case _:
            raise TypeError(f"{domain!r} is continuous")


def value_at(domain: Domain, position: int) -> Scalar:
    """Value number `position`, from 0. Raises TypeError if they can't be counted."""
    match domain:
        case Choice():
            return domain.choice[position]
        case IntUniform():
            return domain.int_uniform[0] + position * domain.step
        case Uniform(step=float() as step):
            low, high = domain.uniform
            # 0.1 + 2 * 0.1 is 0.30000000000000004; a person wrote 0.3.
            return min(float(f"{low + position * step:.12g}"), high)
        case Fixed():
            return domain.fixed
        case _:
            raise TypeError(f"{domain!r} is continuous")


def draw(domain: Domain, rng: random.Random) -> Scalar:
    """One value at random, spread as the parameter says."""
    match domain:
        case LogUniform():
            low, high = domain.log_uniform
            return rounded(math.exp(rng.uniform(math.log(low), math.log(high))), low, high)
        case Uniform(step=None):
            low, high = domain.uniform
            return rounded(rng.uniform(low, high), low, high)
        case IntUniform(log=True):
            low, high = domain.int_uniform
            # Each whole number owns the half unit on either side, as in Optuna.
            drawn = math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
            return min(max(round(drawn), low), high)
        case _:
            return value_at(domain, rng.randrange(count(domain)))


def rounded(value: float, low: float, high: float) -> float:
    """A drawn number as it is written down."""
    if high - low < 0.1 * max(abs(low), abs(high)):
        return min(max(value, low), high)  # In so narrow a range the digits are the difference.
    return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high)


def contains(domain: Domain, value: Any) -> bool:
    """Whether `value` is one of them, and of the right type."""
    match domain:
        case LogUniform(log_uniform=(low, high)) | Uniform(uniform=(low, high)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            return low <= value <= high
        case IntUniform(int_uniform=(low, high)):
            if isinstance(value, bool) or not isinstance(value, int):
                return False
            return low <= value <= high and (value - low) % domain.step == 0
        case Choice():
            return any(type(c) is type(value) and c == value for c in domain.choice)
        case Fixed():
            return type(domain.fixed) is type(value) and domain.fixed == value
