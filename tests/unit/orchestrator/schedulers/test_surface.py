from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.schedulers.surface import PENALTIES, TERMS, fit_surface

RNG = np.random.default_rng(0)
RATE = RNG.uniform(-14, -6, 60)
BATCH = np.log(RNG.choice([8, 32, 128, 512], 60))
ONES = np.ones(60)


def bowl(rate: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """The best rate moves with the batch."""
    return (rate + 10 - 0.5 * (batch - 4)) ** 2


def test_recovers_a_quadratic_with_interaction() -> None:
    surface = fit_surface(RATE, BATCH, bowl(RATE, BATCH), ONES, penalty=1e-9)
    new_rate, new_batch = np.array([-12.5, -9.0, -7.0]), np.log([8, 64, 512])
    assert surface.predict(new_rate, new_batch) == pytest.approx(bowl(new_rate, new_batch))
    assert surface.leave_one_out == pytest.approx(bowl(RATE, BATCH), abs=1e-4)
    assert surface.error < 1e-6


@pytest.mark.parametrize("penalty", [0.3, 5.0])
def test_leave_one_out_is_what_a_fit_without_the_observation_says(penalty: float) -> None:
    y = bowl(RATE, BATCH) + RNG.normal(0, 2, 60)
    weights = RNG.uniform(0.2, 1.0, 60)
    whole = fit_surface(RATE, BATCH, y, weights, penalty=penalty, level=3.0)
    for i in (0, 7, 31):
        without = weights.copy()
        without[i] = 0.0
        again = fit_surface(RATE, BATCH, y, without, penalty=penalty, level=3.0)
        assert whole.leave_one_out[i] == pytest.approx(again.leave_one_out[i])
        assert again.predict(RATE[i : i + 1], BATCH[i : i + 1])[0] == pytest.approx(
            whole.leave_one_out[i]
        )


def test_where_the_surface_says_nothing_leaving_out_does_not_turn_the_ranks_round() -> None:
    """An intercept that is fitted anew would put the best observation last."""
    y = RNG.normal(size=40)
    alike = fit_surface(np.full(40, -9.0), np.full(40, 3.0), y, np.ones(40))
    assert np.ptp(alike.leave_one_out) == 0
    slopes: list[float] = []
    for _ in range(200):
        y = RNG.normal(size=30)
        rate, batch = RNG.uniform(-14, -6, 30), np.log(RNG.choice([8, 64], 30))
        left_out = fit_surface(rate, batch, y, np.ones(30), level=0.0).leave_one_out
        slopes.append(float(np.corrcoef(y, left_out)[0, 1]))
    assert abs(np.mean(slopes)) < 0.06


def test_a_weight_of_zero_is_a_prediction_without_a_say() -> None:
    y = bowl(RATE, BATCH)
    weights = np.where(np.arange(60) < 40, 1.0, 0.0)
    lied = np.where(np.arange(60) < 40, y, 1e6)
    honest, other = (fit_surface(RATE, BATCH, v, weights, penalty=0.1) for v in (y, lied))
    assert other.leave_one_out == pytest.approx(honest.leave_one_out)
    assert other.leave_one_out[40:] == pytest.approx(other.predict(RATE[40:], BATCH[40:]))
    nothing = fit_surface(RATE, BATCH, np.full(60, math.nan), np.zeros(60))
    assert nothing.leave_one_out.tolist() == [0.0] * 60


def test_a_missing_parameter_stands_in_the_middle_of_its_axis() -> None:
    rate = RATE.copy()
    rate[3] = math.nan
    surface = fit_surface(rate, BATCH, bowl(RATE, BATCH), ONES)
    middle = np.nanmean(rate)
    assert np.isfinite(surface.leave_one_out).all()
    assert surface.predict([math.nan], [4.0]) == pytest.approx(surface.predict([middle], [4.0]))
    only_batch = fit_surface(np.full(60, math.nan), BATCH, BATCH, ONES, penalty=1e-9)
    assert only_batch.leave_one_out == pytest.approx(BATCH, abs=1e-6)


@pytest.mark.parametrize(("n", "value"), [(1, 2.0), (5, 2.0), (0, 0.0)])
def test_equal_values_few_points_or_none(n: int, value: float) -> None:
    surface = fit_surface(RATE[:n], BATCH[:n], np.full(n, value), np.ones(n))
    assert surface.leave_one_out == pytest.approx(np.full(n, value))
    assert surface.predict([-9.0], [3.0]) == pytest.approx([value])
    assert len(surface.coefficients) == len(TERMS)


def test_the_penalty_with_the_least_error_is_taken() -> None:
    noise = RNG.normal(size=60)
    errors = {p: fit_surface(RATE, BATCH, noise, ONES, penalty=p).error for p in PENALTIES}
    chosen = fit_surface(RATE, BATCH, noise, ONES)
    assert chosen.penalty == min(errors, key=lambda p: errors[p])
    assert chosen.error == pytest.approx(min(errors.values()))
    assert fit_surface(RATE, BATCH, bowl(RATE, BATCH), ONES).penalty == min(PENALTIES)
    with pytest.raises(ValueError, match="at least one penalty"):
        fit_surface(RATE, BATCH, noise, ONES, penalty=())


def test_scales_and_units_do_not_matter() -> None:
    y = bowl(RATE, BATCH)
    plain = fit_surface(RATE, BATCH, y, ONES).leave_one_out
    scaled = fit_surface(RATE / math.log(10) + 3, BATCH * 7, 5 * y + 1, ONES).leave_one_out
    assert scaled == pytest.approx(5 * plain + 1)
