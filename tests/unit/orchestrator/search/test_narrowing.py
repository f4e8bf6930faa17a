"""A narrower space lies in the one before; a user's own configuration can be run at all."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.search import check_params, merged, narrowed
from winnow.spec import Space

OLD: dict[str, Any] = {
    "learning_rate": {"log_uniform": [1e-6, 1e-2]},
    "effective_batch_size": {"choice": [4, 16, 64]},
    "schedule": {"choice": ["linear", "cosine", "constant"]},
    "warmup_ratio": {"uniform": [0.0, 0.3], "step": 0.1, "when": "schedule != 'constant'"},
    "weight_decay": {"uniform": [0.0, 0.1]},
    "seed": {"int_uniform": [0, 100], "step": 10},
    "epochs": 2,
}
SPACE = Space.model_validate(OLD)


@pytest.mark.parametrize(
    "part",
    [
        {"learning_rate": {"log_uniform": [1e-5, 1e-3]}},
        {"learning_rate": {"uniform": [1e-5, 1e-3]}},
        {"learning_rate": {"choice": [1e-5, 1e-3]}},
        {"learning_rate": 1e-4},
        {"effective_batch_size": {"choice": [16, 4]}},
        {"schedule": "linear"},
        {"warmup_ratio": {"choice": [0.1, 0.3]}},
        {"warmup_ratio": {"uniform": [0.1, 0.3], "step": 0.1}},
        {"weight_decay": {"uniform": [0.0, 0.05], "step": 0.01}},
        {"seed": {"int_uniform": [20, 60], "step": 20}},
        {"epochs": 2},
        OLD,
        {},
    ],
)
def test_a_part_of_the_space_will_do(part: dict[str, Any]) -> None:
    assert narrowed(SPACE, Space.model_validate(part)) == []


@pytest.mark.parametrize(
    ("part", "pointer", "said"),
    [
        ({"learning_rate": {"log_uniform": [1e-7, 1e-3]}}, "/space/learning_rate",
         "1e-07 is outside: learning_rate was a number from 1e-06 to 0.01; give a part of that"),
        ({"learning_rate": {"choice": [1e-3, 1.0]}}, "/space/learning_rate", "1 is outside"),
        ({"effective_batch_size": {"choice": [4, 8]}}, "/space/effective_batch_size",
         "8 is outside: effective_batch_size was one of 4, 16, 64"),
        ({"effective_batch_size": {"int_uniform": [4, 64]}}, "/space/effective_batch_size",
         "5 is outside"),
        ({"schedule": "sqrt"}, "/space/schedule", "'sqrt' is outside"),
        ({"warmup_ratio": {"uniform": [0.0, 0.2]}}, "/space/warmup_ratio",
         "a continuous range isn't a part of single values"),
        ({"warmup_ratio": {"choice": [0.15]}}, "/space/warmup_ratio",
         "0.15 is outside: warmup_ratio was a number from 0 to 0.3 in steps of 0.1"),
        ({"weight_decay": {"uniform": [0.0, 0.2], "step": 1e-6}}, "/space/weight_decay",
         "0.2 is outside"),
        ({"seed": {"int_uniform": [0, 100]}}, "/space/seed",
         "1 is outside: seed was a whole number from 0 to 100 in steps of 10"),
        ({"epochs": 3}, "/space/epochs", "3 is outside: epochs was always 2"),
        ({"optimizer": "sgd"}, "/space/optimizer", "optimizer doesn't vary in this sweep"),
        ({"warmup_ratio": {"choice": [0.1], "when": "seed > 1"}}, "/space/warmup_ratio/when",
         "leave `when` out"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(part: dict[str, Any], pointer: str, said: str) -> None:
    ((at, message),) = narrowed(SPACE, Space.model_validate(part))
    assert at == pointer
    assert said in message


def test_a_narrower_parameter_keeps_its_condition_and_the_others_stay() -> None:
    space = merged(SPACE, Space.model_validate({"warmup_ratio": {"choice": [0.1]}, "seed": 10}))
    assert space.warmup_ratio is not None
    assert space.warmup_ratio.when == "schedule != 'constant'"
    assert space.learning_rate == SPACE.learning_rate
    assert narrowed(SPACE, space) == []


OWN = {
    "learning_rate": 1.0,  # outside of the space, and possible
    "effective_batch_size": 4,
    "schedule": "constant",
    "weight_decay": 0.5,
    "seed": 1,
    "epochs": 3,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"schedule": "linear", "warmup_ratio": 0.5}, None),
        ({"optimizer": "sgd"}, None),
        ({"learning_rate": "high"}, "learning_rate: "),
        ({"learning_rate": "0.1"}, "learning_rate: write learning_rate as a number"),
        ({"learning_rate": -1.0}, "learning_rate: Input should be greater than 0"),
        ({"seed": True}, "seed: seed does not take true"),
        ({"learningrate": 1.0}, "learningrate: is no parameter (did you mean learning_rate?)"),
        ({"warmup_ratio": 0.1}, "warmup_ratio: is only set when schedule != 'constant', which"),
        ({"schedule": "linear"}, "warmup_ratio: is missing; give it a value"),
        ({"effective_batch_size": 5000}, "constraints: 'learning_rate * effective_batch_size < 1000"
         "' isn't met by effective_batch_size = 5000, learning_rate = 1.0; change one of them"),
    ],
)  # fmt: skip
def test_a_configuration_of_ones_own_must_be_possible(
    change: dict[str, Any], said: str | None
) -> None:
    limits = ["learning_rate * effective_batch_size < 1000"]
    problems = check_params(SPACE, limits, OWN | change)
    assert len(problems) == (said is not None)
    assert all(problem.startswith(said or "") for problem in problems)
