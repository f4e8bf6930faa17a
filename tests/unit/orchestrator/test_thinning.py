"""Thinned curves: few points, none of the striking ones lost, and what is shown stays put."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.store.thinning import chosen, level

numbers = st.just(float("nan")) | st.floats(-1e6, 1e6)
curves = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=400).map(
    lambda values: np.array(values, dtype=float).T
)
firsts = st.integers(1, 1000)


@given(curves, firsts, st.integers(8, 100))
def test_a_thinned_curve_keeps_its_order_its_ends_and_its_extremes(columns, first, max_points):
    steps = np.arange(first, first + columns.shape[1], dtype=float)
    kept = chosen(steps, list(columns), max_points)
    assert len(kept) <= max_points
    assert list(kept) == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, len(steps) - 1)
    for values in columns:
        shown = values[kept]
        if np.isnan(values).any():
            assert np.isnan(shown).any(), "a step that was not finite has vanished"
        if not np.isnan(values).all():
            assert np.nanmax(shown) == np.nanmax(values)
            assert np.nanmin(shown) == np.nanmin(values)


@given(curves, firsts, st.integers(8, 60))
def test_what_is_shown_of_a_growing_curve_stays_until_a_level_is_passed(columns, first, most):
    """Point after point arrives; the buckets that were full show the same as before."""
    steps = np.arange(first, first + columns.shape[1], dtype=float)
    before: set[int] = set()
    width = 1
    for n in range(1, len(steps) + 1):
        shown = {int(s) for s in steps[:n][chosen(steps[:n], list(columns[:, :n]), most)]}
        now = 1 << level(first, int(steps[n - 1]), most, 8)
        last = int(steps[n - 1]) // now
        assert now >= width, "a level was taken back"
        if now == width:
            past = {s for s in before if s // now < last}
            assert {s for s in shown if s // now < last} == past, "the past has changed"
        assert all(s // now == last for s in shown - before), "a point appeared in the past"
        before, width = shown, now


def test_a_coarser_level_shows_a_part_of_what_the_finer_one_showed():
    random = np.random.default_rng(0)
    steps = np.arange(1.0, 5001.0)
    columns = [random.normal(size=5000), random.normal(size=5000)]
    shown = [set(chosen(steps, columns, most)) for most in (4000, 2000, 1000, 500, 250, 100, 20)]
    assert all(coarse <= fine for fine, coarse in pairwise(shown))


def test_a_filtered_curve_is_cut_at_the_same_places():
    random = np.random.default_rng(1)
    steps = np.arange(1.0, 4097.0)
    loss = random.normal(size=4096)
    whole = {int(s) for s in steps[chosen(steps, [loss], 200)]}
    later = steps >= 1025
    part = {int(s) for s in steps[later][chosen(steps[later], [loss[later]], 150)]}
    width = 1 << level(1, 4096, 200, 5)
    assert width == 1 << level(1025, 4096, 150, 5)
    assert {s for s in whole if s // width > 1025 // width} <= part


def test_a_short_curve_is_left_as_it_is():
    steps = np.arange(1.0, 51.0)
    assert list(chosen(steps, [steps, steps], 50)) == list(range(50))


def test_room_for_two_shows_the_ends():
    steps = np.arange(1.0, 51.0)
    assert list(chosen(steps, [steps, steps], 2)) == [0, 49]


@pytest.mark.parametrize("gap", [1, 3, 1000])
def test_missing_steps_do_no_harm(gap: int):
    steps = np.arange(1.0, 300.0 * gap, gap)
    kept = chosen(steps, [np.sin(steps)], 40)
    assert 2 <= len(kept) <= 40


@given(firsts, st.integers(0, 5000), st.integers(5, 500))
def test_no_more_is_left_out_than_has_to_be(first, more, most):
    def points(k):
        return (((first + more) >> k) - (first >> k) + 1) * min(5, 1 << k)

    k = level(first, first + more, most, 5)
    assert points(k) <= most
    assert k == 0 or points(k - 1) > most


def test_each_bucket_shows_its_first_and_last_point():
    steps = np.arange(1, 201)
    shown = {int(s) for s in steps[chosen(steps.astype(float), [np.ones(200)], 100)]}
    width = 1 << level(1, 200, 100, 5)
    assert width > 2
    assert shown == {int(s) for s in steps if s % width in (0, width - 1)} | {1, 200}
