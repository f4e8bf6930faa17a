"""Which trials no other beats, where a sweep has several objectives."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis import pareto_front

VALUES = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12)


def test_a_trial_that_is_worse_in_everything_is_not_on_the_front():
    values = {"a": (1.0, 5.0), "b": (2.0, 3.0), "c": (3.0, 4.0), "d": (4.0, 1.0)}
    assert pareto_front(values) == ["a", "b", "d"], "c loses to b; the best by the first leads"


def test_higher_is_better_where_the_sign_says_so():
    values = {"a": (1.0, 0.2), "b": (2.0, 0.9), "c": (3.0, 0.8)}
    assert pareto_front(values, [1.0, -1.0]) == ["a", "b"]


def test_equal_trials_are_both_on_the_front():
    assert pareto_front({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ["a", "b"]


def test_a_trial_that_lacks_a_figure_has_no_place():
    assert pareto_front({"a": (None, 0.0), "b": (1.0, None), "c": (2.0, 2.0)}) == ["c"]
    assert pareto_front({}) == []


@given(VALUES)
def test_the_front_is_exactly_what_nothing_dominates(points: list[tuple[int, ...]]):
    values = {str(i): tuple(map(float, p)) for i, p in enumerate(points)}

    def beaten(trial: str) -> bool:
        mine = values[trial]
        return any(
            other != mine and all(x <= y for x, y in zip(other, mine, strict=True))
            for other in values.values()
        )

    assert sorted(pareto_front(values)) == sorted(t for t in values if not beaten(t))


@given(VALUES)
def test_the_order_of_the_trials_does_not_matter(points: list[tuple[int, ...]]):
    values = {str(i): tuple(map(float, p)) for i, p in enumerate(points)}
    backwards = dict(reversed(values.items()))
    assert set(pareto_front(values)) == set(pareto_front(backwards))


def test_signs_turn_every_objective_alone():
    values = {"low": (0.0, 0.0), "high": (1.0, 1.0), "mixed": (0.0, 1.0)}
    fronts = {signs: pareto_front(values, signs) for signs in product((1.0, -1.0), repeat=2)}
    assert fronts == {
        (1.0, 1.0): ["low"],
        (-1.0, -1.0): ["high"],
        (1.0, -1.0): ["mixed"],
        (-1.0, 1.0): ["high", "low"],
    }
