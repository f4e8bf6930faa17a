"""The forecast and the risk against sweeps whose law is known."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from orchestrator.schedulers.forecast import WORLDS, correlation, forecast, normal_scores
from orchestrator.schedulers.guard import permutation_p, watch
from orchestrator.schedulers.risk import measure, measure_front
from orchestrator.schedulers.transfer import broad

UNKNOWN = broad().worlds(same=False)
SAME = broad().worlds(same=True)
PERFECT = np.where(WORLDS[:, 3] == 1.0, SAME, 0.0)

TIMES = (0.125, 0.25, 0.5, 1.0)


def lived(rng: np.random.Generator, n: int, decay: float) -> np.ndarray:
    """(n, 4) places of an Ornstein-Uhlenbeck process in log time."""
    places = [rng.standard_normal(n)]
    for before, after in pairwise(TIMES):
        rho = (before / after) ** decay
        places.append(rho * places[-1] + np.sqrt(1 - rho**2) * rng.standard_normal(n))
    return np.column_stack(places)


@pytest.mark.parametrize("decay", [0.02, 0.3, 1.2])
def test_it_learns_how_well_places_persist(decay: float) -> None:
    found = forecast(lived(np.random.default_rng(1), 400, decay), TIMES, UNKNOWN)
    truth = 0.125**decay
    mean, low, high = found.persistence(0.125)
    assert low - 0.08 <= truth <= high + 0.08
    assert mean == pytest.approx(truth, abs=0.15)


def test_it_learns_the_same_though_only_the_better_half_goes_on() -> None:
    scores = lived(np.random.default_rng(2), 800, 0.3)
    for at in range(1, 4):
        behind = scores[:, at - 1] > np.nanmedian(scores[:, at - 1])
        scores[behind | np.isnan(scores[:, at - 1]), at:] = np.nan
    mean, _, _ = forecast(scores, TIMES, UNKNOWN).persistence(0.125)
    assert mean == pytest.approx(0.125**0.3, abs=0.2)


def test_the_risk_it_announces_is_the_one_that_is_met() -> None:
    """Sweeps of the prior's own worlds; the worse half is given up at a quarter of the budget."""
    rng = np.random.default_rng(3)
    weights = PERFECT / PERFECT.sum()
    announced, met = [], []
    for _ in range(300):
        decay, late, noise, _ = WORLDS[rng.choice(len(WORLDS), p=weights)]
        place = rng.standard_normal(20)
        scores = np.empty((20, 4))
        for at, time in enumerate(TIMES):
            if at:
                before = TIMES[at - 1]
                rho = (before / time) ** decay * np.ones(20)
                rho[rng.random(20) < late * (time - before)] = 0.0  # a fresh start
                place = rho * place + np.sqrt(1 - rho**2) * rng.standard_normal(20)
            error = rng.standard_normal(20)
            scores[:, at] = np.sqrt(1 - noise) * place + np.sqrt(noise) * error
        seen = scores.copy()
        given_up = scores[:, 1] > np.median(scores[:, 1])
        seen[given_up, 2:] = np.nan
        found = forecast(seen, TIMES, weights)
        announced.append(measure(found.draws, ~given_up, tie=0.0).taken)
        met.append(given_up[np.argmin(scores[:, 3])])
    error = np.sqrt(np.mean(met) * (1 - np.mean(met)) / len(met))
    assert np.mean(announced) == pytest.approx(np.mean(met), abs=3 * error + 0.02)
    high, low = (np.mean(np.array(met)[s]) for s in _halves(announced))
    assert high > low  # and where it announces more, more is lost


def _halves(values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    middle = np.median(values)
    return np.array(values) > middle, np.array(values) <= middle


def test_trials_that_ended_keep_their_order_in_every_draw() -> None:
    scores = lived(np.random.default_rng(4), 10, 0.5)
    scores[6:, 3] = np.nan
    draws = forecast(scores, TIMES, UNKNOWN).draws
    order = np.argsort(scores[:6, 3])
    assert (np.diff(draws[:, :6][:, order], axis=1) > 0).all()


def test_a_trial_s_draws_do_not_hang_on_how_many_others_there_are() -> None:
    few, many = (forecast(np.full((n, 4), np.nan), TIMES, UNKNOWN).draws[:, :5] for n in (5, 300))
    assert np.array_equal(few, many)


def test_missing_infinite_and_equal_scores_are_no_trouble() -> None:
    scores = np.full((6, 4), np.nan)
    assert np.isfinite(forecast(scores, TIMES, UNKNOWN).draws).all()
    scores[:, 0] = 1.0
    assert np.isfinite(forecast(scores, TIMES, UNKNOWN).draws).all()
    scores[2, 1] = np.inf
    scores[3, 2] = 0.5  # was not seen at the second point
    found = forecast(scores, TIMES, UNKNOWN, out=np.arange(6) == 5)
    assert np.isfinite(found.draws[:, :5]).all()
    assert np.isposinf(found.draws[:, 5]).all()
    assert forecast(np.empty((0, 4)), TIMES, UNKNOWN).draws.shape[1] == 0


def test_an_outcome_of_another_kind_is_doubted_until_it_agrees() -> None:
    scores = lived(np.random.default_rng(5), 24, 0.02)
    behind = scores[:, 2] > np.sort(scores[:, 2])[1]
    scores[behind, 3] = np.nan
    doubted = measure(forecast(scores, TIMES, UNKNOWN).draws, ~behind, tie=0.1).taken
    known = measure(forecast(scores, TIMES, PERFECT / PERFECT.sum()).draws, ~behind, tie=0.1).taken
    assert doubted > known + 0.05


def test_correlations_fall_with_time_and_are_one_at_once() -> None:
    rho = correlation(np.array(TIMES), 1.0)
    assert (np.diff(rho, axis=1) >= -1e-12).all()
    assert (rho[:, -1] == 1.0).all()


# --- risk -----------------------------------------------------------------------------------------


def test_the_front_is_what_nobody_beats_in_everything() -> None:
    rng = np.random.default_rng(6)
    draws = [rng.standard_normal((20, 6)).round(1) for _ in range(2)]
    kept = np.array([True, False, True, False, False, False])
    found = measure_front(draws, kept)
    for d, i in product(range(20), range(6)):
        beaten = any(
            draws[0][d, j] <= draws[0][d, i]
            and draws[1][d, j] <= draws[1][d, i]
            and (draws[0][d, j] < draws[0][d, i] or draws[1][d, j] < draws[1][d, i])
            for j in range(6)
        )
        assert found.best[d, i] == (not beaten)
    front = found.best.sum(axis=1)
    assert found.lost == pytest.approx((found.best & ~kept).sum(axis=1) / front)


def test_keeping_a_trial_lowers_the_risk_by_its_gain() -> None:
    draws = np.random.default_rng(7).standard_normal((256, 8))
    kept = np.arange(8) < 2
    before = measure(draws, kept, tie=0.1)
    for i in range(8):
        after = measure(draws, kept | (np.arange(8) == i), tie=0.1)
        assert before.taken - after.taken == pytest.approx(before.gain()[i])


# --- guard ----------------------------------------------------------------------------------------


def test_the_permutation_p_is_small_for_order_and_large_against_it() -> None:
    values = np.arange(12.0)
    assert permutation_p(values, values) <= 0.01
    assert permutation_p(values, -values) > 0.9


def test_the_guard_fires_for_each_of_its_reasons_and_not_else() -> None:
    worlds, persistence = np.array([0.5, 0.5]), np.array([0.05, 0.9])
    order = np.arange(12.0)

    def fired(worlds=worlds, last=order, false=(0, 0)) -> bool:
        return watch(order, last, worlds, persistence, false, 0.05).fired

    assert not fired()
    assert fired(worlds=np.array([0.95, 0.05]))
    assert fired(last=-order)
    assert fired(false=(4, 10))
    assert not fired(false=(0, 20))


def test_normal_scores_share_ranks_among_equals() -> None:
    scores = normal_scores(np.array([3.0, 1.0, 1.0, np.inf]))
    assert scores[1] == scores[2] < scores[0] < scores[3]
    assert normal_scores(np.arange(5.0)) == pytest.approx(-normal_scores(-np.arange(5.0)))
