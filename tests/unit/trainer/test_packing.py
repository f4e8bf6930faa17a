"""Which samples meet in a step, and how they are spread. The seed alone decides the order."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from trainer.config import DataConfig, TrainSet
from trainer.curriculum import Curriculum
from trainer.packing import (
    Plan,
    packed_bins,
    plan_step,
    quadratic_crossover,
    run_steps,
    spread,
)
from trainer.packing_bins import ENDLESS, UNLIMITED, longest_first, refine

sizes = st.lists(st.integers(1, 300), min_size=1, max_size=80)
costs = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def stream_of(size: int, seed: int) -> Curriculum:
    data = DataConfig(train=(TrainSet(path="-"),))
    return Curriculum(
        data, sets=[size], answer_tokens=[1] * size, epochs=1.0, max_samples=None, seed=seed
    )


def batches(size: int, seed: int, batch: int, total: int) -> list[list[int]]:
    stream = stream_of(size, seed)
    return [
        stream.take(start, min(start + batch, total)).tolist() for start in range(0, total, batch)
    ]


def makespan(costs: list[int], parts: list[list[int]]) -> int:
    return max(sum(costs[i] for i in part) for part in parts)


def plain_lpt(costs: list[int], ranks: int) -> list[list[int]]:
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    loads = [0] * ranks
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for i in order:
        rank = loads.index(min(loads))
        loads[rank] += costs[i]
        parts[rank].append(i)
    return parts


def fewest_bins(sizes: list[int], cap: int) -> int:
    """The least number of bins, by trying every number (small inputs only)."""
    falling = sorted(sizes, reverse=True)

    def fits(index: int, rooms: tuple[int, ...]) -> bool:
        if index == len(falling):
            return True
        tried: set[int] = set()
        for b, room in enumerate(rooms):
            if room >= falling[index] and room not in tried:
                tried.add(room)
                left = (*rooms[:b], room - falling[index], *rooms[b + 1 :])
                if fits(index + 1, left):
                    return True
        return False

    return next(n for n in itertools.count(math.ceil(sum(sizes) / cap)) if fits(0, (cap,) * n))


def tokens_of(plan: Plan, sizes: list[int]) -> list[int]:
    return [sum(sizes[i] for i in part) for rank in plan for part in rank]


# --- the stream -------------------------------------------------------------------------------


@settings(deadline=None)
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


@settings(deadline=None)
@given(size=st.integers(1, 60), seed=st.integers(0, 9), batch=st.integers(1, 40))
def test_every_epoch_meets_every_sample_once_and_its_tail_goes_into_the_next(
    size: int, seed: int, batch: int
) -> None:
    flat = [i for b in batches(size, seed, batch, 3 * size) for i in b]
    for epoch in range(3):
        assert sorted(flat[epoch * size : (epoch + 1) * size]) == list(range(size))


@settings(deadline=None)
@given(size=st.integers(1, 60), batch=st.integers(1, 40), total=st.integers(1, 200))
def test_every_batch_is_exact_but_a_run_s_last(size: int, batch: int, total: int) -> None:
    found = batches(size, 0, batch, total)
    assert all(len(b) == batch for b in found[:-1])
    assert len(found[-1]) == (total % batch or batch)
    assert len(found) == run_steps(total, batch)


def test_epochs_and_seeds_differ_in_order() -> None:
    first, second = batches(100, 0, 100, 200)
    assert first != second
    assert batches(100, 1, 100, 100)[0] != first


def test_a_stream_can_be_entered_anywhere() -> None:
    stream = stream_of(10, 3)
    whole = stream.take(0, 35).tolist()
    assert stream_of(10, 3).take(17, 35).tolist() == whole[17:]


# --- any plan ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    sizes=sizes,
    ranks=st.integers(1, 9),
    cap=st.integers(1, 900),
    padded=st.booleans(),
    equal_counts=st.booleans(),
)
def test_each_sample_lands_once_and_only_one_too_long_for_the_cap_exceeds_it_alone(
    sizes: list[int], ranks: int, cap: int, padded: bool, equal_counts: bool
) -> None:
    plan = plan_step(sizes, ranks=ranks, cap=cap, padded=padded, equal_counts=equal_counts)
    assert len(plan) == ranks
    assert Counter(i for rank in plan for part in rank for i in part) == Counter(range(len(sizes)))
    for part in itertools.chain.from_iterable(plan):
        tokens = [sizes[i] for i in part]
        given = len(tokens) * max(tokens, default=0) if padded else sum(tokens)
        assert given <= cap or len(part) == 1


@settings(deadline=None)
@given(sizes=sizes, ranks=st.integers(1, 9), padded=st.booleans(), equal_counts=st.booleans())
def test_every_rank_takes_part_though_it_has_nothing_to_do(
    sizes: list[int], ranks: int, padded: bool, equal_counts: bool
) -> None:
    plan = plan_step(sizes, ranks=ranks, cap=300, padded=padded, equal_counts=equal_counts)
    assert all(len(rank) >= 1 for rank in plan)
    if not equal_counts:
        assert all(rank == [[]] or all(rank) for rank in plan)


@settings(deadline=None)
@given(sizes=sizes, ranks=st.integers(1, 9), padded=st.booleans(), equal_counts=st.booleans())
def test_the_same_batch_always_gives_the_same_plan(
    sizes: list[int], ranks: int, padded: bool, equal_counts: bool
) -> None:
    first, second = (
        plan_step(given, ranks=ranks, cap=300, padded=padded, equal_counts=equal_counts)
        for given in (sizes, tuple(sizes))
    )
    assert first == second


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("equal_counts", [False, True])
def test_a_batch_smaller_than_the_ranks_gives_one_sample_to_as_many(
    padded: bool, equal_counts: bool
) -> None:
    plan = plan_step([9, 8], ranks=4, cap=20, padded=padded, equal_counts=equal_counts)
    assert plan == [[[0]], [[1]], [[]], [[]]]
    assert plan_step([], ranks=2, cap=20, padded=padded, equal_counts=equal_counts) == [[[]], [[]]]


def test_a_sample_longer_than_the_cap_is_alone() -> None:
    plan = plan_step([50, 10, 10], ranks=1, cap=20, padded=False, equal_counts=False)
    assert plan == [[[0], [1, 2]]]


def test_nonsense_is_refused() -> None:
    for ranks, cap, quadratic in ((0, 10, 1.0), (1, 0, 1.0), (1, 10, 0.0)):
        with pytest.raises(ValueError, match="must be"):
            plan_step(
                [1],
                ranks=ranks,
                cap=cap,
                padded=False,
                equal_counts=False,
                quadratic_tokens=quadratic,
            )


# --- free -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(costs=costs, ranks=st.integers(1, 9))
def test_spreading_is_never_worse_than_plain_lpt(costs: list[int], ranks: int) -> None:
    assert makespan(costs, spread(costs, ranks)) <= makespan(costs, plain_lpt(costs, ranks))


@settings(deadline=None)
@given(costs=costs, ranks=st.integers(1, 9))
def test_the_first_round_of_spreading_is_lpt(costs: list[int], ranks: int) -> None:
    falling = sorted(costs, reverse=True)
    where = [-1] * len(costs)
    assert longest_first(falling, [0] * len(costs), ranks, UNLIMITED, ENDLESS, 0, where)
    parts = [[i for i, w in enumerate(where) if w == rank] for rank in range(ranks)]
    assert parts == plain_lpt(falling, ranks)


@settings(deadline=None)
@given(costs=st.lists(st.integers(1, 30), min_size=1, max_size=9), ranks=st.integers(1, 3))
def test_the_most_loaded_rank_has_at_most_four_thirds_of_the_least_possible(
    costs: list[int], ranks: int
) -> None:
    best = min(
        max(
            sum(c for c, r in zip(costs, choice, strict=True) if r == rank) for rank in range(ranks)
        )
        for choice in itertools.product(range(ranks), repeat=len(costs))
    )
    assert 3 * ranks * makespan(costs, spread(costs, ranks)) <= (4 * ranks - 1) * best


def test_exchanges_find_what_lpt_alone_misses() -> None:
    costs = [8, 7, 6, 5, 4]
    assert makespan(costs, plain_lpt(costs, 2)) == 17
    assert makespan(costs, spread(costs, 2)) == 15


def test_a_rank_s_share_is_improved_by_exchanges() -> None:
    sizes = [8, 7, 6, 5, 4]
    plan = plan_step(
        sizes, ranks=2, cap=99, padded=False, equal_counts=False, quadratic_tokens=1e12
    )
    assert tokens_of(plan, sizes) == [15, 15]


@settings(deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 4)), min_size=1, max_size=40),
    slack=st.lists(st.integers(0, 30), min_size=5, max_size=5),
)
def test_an_exchange_never_raises_the_heaviest_load_nor_exceeds_a_bin_s_room(
    items: list[tuple[int, int]], slack: list[int]
) -> None:
    sizes = sorted((size for size, _ in items), reverse=True)
    costs = [float(size * size) for size in sizes]
    where = [b for _, b in items]

    def sums(values: list[float]) -> list[float]:
        return [
            sum(v for v, w in zip(values, where, strict=True) if w == b) for b in range(len(slack))
        ]

    heaviest = max(sums(costs))
    rooms = [
        int(sum(n for n, w in zip(sizes, where, strict=True) if w == b)) + slack[b]
        for b in range(5)
    ]
    refine(costs, sizes, list(range(len(sizes))), rooms, where)
    assert max(sums(costs)) <= heaviest
    held = sums([float(n) for n in sizes])
    assert all(tokens <= room for tokens, room in zip(held, rooms, strict=True))


def test_load_is_balanced_by_cost_with_attention_s_quadratic_term() -> None:
    sizes = [1000, 1000] + [100] * 20
    by_tokens, by_cost = (
        plan_step(
            sizes, ranks=3, cap=5000, padded=False, equal_counts=False, quadratic_tokens=quadratic
        )
        for quadratic in (1e12, 1000)
    )
    assert sorted(tokens_of(by_tokens, sizes)) == [1300, 1300, 1400]
    assert sorted(tokens_of(by_cost, sizes)) == [1000, 1100, 1900]  # costs 2000, 2110, 2090


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 300), min_size=8, max_size=80), ranks=st.integers(2, 6))
def test_free_micro_batches_are_as_many_as_best_fit_needs_or_fewer(
    sizes: list[int], ranks: int
) -> None:
    plan = plan_step(sizes, ranks=ranks, cap=400, padded=False, equal_counts=False)
    lockstep = ranks * math.ceil(sum(sizes) / (ranks * 400))
    needed = [len(packed_bins([sizes[i] for part in r for i in part], 400)) for r in plan]
    assert sum(map(len, plan)) <= max(lockstep, sum(max(1, n) for n in needed))


@settings(deadline=None)
@given(sizes=sizes)
def test_best_fit_decreasing_leaves_at_most_one_bin_half_empty(sizes: list[int]) -> None:
    fill = [sum(sizes[i] for i in part) for part in packed_bins(sizes, 300)]
    assert sum(2 * tokens <= 300 for tokens in fill) <= 1


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=10))
def test_best_fit_decreasing_is_within_its_bound(sizes: list[int]) -> None:
    assert 9 * len(packed_bins(sizes, 60)) <= 11 * fewest_bins(sizes, 60) + 6


@settings(deadline=None)
@given(sizes=sizes, cap=st.integers(1, 400))
def test_best_fit_chooses_the_fullest_bin_that_still_takes_it(sizes: list[int], cap: int) -> None:
    bins = packed_bins(sizes, cap)
    place = {i: b for b, part in enumerate(bins) for i in part}
    filled = [0] * len(bins)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fits = [f for f in filled if 0 < f <= cap - sizes[i]]
        assert filled[place[i]] == max(fits, default=0)
        filled[place[i]] += sizes[i]


# --- lockstep ---------------------------------------------------------------------------------


def slowest_sum(plan: Plan, sizes: list[int], quadratic: float) -> float:
    """Sum over micro-steps of the dearest rank's cost."""
    cost = [n + n * n / quadratic for n in sizes]
    return sum(max(sum(cost[i] for i in rank[k]) for rank in plan) for k in range(len(plan[0])))


@settings(deadline=None)
@given(sizes=sizes, ranks=st.integers(1, 9), padded=st.booleans())
def test_lockstep_gives_every_rank_as_many_micro_batches(
    sizes: list[int], ranks: int, padded: bool
) -> None:
    plan = plan_step(sizes, ranks=ranks, cap=300, padded=padded, equal_counts=True)
    assert len({len(rank) for rank in plan}) == 1
    assert any(plan[r][-1] for r in range(ranks)), "no micro-step is empty on all ranks"


@settings(deadline=None)
@given(sizes=sizes, ranks=st.integers(1, 9))
@example(sizes=[160, 160, 160, 10, 10, 10, 10], ranks=1)
def test_lockstep_takes_no_more_micro_steps_than_joint_best_fit(
    sizes: list[int], ranks: int
) -> None:
    plan = plan_step(sizes, ranks=ranks, cap=300, padded=False, equal_counts=True)
    assert len(plan[0]) <= math.ceil(len(packed_bins(sizes, 300)) / ranks)
    assert len(plan[0]) >= math.ceil(sum(sizes) / (300 * ranks))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 100), min_size=48, max_size=96))
def test_the_ranks_of_a_micro_step_cost_about_the_same(sizes: list[int]) -> None:
    assume(max(sizes) * 12 <= sum(sizes))
    plan = plan_step(sizes, ranks=4, cap=1000, padded=False, equal_counts=True)
    mean = sum(n + n * n / 16_384 for n in sizes) / 4
    assert slowest_sum(plan, sizes, 16_384) <= 1.10 * mean + 2


def test_long_samples_share_a_micro_step_instead_of_slowing_one_each() -> None:
    sizes = [900, 900, 900, 900] + [100] * 36
    plan = plan_step(sizes, ranks=4, cap=1000, padded=False, equal_counts=True)
    assert [min(rank[0]) for rank in plan] == [0, 1, 2, 3]
    assert slowest_sum(plan, sizes, 16_384) < 2000


def test_what_fits_beside_a_long_sample_is_taken_from_the_other_micro_steps() -> None:
    # Costs at 100: 11,000, 2,000 each, 200 each. Beside the first, 1,000 tokens of the next
    # longest cost 4,400, so that the others cost 3,000 a rank and not 3,200.
    sizes = [1000] + [400] * 4 + [100] * 12
    plan = plan_step(
        sizes, ranks=2, cap=1000, padded=False, equal_counts=True, quadratic_tokens=100
    )
    assert slowest_sum(plan, sizes, 100) == 11_000 + 3_000


def test_a_sample_above_the_cap_takes_one_micro_step_and_not_as_many_as_its_tokens() -> None:
    plan = plan_step([3000, 100, 100], ranks=1, cap=300, padded=False, equal_counts=True)
    assert plan == [[[0], [1, 2]]]


# --- cost -------------------------------------------------------------------------------------


def test_the_crossover_of_a_model_is_where_both_parts_of_its_cost_are_equal() -> None:
    parameters, layers, width = 1_000_000_000, 16, 2_048
    n = quadratic_crossover(parameters, layers, width)
    assert 6 * parameters * n == pytest.approx(6 * layers * width * n * n)
