"""Padded micro-batches: rectangles of similar lengths, balanced with what their padding costs."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.packing import MICRO_BATCH_TOKENS, Plan, padded_bins, plan_step
from trainer.packing_bins import ENDLESS, cheapest_cuts

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=60)


def rectangles(plan: Plan, sizes: list[int]) -> list[list[int]]:
    """The lengths in each micro-batch that has any."""
    return [sorted(sizes[i] for i in part) for rank in plan for part in rank if part]


def padding(plan: Plan, sizes: list[int]) -> int:
    return sum(len(r) * r[-1] - sum(r) for r in rectangles(plan, sizes))


def test_padded_bins_hold_neighbours_in_length() -> None:
    assert padded_bins([10, 100, 11, 90], 200) == [[1, 3], [2, 0]]


@settings(deadline=None)
@given(sizes=lengths, ranks=st.integers(1, 6), cap=st.integers(1, 900), equal_counts=st.booleans())
def test_micro_batches_are_ranges_of_the_sorted_lengths(
    sizes: list[int], ranks: int, cap: int, equal_counts: bool
) -> None:
    plan = plan_step(sizes, ranks=ranks, cap=cap, padded=True, equal_counts=equal_counts)
    ranges = sorted(rectangles(plan, sizes), key=lambda r: (r[0], r[-1]))
    assert list(itertools.chain.from_iterable(ranges)) == sorted(sizes)


@settings(deadline=None)
@given(sizes=lengths, cap=st.integers(1, 900))
def test_rectangles_of_the_cap_are_as_few_as_can_be(sizes: list[int], cap: int) -> None:
    falling = sorted(sizes, reverse=True)
    best = [0] + [len(sizes) + 1] * len(sizes)
    for end in range(1, len(sizes) + 1):
        for begin in range(end):
            if begin == end - 1 or falling[begin] * (end - begin) <= cap:
                best[end] = min(best[end], best[begin] + 1)
    assert len(padded_bins(sizes, cap)) == best[-1]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=9), cap=st.integers(60, 200))
def test_the_cheapest_cuts_are_the_cheapest_of_all(sizes: list[int], cap: int) -> None:
    falling = sorted(sizes, reverse=True)
    overhead = 20.0
    least = math.inf
    for chosen in itertools.product((False, True), repeat=len(falling) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(chosen) if cut), len(falling)]
        areas = [falling[a] * (b - a) for a, b in itertools.pairwise(edges)]
        if all(area <= cap for area in areas):
            least = min(least, sum(areas) + overhead * len(areas))
    starts = [0] * (len(falling) + 1)
    cheapest_cuts(falling, [float(n) for n in falling], cap, ENDLESS, overhead, starts)
    edges = [*(s for s in starts if s < len(falling)), len(falling)]
    found = [falling[a] * (b - a) for a, b in itertools.pairwise(edges)]
    assert sum(found) + overhead * len(found) == least


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 300), min_size=8, max_size=60), ranks=st.integers(1, 6))
def test_one_more_micro_batch_is_taken_where_it_saves_more_padding_than_it_costs(
    sizes: list[int], ranks: int
) -> None:
    plan = plan_step(
        sizes, ranks=1, cap=900, padded=True, equal_counts=False, quadratic_tokens=1e12
    )
    for rectangle in rectangles(plan, sizes):
        for cut in range(1, len(rectangle)):
            saved = cut * (rectangle[-1] - rectangle[cut - 1])
            assert saved <= MICRO_BATCH_TOKENS + 1e-6


def test_padding_counts_in_the_balance_between_ranks() -> None:
    sizes = [100] * 8 + [10] * 80
    plan = plan_step(sizes, ranks=2, cap=400, padded=True, equal_counts=False)
    loads = [sum(len(p) * max(sizes[i] for i in p) for p in rank if p) for rank in plan]
    assert abs(loads[0] - loads[1]) <= 20
    assert padding(plan, sizes) == 0


def test_the_rectangles_of_a_micro_step_cost_about_the_same() -> None:
    sizes = [200 + i for i in range(64)]
    plan = plan_step(sizes, ranks=4, cap=2400, padded=True, equal_counts=True)
    assert len({len(rank) for rank in plan}) == 1
    for k in range(len(plan[0])):
        areas = [len(rank[k]) * max(sizes[i] for i in rank[k]) for rank in plan]
        assert min(areas) >= 0.85 * max(areas)
