from __future__ import annotations

import pytest

from orchestrator.schedulers.curves import Curve, mean_loss
from trainer.metrics import Evaluation


def test_steps_done_again_replace_those_of_the_attempt_before(trial) -> None:
    first, again = trial(0, seed=1).steps, trial(0, seed=2).steps
    curve = Curve()
    assert curve.extend(first[:10], []) == 0
    assert curve.extend(again[6:8], []) == 6
    kept = [(s.step, s.loss, s.grad_norm) for s in curve.steps]
    assert kept == [(s.step, s.loss, s.grad_norm) for s in [*first[:6], *again[6:8]]]
    assert curve.samples == again[7].samples


def test_until_takes_whole_steps(trial) -> None:
    curve = Curve()
    curve.extend(trial(0, batch=16).steps, [])
    assert [s.samples for s in curve.until(50)] == [16, 32, 48]
    assert curve.until(15) == []


def test_a_rung_s_loss_is_the_first_one_past_it_and_before_the_next() -> None:
    curve = Curve()
    made = [Evaluation(n, n, "eval", "a", float(n), 10) for n in (0, 120, 240, 900)]
    curve.extend([], made)
    assert [
        None if (h := curve.held_out(low, high)) is None else h.loss
        for low, high in ((100, 200), (200, 400), (400, 800))
    ] == [120.0, 240.0, None]


@pytest.mark.parametrize("losses", [[None], [1.0, None], [float("inf")]])
def test_a_mean_of_what_was_not_measured_is_none(losses: list[float | None]) -> None:
    assert mean_loss([Evaluation(1, 1, "eval", str(x), x, 10) for x in losses]) is None
