"""The formulas of the early-stopping benchmark, against brute force and by hand."""

from __future__ import annotations

import math
import random
from itertools import combinations
from statistics import fmean

import pytest

from benchmarks.early.statistics import (
    binomial_interval,
    brier,
    expected_of_random,
    over_families,
    reliability,
)


def brute_force(values, scores, kept: int, nothing: float) -> float:
    """Mean score of the best of every subset of `kept` trials."""
    found = []
    for subset in combinations(range(len(values)), kept):
        alive = [i for i in subset if values[i] is not None]
        found.append(scores[min(alive, key=lambda i: values[i])] if alive else nothing)
    return fmean(found)


@pytest.mark.parametrize("seed", range(5))
def test_random_at_matched_compute_equals_the_mean_over_all_subsets(seed) -> None:
    rng = random.Random(seed)
    values: list[float | None] = [rng.gauss(0, 1) for _ in range(7)]
    values[seed] = None  # Failed.
    scores = [rng.random() for _ in range(7)]
    for kept in range(1, 8):
        expected = brute_force(values, scores, kept, 2.0)
        assert expected_of_random(values, scores, kept, 2.0) == pytest.approx(expected)


def test_random_between_two_whole_numbers_is_a_coin_between_them() -> None:
    values, scores = [3.0, 1.0, 2.0], [0.9, 0.0, 0.4]
    two, three = (expected_of_random(values, scores, k, 2.0) for k in (2, 3))
    assert expected_of_random(values, scores, 2.25, 2.0) == pytest.approx(0.75 * two + 0.25 * three)


def test_random_runs_at_least_one_trial_and_at_most_all() -> None:
    values, scores = [1.0, 2.0], [0.0, 1.0]
    assert expected_of_random(values, scores, 0.1, 2.0) == 0.5
    assert expected_of_random(values, scores, 2.3, 2.0) == 0.0


def test_random_with_everything_failed_scores_nothing() -> None:
    assert expected_of_random([None, None], [0.0, 0.0], 2, 2.0) == 2.0


def test_families_count_equally_however_many_draws_they_have() -> None:
    values = [("a", "a1", 1.0)] * 30 + [("a", "a2", 0.0)] + [("b", "b1", 0.2)]
    found = over_families(values, higher_is_better=True)
    assert found.mean == pytest.approx((0.5 + 0.2) / 2)
    assert found.families == pytest.approx({"a": 0.5, "b": 0.2})
    assert (found.worst_family, found.worst) == ("b", pytest.approx(0.2))
    assert found.low <= found.mean <= found.high


def test_the_interval_covers_families_not_draws() -> None:
    """A thousand draws of two sweeps that differ are still two pieces of evidence."""
    values = [("a", "a1", 0.0)] * 1000 + [("b", "b1", 1.0)] * 1000
    found = over_families(values, higher_is_better=True)
    assert (found.low, found.high) == (0.0, 1.0)
    assert found.worst_family == "a"
    assert over_families(values, higher_is_better=False).worst_family == "b"


def test_equal_values_leave_no_interval() -> None:
    found = over_families([("a", "x", 0.3), ("b", "y", 0.3)], higher_is_better=True)
    assert (found.low, found.high) == pytest.approx((0.3, 0.3))


def test_reliability_bins_hold_every_forecast_once() -> None:
    forecasts = [(0.05, False), (0.05, True), (0.95, True), (1.0, True), (0.1, False)]
    bins = reliability(forecasts)
    assert sum(b.count for b in bins) == len(forecasts)
    assert (bins[0].forecast, bins[0].came_true) == pytest.approx((0.05, 0.5))
    assert (bins[-1].low, bins[-1].count, bins[-1].came_true) == (0.9, 2, 1.0)


def test_brier_score_by_hand() -> None:
    assert brier([(0.8, True), (0.4, False)]) == pytest.approx((0.04 + 0.16) / 2)


def test_exact_binomial_interval_against_known_values() -> None:
    assert binomial_interval(0, 10) == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))
    low, high = binomial_interval(5, 10)
    assert (low, high) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert math.isclose(low, 1 - high)
