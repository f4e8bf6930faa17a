"""What each curriculum promises about the order and the counts of samples."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import DataConfig
from trainer.curriculum import Curriculum, problems

PATIENT = settings(deadline=None)
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)
WEIGHTS = st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.3, 3.0])


def config(
    weights: Sequence[float] = (1.0,), phases: Sequence[int] | None = None, **fields: Any
) -> DataConfig:
    phases = phases or [0] * len(weights)
    train = [
        {"path": f"{number}.jsonl", "weight": weight, "phase": phase}
        for number, (weight, phase) in enumerate(zip(weights, phases, strict=True))
    ]
    return DataConfig.model_validate({"train": train, **fields})


def curriculum(
    data: DataConfig,
    sets: Sequence[int],
    *,
    answer_tokens: Sequence[int] | None = None,
    epochs: float = 1.0,
    max_samples: int | None = None,
    seed: int = 0,
) -> Curriculum:
    lengths = np.array(answer_tokens if answer_tokens is not None else range(sum(sets)))
    return Curriculum(
        data,
        sets=sets,
        answer_tokens=lengths,
        epochs=epochs,
        max_samples=max_samples,
        seed=seed,
    )


@st.composite
def any_curriculum(draw: st.DrawFn) -> Curriculum:
    sizes = draw(st.lists(st.integers(2, 30), min_size=2, max_size=4))
    weights = draw(st.lists(WEIGHTS, min_size=len(sizes), max_size=len(sizes)))
    strategy = draw(st.sampled_from(["stacked", "phased", "difficulty"]))
    fields: dict[str, Any] = {"strategy": strategy}
    phases = None
    if strategy == "phased":
        phases = [0, 1, *(draw(st.integers(0, 3)) for _ in sizes[2:])]
    if strategy != "stacked":
        fields["replay"] = draw(st.sampled_from([None, 0.0, 0.01, 0.5, 1.0]))
        fields["reset_optimizer"] = draw(st.booleans())
    return curriculum(
        config(weights, phases, **fields),
        sizes,
        answer_tokens=draw(
            st.lists(st.integers(1, 9), min_size=sum(sizes), max_size=sum(sizes)),
        ),
        epochs=draw(st.sampled_from([0.3, 1.0, 1.5, 3.0])),
        max_samples=draw(st.none() | st.integers(0, 400)),
        seed=draw(SEEDS),
    )


# --- every curriculum -------------------------------------------------------------------------


@PATIENT
@given(any_curriculum(), st.data())
def test_any_part_of_the_stream_can_be_had_without_the_rest(c: Curriculum, data: Any) -> None:
    """In any order, and past the run's end."""
    whole = c.take(0, c.total_samples + 50)
    assert len(whole) == c.total_samples + 50
    for _ in range(3):
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        assert c.take(start, stop).tolist() == whole[start:stop].tolist()


@PATIENT
@given(any_curriculum(), st.integers(1, 64))
def test_the_order_does_not_depend_on_the_batch_size(c: Curriculum, batch: int) -> None:
    total = c.total_samples
    cut = [c.take(at, min(at + batch, total)).tolist() for at in range(0, total, batch)]
    assert [i for part in cut for i in part] == c.take(0, total).tolist()


@PATIENT
@given(any_curriculum())
def test_stages_follow_one_another_without_a_gap(c: Curriculum) -> None:
    starts = [stage.start for stage in c.stages]
    assert starts == [0, *(stage.stop for stage in c.stages[:-1])]
    assert c.stages[-1].stop == c.total_samples
    assert set(c.resets) <= set(starts[1:])


@PATIENT
@given(SIZES, SEEDS, SEEDS)
def test_the_seed_decides_the_order(sizes: list[int], one: int, other: int) -> None:
    a, b = (curriculum(config([1.0] * len(sizes)), sizes, seed=s) for s in (one, other))
    same = a.take(0, 500).tolist() == b.take(0, 500).tolist()
    assert same == (one == other or sum(sizes) == 1)


# --- stacked and weights ----------------------------------------------------------------------


@PATIENT
@given(SIZES, SEEDS, st.integers(0, 5))
def test_stacked_without_weights_is_one_permutation_an_epoch(
    sizes: list[int], seed: int, epoch: int
) -> None:
    """The exact order is part of the promise: runs are resumed from checkpoints."""
    size = sum(sizes)
    found = curriculum(config([1.0] * len(sizes)), sizes, seed=seed)
    expected = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(size)
    assert found.take(epoch * size, (epoch + 1) * size).tolist() == expected.tolist()


@PATIENT
@given(SIZES, st.data(), SEEDS, st.integers(1, 6))
def test_a_sample_occurs_as_often_as_its_set_weighs(
    sizes: list[int], data: Any, seed: int, epochs: int
) -> None:
    """Each epoch: floor(weight) times or once more; over all epochs: the exact count."""
    weights = data.draw(st.lists(WEIGHTS, min_size=len(sizes), max_size=len(sizes), unique=True))
    c = curriculum(config(weights), sizes, epochs=epochs, seed=seed)
    counts = np.bincount(c.take(0, c.total_samples), minlength=sum(sizes))
    begin = 0
    for weight, size in zip(weights, sizes, strict=True):
        mine = counts[begin : begin + size]
        begin += size
        exact = float(Fraction(repr(weight)) * size * epochs)
        # The whole run has at least one sample, so a tiny one may be off by that one.
        assert abs(mine.sum() - exact) <= (0.5 if c.total_samples > 1 else 1)
        whole = int(weight)
        assert all(whole * epochs <= n <= (whole + (weight % 1 > 0)) * epochs for n in mine)


def test_a_fraction_is_drawn_anew_each_epoch() -> None:
    c = curriculum(config([0.5]), [1000], epochs=40)
    epochs = [frozenset(c.take(e * 500, (e + 1) * 500).tolist()) for e in range(40)]
    assert all(len(epoch) == 500 for epoch in epochs)
    assert len(set(epochs)) == 40
    counts = np.bincount(c.take(0, c.total_samples), minlength=1000)
    # Each sample's count is binomial (40, 0.5): mean 20, sd 3.2.
    assert counts.mean() == 20
    assert 2.8 < counts.std() < 3.6


def test_epochs_and_a_budget_say_how_long_a_run_is() -> None:
    assert curriculum(config(), [100], epochs=2.5).total_samples == 250
    assert curriculum(config(), [100], epochs=2.5, max_samples=30).total_samples == 30
    assert curriculum(config(), [100], epochs=2.5, max_samples=0).total_samples == 0
    assert curriculum(config(), [3], epochs=0.01).total_samples == 1
    assert curriculum(config([2.0, 0.5]), [100, 50], epochs=2).total_samples == 450
    assert curriculum(config([2.0, 0.5]), [100, 50], epochs=2).epoch_size == 225


# --- phased -----------------------------------------------------------------------------------


@PATIENT
@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=3),
    st.permutations([0, 5, 10]),
    st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    st.integers(1, 4),
    SEEDS,
)
def test_phases_come_in_order_with_the_share_of_earlier_ones(
    sizes: list[int], order: list[int], replay: float, epochs: int, seed: int
) -> None:
    phases = [0, 5, 10]
    data = config(
        [1.0] * 3,
        phases,
        strategy="phased",
        phase_order=None if order == phases else order,
        replay=replay,
    )
    c = curriculum(data, sizes, epochs=epochs, seed=seed)
    assert [stage.name for stage in c.stages] == [f"phase {phase}" for phase in order]
    owner = np.repeat(phases, sizes)
    earlier: list[int] = []
    for stage, phase in zip(c.stages, order, strict=True):
        met = np.bincount(c.take(stage.start, stage.stop), minlength=sum(sizes))
        own = owner == phase
        before = np.isin(owner, earlier)
        assert (met[own] == epochs).all()
        assert (met[~own & ~before] == 0).all()
        assert abs(met[before].sum() - replay * before.sum() * epochs) <= 0.5
        earlier.append(phase)


@PATIENT
@given(st.integers(0, 5000), SEEDS)
def test_a_budget_is_divided_over_phases_by_their_size(budget: int, seed: int) -> None:
    data = config([1.0, 2.0, 1.0], [0, 1, 2], strategy="phased")
    c = curriculum(data, [100, 100, 200], max_samples=budget, seed=seed)
    sizes = [stage.stop - stage.start for stage in c.stages]
    assert sum(sizes) == budget == c.total_samples
    for size, share in zip(sizes, (0.2, 0.4, 0.4), strict=True):
        assert abs(size - budget * share) <= 1


def test_sets_of_one_phase_are_mixed() -> None:
    data = config([1.0, 1.0, 1.0], [0, 1, 0], strategy="phased")
    c = curriculum(data, [50, 10, 50])
    first = c.take(0, 100)
    assert sorted(first.tolist()) == [*range(50), *range(60, 110)]
    assert 10 < np.sum(first[:50] < 50) < 40
    assert sorted(c.take(100, 110).tolist()) == list(range(50, 60))


def test_the_optimizer_starts_afresh_only_where_it_is_asked_to() -> None:
    fields: dict[str, Any] = {"strategy": "phased", "phases": [0, 1, 2]}
    kept = curriculum(config([1.0] * 3, **fields), [10, 20, 30], epochs=2)
    assert kept.resets == ()
    reset = curriculum(config([1.0] * 3, **fields, reset_optimizer=True), [10, 20, 30], epochs=2)
    assert reset.resets == (20, 60)
    assert kept.take(0, 120).tolist() == reset.take(0, 120).tolist()


# --- difficulty -------------------------------------------------------------------------------


@PATIENT
@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=120),
    st.sampled_from([1.0, 25.0, 50.0, 99.0]),
    st.sampled_from([None, 0.0, 0.1, 1.0]),
    SEEDS,
)
def test_short_answers_come_first_then_long_ones_with_some_short_ones_again(
    answers: list[int], percentile: float, replay: float | None, seed: int
) -> None:
    data = config(strategy="difficulty", difficulty_percentile=percentile, replay=replay)
    c = curriculum(data, [len(answers)], answer_tokens=answers, epochs=1, seed=seed)
    easy, hard = (c.take(stage.start, stage.stop).tolist() for stage in c.stages)
    count = min(max(1, round(len(answers) * percentile / 100)), len(answers) - 1)
    assert len(easy) == len(set(easy)) == count
    new = [i for i in hard if i not in set(easy)]
    assert sorted(easy + new) == list(range(len(answers)))
    assert max(answers[i] for i in easy) <= min(answers[i] for i in new)
    again = len(hard) - len(new)
    assert abs(again - (0.01 if replay is None else replay) * count) <= 0.5


def test_equal_answer_lengths_are_parted_by_lot_not_by_file() -> None:
    data = config([1.0, 1.0], strategy="difficulty")
    c = curriculum(data, [100, 100], answer_tokens=[7] * 200)
    assert 25 < np.sum(c.take(0, 100) < 100) < 75


# --- what can't be ----------------------------------------------------------------------------


def test_a_set_that_would_never_be_met_is_named() -> None:
    ((pointer, message),) = problems(config([1.0, 0.001]), [100, 100], 3.0)
    assert pointer == "/data/train/1/weight"
    assert "none of them would be met; raise it to 0.01" in message
    assert problems(config([1.0, 0.1]), [100, 100], 1.0) == []


def test_one_sample_has_no_difficulty() -> None:
    ((pointer, message),) = problems(config(strategy="difficulty"), [1], 1.0)
    assert pointer == "/data/strategy"
    assert "only one usable sample" in message


def test_sizes_must_be_those_of_the_configuration() -> None:
    with pytest.raises(ValueError, match="2 training sets, but sizes of 1"):
        curriculum(config([1.0, 1.0]), [5])
    with pytest.raises(ValueError, match="5 samples, but answer lengths of 4"):
        curriculum(config([1.0]), [5], answer_tokens=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="phase 1 has no samples"):
        curriculum(config([1.0, 1.0], [0, 1], strategy="phased"), [5, 0])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**12))
def test_a_place_far_into_the_stream_is_had_at_once(start: int) -> None:
    c = curriculum(config([1.0, 0.3]), [3000, 2000], max_samples=10**12 + 100)
    assert len(c.take(start, start + 64)) == 64
