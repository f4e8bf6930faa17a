"""What the throughput benchmark counts, and that it refuses sides that trained different things."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.throughput import (
    PLANS,
    BenchmarkFailed,
    Timed,
    _timed,
    check_same_work,
    loss_difference,
)
from benchmarks.throughput_work import SIZES


def run(losses: list[float], setting: str = "padded:2") -> Timed:
    return Timed(setting, losses, tokens=100, seconds=2.0, cpu=1.0, memory=0)


def test_the_first_step_warms_up_and_is_not_counted() -> None:
    line: dict[str, Any] = {
        "setting": "packed",
        "steps": [
            {"loss": 3.0, "tokens": 1000, "ended": 10.0, "cpu": 5.0},
            {"loss": 2.0, "tokens": 300, "ended": 12.0, "cpu": 6.0},
            {"loss": 1.0, "tokens": 500, "ended": 14.0, "cpu": 7.5},
        ],
    }
    timed = _timed(line)
    assert (timed.tokens, timed.seconds, timed.cpu) == (800, 4.0, 2.5)
    assert timed.speed == 200.0


def test_sides_with_equal_losses_did_the_same_work() -> None:
    check_same_work([run([2.0, 1.0])], [run([2.0001, 1.00005])])


def test_sides_with_different_losses_are_refused() -> None:
    with pytest.raises(BenchmarkFailed, match="didn't train the same"):
        check_same_work([run([2.0, 1.0])], [run([2.0, 1.01])])


def test_packing_makes_other_steps_and_is_not_compared() -> None:
    check_same_work([run([2.0, 1.0])], [run([2.1, 1.2], "packing:1")])
    assert loss_difference([run([2.0, 1.0])], [run([2.0, 0.9])]) == pytest.approx(0.1)


@pytest.mark.parametrize("name", PLANS)
def test_every_setting_makes_whole_effective_batches(name: str) -> None:
    batch = SIZES[name].batch
    for setting in PLANS[name].settings:
        kind, _, rows = setting.partition(":")
        assert kind in ("padded", "padding-free", "packing")
        assert kind == "packing" or batch % int(rows) == 0
