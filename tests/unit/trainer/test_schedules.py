"""Learning rates, step by step."""

from __future__ import annotations

import pytest

from trainer.config import Schedule, TrainConfig
from trainer.schedules import learning_rate, warmup_steps


def rates(schedule: Schedule, total: int, warmup: int, peak: float = 1.0) -> list[float]:
    return [
        learning_rate(k, peak=peak, schedule=schedule, total_steps=total, warmup=warmup)
        for k in range(1, total + 1)
    ]


def run(**fields: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": "m",
            "output_dir": "o",
            "data": {"train": [{"path": "t"}]},
            "learning_rate": 1e-3,
            "effective_batch_size": 1,
            **fields,
        }
    )


def test_warmup_rises_by_equal_steps_and_its_first_step_moves() -> None:
    assert rates("constant", 6, 4) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_constant_stays_at_the_peak() -> None:
    assert rates("constant", 3, 0, peak=2e-5) == [2e-5] * 3


def test_linear_reaches_zero_one_step_after_the_last() -> None:
    assert rates("linear", 4, 0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates("linear", 6, 2) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_cosine_is_at_half_its_peak_half_way() -> None:
    found = rates("cosine", 8, 0)
    assert found[0] == 1.0
    assert found[4] == pytest.approx(0.5)
    assert 0 < found[-1] < 0.05
    assert found == sorted(found, reverse=True)


def test_a_warmup_longer_than_the_run_never_gets_to_the_peak() -> None:
    assert rates("linear", 3, 100) == pytest.approx([0.01, 0.02, 0.03])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_run_of_one_step_uses_the_peak(schedule: Schedule) -> None:
    assert rates(schedule, 1, 0) == [1.0]


def test_steps_outside_the_run_are_refused() -> None:
    for step in (0, 5):
        with pytest.raises(ValueError, match="is not in 1 … 4"):
            learning_rate(step, peak=1.0, schedule="linear", total_steps=4, warmup=0)


def test_warmup_is_given_in_steps_or_as_a_fraction_rounded_up() -> None:
    assert warmup_steps(run(warmup_steps=25), 1000) == 25
    assert warmup_steps(run(warmup_ratio=0.03), 1000) == 30
    assert warmup_steps(run(warmup_ratio=0.03), 10) == 1
    assert warmup_steps(run(), 1000) == 0
