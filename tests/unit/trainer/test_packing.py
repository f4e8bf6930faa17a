"""Which samples meet in a step, and how they are spread. The seed alone decides the order."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from trainer.packing import (
    SampleStream,
    packed_bins,
    padded_bins,
    plan_step,
    run_samples,
    run_steps,
    spread,
)

sizes = st.lists(st.integers(1, 300), min_size=1, max_size=80)


def batches(size: int, seed: int, batch: int, total: int) -> list[list[int]]:
    stream = SampleStream(size, seed)
    return [
        stream.take(start, min(start + batch, total)).tolist() for start in range(0, total, batch)
    ]


@given(
    size=st.integers(1, 60),
    seed=st.integers(0, 9),
    one=st.integers(1, 40),
    other=st.integers(1, 40),
    total=st.integers(1, 200),
)
def test_runs_of_any_batch_size_meet_the_same_samples_at_the_same_count(
    size: int, seed: int, one: int, other: int, total: int
) -> None:
    flat = [i for batch in batches(size, seed, one, total) for i in batch]
    assert flat == [i for batch in batches(size, seed, other, total) for i in batch]


@given(size=st.integers(1, 60), seed=st.integers(0, 9), batch=st.integers(1, 40))
def test_every_epoch_meets_every_sample_once(size: int, seed: int, batch: int) -> None:
    flat = [i for b in batches(size, seed, batch, 3 * size) for i in b]
    for epoch in range(3):
        assert sorted(flat[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(size=st.integers(1, 60), batch=st.integers(1, 40), total=st.integers(1, 200))
def test_only_the_last_batch_may_be_short(size: int, batch: int, total: int) -> None:
    found = batches(size, 0, batch, total)
    assert all(len(b) == batch for b in found[:-1])
    assert len(found[-1]) == (total % batch or batch)
    assert len(found) == run_steps(total, batch)


def test_epochs_and_seeds_differ_in_order() -> None:
    first, second = batches(100, 0, 100, 200)
    assert first != second
    assert batches(100, 1, 100, 100)[0] != first


def test_a_stream_can_be_entered_anywhere() -> None:
    stream = SampleStream(10, 3)
    whole = stream.take(0, 35).tolist()
    assert SampleStream(10, 3).take(17, 35).tolist() == whole[17:]


def test_a_run_lasts_for_its_budget_or_its_epochs() -> None:
    assert run_samples(100, 2.5, None) == 250
    assert run_samples(100, 2.5, 30) == 30
    assert run_samples(100, 2.5, 0) == 0
    assert run_samples(3, 0.01, None) == 1


@given(sizes=sizes, ranks=st.integers(1, 5), cap=st.integers(300, 900), padded=st.booleans())
def test_each_sample_lands_on_one_rank_once_and_no_micro_batch_exceeds_the_cap(
    sizes: list[int], ranks: int, cap: int, padded: bool
) -> None:
    plan = plan_step(sizes, ranks=ranks, cap=cap, padded=padded, equal_counts=False)
    met = Counter(i for rank in plan for part in rank for i in part)
    assert met == Counter(range(len(sizes)))
    for rank in plan:
        for part in rank:
            tokens = [sizes[i] for i in part]
            assert (len(tokens) * max(tokens, default=0) if padded else sum(tokens)) <= cap


@given(sizes=sizes, ranks=st.integers(2, 5))
def test_equal_counts_adds_empty_micro_batches(sizes: list[int], ranks: int) -> None:
    plan = plan_step(sizes, ranks=ranks, cap=300, padded=False, equal_counts=True)
    assert len({len(rank) for rank in plan}) == 1


def test_a_rank_without_samples_still_takes_part() -> None:
    plan = plan_step([9], ranks=3, cap=20, padded=False, equal_counts=False)
    assert plan == [[[0]], [[]], [[]]]


@given(sizes=sizes)
def test_best_fit_decreasing_leaves_at_most_one_bin_half_empty(sizes: list[int]) -> None:
    fill = [sum(sizes[i] for i in part) for part in packed_bins(sizes, 300)]
    assert sum(2 * tokens <= 300 for tokens in fill) <= 1


def test_padded_bins_hold_neighbours_in_length() -> None:
    assert padded_bins([10, 100, 11, 90], 200) == [[1, 3], [2, 0]]


def test_load_is_balanced_by_cost() -> None:
    costs = [7, 7, 6, 6, 5, 5]
    assert [sum(costs[i] for i in part) for part in spread(costs, 2)] == [18, 18]


def test_a_sample_longer_than_the_cap_is_alone() -> None:
    plan = plan_step([50, 10, 10], ranks=1, cap=20, padded=False, equal_counts=False)
    assert plan == [[[0], [1, 2]]]
