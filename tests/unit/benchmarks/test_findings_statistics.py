"""The statistics of the findings page against truths that are known."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from benchmarks.findings import power, statistics
from benchmarks.findings.statistics import (
    Block,
    compare_groups,
    compare_orders,
    contrast,
    correlate,
    correlation,
    equivalence,
    holm,
    shift,
)

NOTHING = np.empty((0, 0))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for these tests; the page draws more."""
    monkeypatch.setattr(statistics, "PERMUTATIONS", 399)
    monkeypatch.setattr(statistics, "BOOTSTRAPS", 399)


def block(x: np.ndarray, y: np.ndarray, z: np.ndarray = NOTHING, name: str = "a") -> Block:
    return Block(name, x, y, z if z.size else np.empty((len(x), 0)))


def noise(draw: np.random.Generator, n: int, covariates: int, name: str = "a") -> Block:
    x, y = draw.normal(size=(2, n))
    return block(x, y, draw.normal(size=(n, covariates)), name)


def related(draw: np.random.Generator, n: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    x = draw.normal(size=n)
    return x, rho * x + math.sqrt(1 - rho**2) * draw.normal(size=n)


def test_the_correlation_is_spearmans() -> None:
    x, y = related(np.random.default_rng(0), 40, 0.5)
    assert correlation(block(x, y)) == pytest.approx(stats.spearmanr(x, y)[0])


def test_every_sweep_weighs_the_same() -> None:
    draw = np.random.default_rng(0)
    large = block(*related(draw, 300, 0.9), name="large")
    small = block(*related(draw, 10, 0.0), name="small")
    found = correlate([large, small])
    assert found is not None
    assert found.value == pytest.approx((correlation(large) + correlation(small)) / 2)


def test_a_run_without_a_finite_loss_ranks_last() -> None:
    x = np.arange(6.0)
    with_failure = correlation(block(x, np.array([1.0, 2.0, 3.0, 4.0, 5.0, -math.inf])))
    assert with_failure == correlation(block(x, np.array([1.0, 2.0, 3.0, 4.0, 5.0, -100.0])))


def test_an_outcome_that_never_differs_has_no_correlation() -> None:
    assert correlate([block(np.arange(8.0), np.ones(8))]) is None


def test_the_partial_correlation_recovers_what_rate_and_batch_hide() -> None:
    draw = np.random.default_rng(1)
    rate, batch = draw.normal(size=(2, 800))
    z = np.column_stack([rate, rate**2, batch, rate * batch])
    for rho in (0.0, 0.6):
        e, f = related(draw, 800, rho)
        x, y = e + rate + 0.5 * batch, f - rate - 0.5 * batch
        assert correlation(block(x, y)) < -0.2
        assert correlation(block(x, y, z)) == pytest.approx(rho, abs=0.1)


def test_with_fewer_configurations_than_covariates_need_there_is_no_partial_correlation() -> None:
    draw = np.random.default_rng(2)
    assert math.isnan(correlation(noise(draw, 7, 4)))


@pytest.mark.parametrize("covariates", [0, 4])
def test_the_permutation_p_is_uniform_where_there_is_nothing(covariates: int) -> None:
    draw = np.random.default_rng(3)
    found = []
    for _ in range(120):
        blocks = [noise(draw, 14, covariates, name=str(i)) for i in range(3)]
        estimate = correlate(blocks)
        assert estimate is not None
        found.append(estimate.p)
    assert stats.kstest(found, "uniform")[1] > 0.02
    assert np.mean(np.array(found) < 0.05) < 0.12


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(4)
    rho = 0.5
    truth = 6 / math.pi * math.asin(rho / 2)  # Spearman's of a bivariate normal.
    covered = 0
    for _ in range(120):
        found = correlate([block(*related(draw, 26, rho), name=str(i)) for i in range(5)])
        assert found is not None
        covered += found.interval[0] <= truth <= found.interval[1]
    assert covered / 120 >= 0.85


def test_the_same_data_give_the_same_interval_and_p() -> None:
    blocks = [block(*related(np.random.default_rng(5), 20, 0.3))]
    assert correlate(blocks) == correlate(blocks)


def test_a_predictor_adds_nothing_to_itself_and_something_to_noise() -> None:
    draw = np.random.default_rng(6)
    x, y = related(draw, 200, 0.8)
    informed, blind = block(x, y), block(draw.normal(size=200), y)
    same, more = contrast([informed], [informed]), contrast([informed], [blind])
    assert same is not None
    assert same.interval == (0.0, 0.0)
    assert more is not None
    assert more.interval[0] > 0.4


def test_equivalence_is_shown_for_equals_and_refused_for_others() -> None:
    draw = np.random.default_rng(7)
    equal = equivalence(draw.normal(0.0, 0.03, 16), margin=0.05)
    other = equivalence(draw.normal(0.12, 0.03, 16), margin=0.05)
    unsure = equivalence(draw.normal(0.0, 0.3, 16), margin=0.05)
    assert equal is not None
    assert other is not None
    assert unsure is not None
    assert equal.p < 0.001
    assert other.p > 0.9
    assert other.interval[0] > 0.05
    assert unsure.p > 0.05


def test_the_equivalence_test_is_two_t_tests() -> None:
    d = np.random.default_rng(8).normal(0.01, 0.05, 12)
    found = equivalence(d, margin=0.05)
    assert found is not None
    above = stats.ttest_1samp(d, -0.05, alternative="greater")
    below = stats.ttest_1samp(d, 0.05, alternative="less")
    assert found.p == pytest.approx(np.max([above[1], below[1]]))


def test_equivalence_at_the_margin_is_claimed_in_no_more_than_five_per_cent() -> None:
    draw = np.random.default_rng(9)
    found = [equivalence(draw.normal(0.05, 0.05, 10), margin=0.05) for _ in range(800)]
    assert np.mean([e is not None and e.p < 0.05 for e in found]) < 0.07


def test_one_pair_says_nothing() -> None:
    assert equivalence([0.0], margin=0.05) is None
    assert shift([0.1] * 5) is None


def test_the_signed_rank_test_is_exact() -> None:
    d = np.random.default_rng(10).normal(0.5, 1.0, 12)
    found = shift(d)
    assert found is not None
    assert found.p == pytest.approx(stats.wilcoxon(d)[1])


def test_the_interval_of_a_shift_excludes_zero_just_when_the_test_does() -> None:
    draw = np.random.default_rng(11)
    for _ in range(100):
        found = shift(draw.normal(0.6, 1.0, 11))
        assert found is not None
        low, high = found.interval
        assert (low > 0 or high < 0) == (found.p < 0.05)


def test_holm_steps_down_and_never_up() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 1.0]) == [1.0, 1.0]


def test_a_rise_in_every_sweep_has_the_exact_p_of_its_orders() -> None:
    blocks = [(str(i), [0.0, 1.0, 2.0], [-3.0, -2.5, -2.0]) for i in range(3)]
    value, p, parts = compare_orders(blocks)
    assert value == pytest.approx(0.5)
    assert set(parts) == {"0", "1", "2"}
    assert p == pytest.approx(2 / 6**3)  # All rise, or all fall.


def test_a_better_group_is_found_and_a_random_one_is_not() -> None:
    draw = np.random.default_rng(12)
    member = np.arange(18) < 3
    better = compare_groups([(str(i), draw.normal(size=18) + 3 * member, member) for i in range(5)])
    random = compare_groups([(str(i), draw.normal(size=18), member) for i in range(5)])
    assert better is not None
    assert random is not None
    assert better.p < 0.01
    assert better.interval[0] > 0.2
    assert random.p > 0.05


def test_the_detectable_correlation_is_detected_as_often_as_its_power_says() -> None:
    """Against simulation: 8 sweeps of 16, mean Fisher z."""
    draw = np.random.default_rng(13)
    spearman = power.detectable_correlation([16] * 8)
    pearson = 2 * math.sin(math.pi * spearman / 6)
    error = math.sqrt(1.06 / 13 / 8)
    critical = NormalDist().inv_cdf(0.975) * error
    found = 0
    for _ in range(300):
        rhos = [correlation(block(*related(draw, 16, pearson))) for _ in range(8)]
        found += abs(float(np.mean(np.arctanh(rhos)))) > critical
    assert found / 300 == pytest.approx(0.8, abs=0.08)
