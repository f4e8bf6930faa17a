"""What picking trials blindly brings: checked by trying every pick."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis import expected_best


@given(st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=1, max_size=7), st.data())
def test_it_is_the_mean_over_all_picks_that_have_a_value(values, data):
    picked = data.draw(st.integers(1, len(values)))
    bests = [
        min(known)
        for pick in combinations(values, picked)
        if (known := [v for v in pick if v is not None])
    ]
    expected = expected_best(values, picked)
    if bests:
        assert expected == pytest.approx(fmean(bests))
    else:
        assert expected is None


def test_one_pick_is_the_mean_and_all_picks_the_best():
    values = [3.0, 1.0, 2.0, None]
    assert expected_best(values, 1) == pytest.approx(2.0)
    assert expected_best(values, 4) == 1.0


def test_between_whole_numbers_of_picks_it_is_a_straight_line():
    values = [5.0, 3.0, 8.0, 1.0]
    two, three = expected_best(values, 2), expected_best(values, 3)
    assert two is not None
    assert three is not None
    assert expected_best(values, 2.25) == pytest.approx(0.75 * two + 0.25 * three)


def test_a_thousand_trials_do_not_overflow():
    assert expected_best([float(i) for i in range(1000)], 500) == pytest.approx(500.0 / 501.0)


@pytest.mark.parametrize("picked", [0, 0.5, 4.5])
def test_a_number_of_picks_that_is_not_there_is_refused(picked: float):
    with pytest.raises(ValueError, match="give a number from 1 to 4"):
        expected_best([1.0, 2.0, 3.0, 4.0], picked)
