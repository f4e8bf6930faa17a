"""The arithmetic of the packing benchmark, on plans small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.packing_cells import SETS, Cell, LengthSet, make_cells, measure_cell
from benchmarks.packing_measures import (
    Plans,
    batch_sizes,
    cut_by_wrapping,
    quality,
    samples_of_row_steps,
)

TOKENS_ONLY = 1e18

# One step on two ranks: rank 0 has micro-batches of 60 and 20 tokens, rank 1 of 30 + 30.
PLANS = Plans(
    lengths=np.array([60, 20, 30, 30]),
    step=np.zeros(4, dtype=np.int64),
    rank=np.array([0, 0, 1, 1]),
    micro_batch=np.array([0, 1, 0, 0]),
)


def measure(plans: Plans, *, padded: bool = False, lockstep: bool, quadratic: float = TOKENS_ONLY):
    return quality(
        plans, ranks=2, cap=100, padded=padded, lockstep=lockstep, quadratic_tokens=quadratic
    )


def test_free_ranks_wait_once_a_step() -> None:
    found = measure(PLANS, lockstep=False)
    assert found.balance == pytest.approx(70 / 80)
    assert found.micro_batches == 3
    assert found.efficiency == pytest.approx(140 / 300)


def test_in_lockstep_ranks_wait_at_every_micro_step_and_empty_ones_count() -> None:
    found = measure(PLANS, lockstep=True)
    assert found.balance == pytest.approx((60 + 10) / (60 + 20))
    assert found.micro_batches == 4
    assert found.efficiency == pytest.approx(140 / 400)


def test_cost_has_attention_s_quadratic_term() -> None:
    found = measure(PLANS, lockstep=False, quadratic=60)
    ranks = (60 + 60 + 20 + 20 * 20 / 60, 2 * (30 + 15))
    assert found.balance == pytest.approx(sum(ranks) / 2 / max(ranks))


def test_padding_costs_as_much_as_tokens_and_lowers_utilisation() -> None:
    together = Plans(PLANS.lengths, PLANS.step, PLANS.rank, np.array([0, 0, 0, 0]))
    found = measure(together, padded=True, lockstep=False)
    assert found.efficiency == pytest.approx(140 / (120 + 60))
    assert found.balance == pytest.approx(90 / 120)
    assert found.utilisation == pytest.approx(70 / 120)


def test_steps_weigh_by_their_time() -> None:
    plans = Plans(
        np.array([90, 10, 1, 1]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.zeros(4, int)
    )
    assert measure(plans, lockstep=False).balance == pytest.approx((50 + 1) / (90 + 1))


def test_exactness_is_the_share_of_steps_with_just_the_samples_asked_for() -> None:
    found = batch_sizes(np.array([128, 128, 120, 136]), 128)
    assert (found.mean, found.exact) == (128, 0.5)
    assert found.sd == pytest.approx(np.sqrt(32))


def test_steps_of_rows_hold_the_number_of_rows_that_comes_nearest() -> None:
    samples, rows = samples_of_row_steps(np.full(20, 13), wanted=128, ranks=4, seed=0)
    assert rows == 8  # 104 samples; 12 rows would hold 156
    assert samples.tolist() == [104, 104]
    _, rows = samples_of_row_steps(np.full(20, 13), wanted=1, ranks=4, seed=0)
    assert rows == 4


def test_wrapping_cuts_the_samples_that_cross_the_end_of_a_row() -> None:
    assert cut_by_wrapping(np.array([4, 4, 4, 2, 10]), 10) == pytest.approx(2 / 5)


def test_lengths_are_drawn_with_the_mean_they_are_documented_with() -> None:
    for lengths in SETS:
        drawn = lengths.draw(100_000)
        assert drawn.mean() == pytest.approx(lengths.mean, rel=0.04)
        assert drawn.min() >= lengths.shortest
        assert drawn.max() <= lengths.longest <= lengths.cap
        assert np.array_equal(drawn, lengths.draw(100_000))


def test_the_full_run_covers_all_sets_ranks_batches_and_both_kinds() -> None:
    assert len({c.key for c in make_cells(quick=False)}) == 3 * 2 * 3 * 2


def test_a_cell_compares_on_the_same_samples_in_both_modes() -> None:
    lengths = LengthSet("small", mean=50, sigma=0.5, longest=200, cap=400)
    cell = Cell(lengths, ranks=2, batch_size=32, padded=False, steps=3)
    drawn = lengths.draw(600)
    one_each = {
        f"{cell.key}/rank": np.arange(96) % 2,
        f"{cell.key}/micro_batch": np.arange(96) % 32 // 2,
    }
    free, lockstep = measure_cell(cell, drawn, one_each)
    assert (free["mode"], lockstep["mode"]) == ("free", "lockstep")
    for entry in (free, lockstep):
        assert entry["instructlab"]["micro_batches_per_step"] == 32
        assert entry["ours"]["balance"] > 0.98
        ratios = [entry["ours"]["efficiency"] / entry["instructlab"]["efficiency"]]
        if "paper" in entry:
            ratios.append(entry["ours_beside_paper"]["efficiency"] / entry["paper"]["efficiency"])
        assert entry["ratio"]["efficiency"] == pytest.approx(min(ratios), abs=1e-4)
        assert entry["by_tokens"]["ours"]["balance"] > 0.98
