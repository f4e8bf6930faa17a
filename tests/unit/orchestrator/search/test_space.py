from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.search import SearchSpace
from orchestrator.search.space import rng, shuffled
from winnow.spec import Space


def space(**parameters) -> SearchSpace:
    return SearchSpace.of(Space.model_validate(parameters))


EVERY_KIND = space(
    learning_rate={"log_uniform": [1e-6, 1e-2]},
    effective_batch_size={"int_uniform": [8, 64], "step": 8},
    warmup_ratio={"uniform": [0.0, 0.3], "step": 0.1},
    weight_decay={"uniform": [0.0, 0.1]},
    schedule={"choice": ["linear", "constant"]},
    epochs=2,
)


def drawn(rng: random.Random) -> dict:
    found = EVERY_KIND.draw(rng)
    assert found is not None
    return found


COUNTABLE = space(
    effective_batch_size={"choice": [4, 16, 240]},
    warmup_ratio={"uniform": [0.1, 0.35], "step": 0.1},
    warmup_steps=None,
    seed={"int_uniform": [0, 3]},
    schedule="linear",
)


def test_every_index_is_another_configuration_and_they_are_all() -> None:
    assert COUNTABLE.size == 3 * 3 * 4
    configurations = [COUNTABLE.at(i) for i in range(36)]
    assert len({COUNTABLE.key(c) for c in configurations}) == 36
    assert {c["warmup_ratio"] for c in configurations} == {0.1, 0.2, 0.3}  # as a person writes them
    assert all(COUNTABLE.contains(c) for c in configurations)
    with pytest.raises(IndexError):
        COUNTABLE.at(36)


def test_a_space_of_a_billion_is_indexed_without_being_expanded() -> None:
    large = space(
        seed={"int_uniform": [1, 10**6]}, effective_batch_size={"int_uniform": [1, 10**4]}
    )
    assert large.size == 10**10
    seen = {large.key(large.at(shuffled(i, 10**10, seed=1))) for i in range(1000)}
    assert len(seen) == 1000


@given(size=st.integers(1, 400), seed=st.integers(0, 10))
def test_shuffled_visits_every_index_once(size: int, seed: int) -> None:
    assert sorted(shuffled(i, size, seed) for i in range(size)) == list(range(size))


def test_shuffled_follows_the_seed_and_is_no_sorted_walk() -> None:
    one, two = ([shuffled(i, 100, seed) for i in range(100)] for seed in (0, 1))
    assert one != two
    assert one != sorted(one)


@given(number=st.integers(0, 10_000))
def test_draws_lie_inside_and_survive_the_way_through_optuna(number: int) -> None:
    params = drawn(rng(0, number))
    assert EVERY_KIND.contains(params)
    assert list(params) == list(EVERY_KIND.parameters)
    assert params["epochs"] == 2
    again = EVERY_KIND.from_optuna(EVERY_KIND.to_optuna(params))
    assert EVERY_KIND.key(again) == EVERY_KIND.key(params)
    assert EVERY_KIND.key({**params, "effective_batch_size": 9}) != EVERY_KIND.key(params)


def test_optuna_sees_each_parameter_that_varies_within_its_bounds() -> None:
    distributions = EVERY_KIND.distributions()
    assert "epochs" not in distributions
    for number in range(50):
        params = EVERY_KIND.to_optuna(drawn(random.Random(number)))
        for name, distribution in distributions.items():
            assert distribution._contains(distribution.to_internal_repr(params[name]))


def test_log_draws_are_even_over_the_decades() -> None:
    draws = [drawn(random.Random(n))["learning_rate"] for n in range(2000)]
    below = sum(isinstance(d, float) and d < 1e-4 for d in draws)
    assert 900 < below < 1100


def test_true_and_one_are_different_choices() -> None:
    mixed = space(schedule={"choice": [True, 1, "1"]})
    keys = {mixed.key(mixed.from_optuna(mixed.to_optuna({"schedule": v}))) for v in (True, 1, "1")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "outside", [{"learning_rate": 1.0}, {"effective_batch_size": 12}, {"schedule": "cosine"}, {}]
)
def test_what_lies_outside_is_known(outside: dict) -> None:
    params = drawn(random.Random(0)) if outside else {}
    assert not EVERY_KIND.contains({**params, **outside})
