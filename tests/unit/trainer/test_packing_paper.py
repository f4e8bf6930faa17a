"""`batching: paper`: the study's sampler, which meets its effective batch on average only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainer.multipack import PaperBatches


def instruction_lengths(count: int) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(0))
    drawn = generator.lognormal(np.log(620) - 0.5, 1.0, count)
    return np.clip(drawn, 16, 4096).astype(np.int64)


def paper(lengths: np.ndarray, **changed: object) -> PaperBatches:
    arguments = {
        "ranks": 8,
        "batch_size": 128,
        "cap": 16_384,
        "padded": False,
        "seed": 0,
    } | changed
    return PaperBatches(lengths, **arguments)  # type: ignore[arg-type]


def test_a_batch_of_128_is_met_on_average_only() -> None:
    batches = paper(instruction_lengths(60_000))
    mean, sd = batches.simulated()
    assert mean == pytest.approx(126.7, abs=0.6)
    assert sd == pytest.approx(12.3, abs=0.6)
    assert batches.expected == 128
    assert batches.capacity == int(instruction_lengths(60_000).mean() * 128 / 8)


def test_with_padding_the_capacity_is_searched_until_the_average_is_met() -> None:
    lengths = instruction_lengths(20_000)
    batches = paper(lengths, padded=True)
    mean, _ = batches.simulated()
    assert mean == pytest.approx(128, rel=0.025)
    assert batches.capacity > paper(lengths).capacity


def test_a_batch_too_large_for_the_cap_is_accumulated_over_as_few_micro_steps_as_fit() -> None:
    lengths = instruction_lengths(20_000)
    batches = paper(lengths, batch_size=3840, cap=60_000)
    tokens = lengths.mean() * 3840 / 8
    assert batches.accumulation == int(np.ceil(tokens / 60_000))
    assert batches.capacity <= 60_000
    assert all(len(rank) == batches.accumulation for rank in batches.step(0).plan)


def test_a_capacity_below_the_longest_sample_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="use batching: exact"):
        paper(instruction_lengths(2_000), ranks=64)
    with pytest.raises(ValueError, match="no full step"):
        paper(np.full(10, 50), ranks=8, batch_size=128).step(0)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=150, max_size=300),
    ranks=st.integers(1, 4),
    batch_size=st.integers(12, 40),
    cap=st.integers(60, 400),
    padded=st.booleans(),
    seed=st.integers(0, 3),
)
def test_a_sample_comes_at_most_once_an_epoch_and_bins_hold_at_most_the_capacity(
    lengths: list[int], ranks: int, batch_size: int, cap: int, padded: bool, seed: int
) -> None:
    sizes = np.array(lengths)
    try:
        batches = PaperBatches(
            sizes, ranks=ranks, batch_size=batch_size, cap=cap, padded=padded, seed=seed
        )
        batches.step(0)
    except ValueError:
        assume(False)
        return
    assert batches.capacity <= cap
    epoch = len(batches.batch_sizes())
    met: list[int] = []
    for index in range(epoch):
        step = batches.step(index)
        positions = [i for rank in step.plan for part in rank for i in part]
        assert sorted(positions) == list(range(len(step.samples)))
        for part in (part for rank in step.plan for part in rank):
            held = sizes[step.samples[part]]
            assert len(held) > 0
            given = len(held) * held.max() if padded else held.sum()
            assert given <= batches.capacity
        met.extend(step.samples.tolist())
    assert len(set(met)) == len(met)
    assert len(met) <= len(sizes)


def test_epochs_follow_one_another_and_any_step_can_be_asked_first() -> None:
    lengths = instruction_lengths(3_000)
    batches = paper(lengths)
    epoch = len(batches.batch_sizes())
    later = batches.step(epoch + 2)
    assert not np.array_equal(later.samples, batches.step(2).samples)
    fresh = paper(lengths).step(epoch + 2)
    assert np.array_equal(fresh.samples, later.samples)
    assert fresh.plan == later.plan
    assert not np.array_equal(paper(lengths, seed=1).step(0).samples, batches.step(0).samples)


@given(total=st.integers(0, 8_000))
@settings(max_examples=30, deadline=None)
def test_a_run_has_the_steps_that_it_takes_to_meet_its_samples(total: int) -> None:
    batches = paper(instruction_lengths(3_000))
    steps = batches.steps_for(total)
    met = [len(batches.step(index).samples) for index in range(steps)]
    assert sum(met) >= total
    assert sum(met[:-1]) < total or total == 0
