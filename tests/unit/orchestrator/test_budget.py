"""What a sweep has spent, will have spent, and when that ends it."""

from __future__ import annotations

import pytest

from orchestrator.budget import Used, account, exhausted, no_more_trials
from winnow.spec import Budget
from winnow.types import Spending

HALF = Used(trials=4, hours=2.0, gpu_hours=10.0)


def spending(budget: Budget, used: Used = HALF, done: float = 0.5) -> dict[str, Spending]:
    return {s.what: s for s in account(budget, used, done=done, planned=12)}


def test_a_projection_takes_the_pace_so_far_to_last() -> None:
    told = spending(Budget(gpu_hours=15, cost=100, cost_per_gpu_hour=2.5))
    assert told["hours"].projected == pytest.approx(4.0)
    assert told["gpu_hours"].projected == pytest.approx(20.0)
    assert told["gpu_hours"].limit == 15
    assert told["cost"].used == pytest.approx(25.0)
    assert told["cost"].projected == pytest.approx(50.0)
    assert told["trials"].projected == 12


def test_nothing_is_projected_from_the_first_moments() -> None:
    told = spending(Budget(hours=3), done=0.001)
    assert told["hours"].projected is None
    assert told["hours"].used == 2.0


def test_at_the_end_the_projection_is_what_was_used() -> None:
    assert spending(Budget(), done=1.0)["hours"].projected == 2.0


def test_a_sweep_without_gpus_or_a_rate_shows_neither() -> None:
    told = spending(Budget(), Used(trials=1, hours=1.0, gpu_hours=0.0))
    assert set(told) == {"trials", "hours"}


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (Budget(hours=2.0), "the budget is used up: 2 of 2 hours"),
        (Budget(gpu_hours=9.5), "the budget is used up: 10 of 9.5 GPU-hours"),
        (Budget(cost=25, cost_per_gpu_hour=2.5), "the budget is used up: 25 of 25 in cost"),
    ],
)
def test_a_limit_that_is_reached_ends_the_sweep_and_is_named(budget: Budget, sentence: str) -> None:
    assert exhausted(budget, HALF) == sentence


def test_below_every_limit_a_sweep_goes_on() -> None:
    roomy = Budget(trials=4, hours=2.1, gpu_hours=10.1, cost=25.1, cost_per_gpu_hour=2.5)
    assert exhausted(roomy, HALF) is None
    assert exhausted(Budget(), HALF) is None


def test_the_limit_on_trials_keeps_new_ones_from_starting_and_ends_none() -> None:
    assert exhausted(Budget(trials=4), HALF) is None
    assert no_more_trials(Budget(trials=4), HALF) == "the budget is used up: 4 of 4 trials"
    assert no_more_trials(Budget(trials=5), HALF) is None
    assert no_more_trials(Budget(), HALF) is None
