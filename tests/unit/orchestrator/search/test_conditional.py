"""Every sampler under conditions and constraints: only what is active, only what is allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.search import Proposer, SearchSpace, Told, make_proposer
from winnow.spec import Search, Space
from winnow.types import TrialState

SPACE = Space.model_validate(
    {
        "learning_rate": {"log_uniform": [1e-6, 1e-1]},
        "effective_batch_size": {"int_uniform": [8, 4096], "log": True},
        "schedule": {"choice": ["constant", "cosine"]},
        "warmup_ratio": {"uniform": [0.0, 0.1], "when": "schedule != 'constant'"},
        "weight_decay": {"choice": [0.0, 0.1], "when": "warmup_ratio > 0.05"},
    }
)
LIMIT = "learning_rate * effective_batch_size < 0.01"
COUNTABLE = Space.model_validate(
    {
        "learning_rate": {"choice": [1e-5, 1e-4, 1e-3]},
        "effective_batch_size": {"choice": [4, 16, 64]},
        "schedule": {"choice": ["constant", "cosine"]},
        "warmup_ratio": {"choice": [0.0, 0.05, 0.1], "when": "schedule != 'constant'"},
    }
)
PRODUCT = "learning_rate * effective_batch_size < 0.05"
ALLOWED = (3 * 3 - 1) * (1 + 3)
SAMPLERS = ("random", "tpe")


def proposer(sampler: str, space: Space, *constraints: str, seed: int = 0) -> Proposer:
    search = Search.model_validate({"sampler": sampler, "trials": 30, "seed": seed})
    return make_proposer(space, search, constraints, {"warmup_ratio": None})


def badness(params: dict[str, Any]) -> float:
    """Best at a rate of 1e-4 with a cosine and a ratio of 0.03."""
    miss = (math.log10(params["learning_rate"]) + 4) ** 2
    if params["schedule"] == "constant":
        return miss + 2
    return miss + abs(params["warmup_ratio"] - 0.03) * 20


def run(ask: Proposer, trials: int) -> list[Told]:
    history: list[Told] = []
    for number in range(trials):
        params = ask.ask(number, history)
        if params is None:
            break
        history.append(Told(number, params, TrialState.COMPLETED, value=badness(params)))
    return history


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_configuration_has_what_is_active_and_meets_the_constraints(sampler: str) -> None:
    history = run(proposer(sampler, SPACE, LIMIT), 40)
    assert len(history) == 40
    for params in (told.params for told in history):
        assert ("warmup_ratio" in params) == (params["schedule"] == "cosine")
        assert ("weight_decay" in params) == (params.get("warmup_ratio", 0) > 0.05)
        assert params["learning_rate"] * params["effective_batch_size"] < 0.01
    assert {"constant", "cosine"} == {t.params["schedule"] for t in history}


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_a_countable_space_is_tried_once_each_and_then_used_up(sampler: str) -> None:
    history = run(proposer(sampler, COUNTABLE, PRODUCT), 50)
    assert len({tuple(t.params.items()) for t in history}) == len(history) == ALLOWED


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_a_rebuilt_proposer_goes_on_with_the_same_suggestion(sampler: str) -> None:
    space = COUNTABLE if sampler == "grid" else SPACE
    history = run(proposer(sampler, space, LIMIT), 16)
    for cut in range(0, 16, 3):
        rebuilt = proposer(sampler, space, LIMIT)
        assert rebuilt.ask(cut, history[:cut][::-1]) == history[cut].params


def test_tpe_learns_where_parameters_come_and_go() -> None:
    def late(sampler: str) -> float:
        found = [run(proposer(sampler, SPACE, LIMIT, seed=seed), 40)[25:] for seed in range(2)]
        values = [told.value or 0.0 for history in found for told in history]
        return sum(values) / len(values)

    assert late("tpe") < 0.6 * late("random")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_rare_corner_of_the_space_is_found_again_and_again(sampler: str) -> None:
    """Two in a thousand of the draws are allowed."""
    history = run(proposer(sampler, SPACE, "2e-4 < learning_rate < 2.05e-4"), 20)
    assert len(history) == 20
    assert all(2e-4 < told.params["learning_rate"] < 2.05e-4 for told in history)


def test_a_value_that_is_not_active_makes_no_difference() -> None:
    space = SearchSpace.of(COUNTABLE)
    plain = {"learning_rate": 1e-5, "effective_batch_size": 4, "schedule": "constant"}
    assert space.key(plain) == space.key(plain | {"warmup_ratio": 0.05})
    assert space.key(plain) != space.key(plain | {"schedule": "cosine", "warmup_ratio": 0.05})
    assert space.key(plain) != space.key(plain | {"seed": 1})  # a user's own, outside the space
    assert space.contains(plain)
    assert not space.contains(plain | {"warmup_ratio": 0.05})


def test_what_a_user_has_added_is_no_lesson_but_is_not_proposed_again() -> None:
    ask = proposer("grid", COUNTABLE, PRODUCT)
    first = ask.ask(0, [])
    assert first is not None
    own = Told(0, first, TrialState.COMPLETED, value=1.0)
    outside = Told(1, first | {"learning_rate": 7.0}, TrialState.COMPLETED, value=0.0)
    history = [own, outside]
    while (params := ask.ask(len(history), history)) is not None:
        assert params != first
        history.append(Told(len(history), params, TrialState.COMPLETED, value=1.0))
    assert len(history) == ALLOWED + 1
    tpe = run(proposer("tpe", SPACE, LIMIT), 12)
    strange = Told(12, {"learning_rate": 3.0, "schedule": "linear"}, TrialState.RUNNING)
    assert proposer("tpe", SPACE, LIMIT).ask(13, [*tpe, strange]) is not None
