from __future__ import annotations

import math
import random

import numpy as np
import pytest

from orchestrator.schedulers import Action, Decision, Scheduler, TrialInfo, make_scheduler
from orchestrator.schedulers.pareto import fronts, spread_out
from trainer.metrics import Evaluation, StepRecord
from winnow.spec import SchedulerSpec

TOTAL = 800  # rungs at 100, 200 and 400 samples


def start(trials: int = 8, **settings) -> Scheduler:
    scheduler = make_scheduler(SchedulerSpec(name="pareto", **settings), 0)
    for number in range(trials):
        scheduler.add(TrialInfo(f"t{number}", number, {}, TOTAL))
    return scheduler


def reach(
    scheduler: Scheduler,
    number: int,
    losses: dict[str, float | None],
    *,
    norm: float | None = 1.0,
    samples: int = 100,
) -> Decision:
    """The trial's next records up to a rung, with the same norm in each step."""
    steps = [
        StepRecord(s // 10, s, 40 * s, 2.0, norm, 1e-4, 0.1, 1, 10)
        for s in range(10, samples + 1, 10)
    ]
    evaluations = [
        Evaluation(samples // 10, samples, "eval", name, loss, 1000)
        for name, loss in losses.items()
    ]
    decision = scheduler.observe(f"t{number}", steps, evaluations)
    assert decision is not None
    return decision


def best_half(points: list[dict[str, float | None]], **settings) -> set[str]:
    """Who goes on, each being the last of them to come to the first rung."""
    on: set[str] = set()
    for last in range(len(points)):
        scheduler = start(len(points), **settings)
        for number in [n for n in range(len(points)) if n != last]:
            reach(scheduler, number, points[number])
        if reach(scheduler, last, points[last]).action is Action.CONTINUE:
            on.add(f"t{last}")
    return on


def test_keeps_the_compromises_that_the_mean_loss_would_end() -> None:
    points: list[dict[str, float | None]] = [
        {"math": 3.0, "chat": 3.0},  # dominated by all three
        {"math": 1.0, "chat": 2.8},
        {"math": 2.0, "chat": 2.0},
        {"math": 2.8, "chat": 1.0},
        {"math": 2.1, "chat": 2.1},  # a good mean, but dominated
        {"math": 2.2, "chat": 2.2},
    ]
    assert best_half(points) == {"t1", "t2", "t3"}


def test_within_a_front_the_lowest_loss_goes_first_then_the_furthest_from_it() -> None:
    points: list[dict[str, float | None]] = [
        {"math": 2.4, "chat": 1.0},
        {"math": 2.3, "chat": 1.01},
        {"math": 2.2, "chat": 1.02},  # lowest mean is t3
        {"math": 1.0, "chat": 1.9},
    ]
    assert best_half(points) == {"t3", "t0"}


def test_of_one_front_the_lowest_mean_loss_is_kept_before_all_others() -> None:
    points: list[dict[str, float | None]] = [
        {"math": 2.4, "chat": 1.0},
        {"math": 2.3, "chat": 1.1},
        {"math": 1.0, "chat": 1.9},
        {"math": 0.9, "chat": 2.5},
    ]
    assert best_half(points, eta=4) == {"t2"}


def test_with_one_set_the_second_measure_is_the_gradient_norm() -> None:
    scheduler = start(4)
    reach(scheduler, 0, {"main": 2.0}, norm=3.0)
    reach(scheduler, 1, {"main": 2.1}, norm=2.0)
    reach(scheduler, 2, {"main": 2.2}, norm=1.0)
    decision = reach(scheduler, 3, {"main": 2.3}, norm=4.0)
    assert decision.action is Action.PAUSE
    assert decision.reason == (
        "held-out loss 2.3 and mean log gradient norm 1.386 (front 2) at 100 samples ranks 4 of 4; "
        "the best 2 go on"
    )
    assert decision.evidence["measures"]["mean log gradient norm"] == pytest.approx(math.log(4))
    assert (decision.evidence["front"], decision.evidence["fronts"]) == (2, 2)


def test_the_norm_is_the_mean_up_to_the_rung_and_not_beyond() -> None:
    scheduler = start(2)
    first = reach(scheduler, 0, {"main": 2.0}, norm=math.e)
    assert first.evidence["measures"]["mean log gradient norm"] == pytest.approx(1.0)
    later = [StepRecord(k, 10 * k, 1, 2.0, 99.0, 1e-4, 0.1, 1, 10) for k in range(11, 15)]
    scheduler.observe("t0", later, [])
    second = reach(scheduler, 1, {"main": 3.0}, norm=math.e**2)
    assert second.action is Action.PAUSE  # worse in both, whatever trial 0 did later
    assert second.evidence["front"] == 2


def test_steps_done_again_after_a_crash_replace_the_first_ones() -> None:
    scheduler = start(2)
    old = [StepRecord(k, 10 * k, 1, 2.0, 1e9, 1e-4, 0.1, 1, 10) for k in range(1, 9)]
    scheduler.observe("t0", old, [])
    decision = reach(scheduler, 0, {"main": 2.0}, norm=1.0)
    assert decision.evidence["measures"]["mean log gradient norm"] == pytest.approx(0.0)


def test_ranks_follow_norms_that_a_repeated_stretch_has_changed() -> None:
    scheduler = start(2)
    assert reach(scheduler, 0, {"main": 2.0}, norm=5.0).action is Action.PAUSE
    assert reach(scheduler, 1, {"main": 2.0}, norm=1.0).action is Action.CONTINUE
    assert scheduler.next(5) is None
    again = [StepRecord(k, 10 * k, 1, 2.0, 9.0, 1e-4, 0.1, 1, 10) for k in range(1, 11)]
    scheduler.observe("t1", again, [])
    back = scheduler.next(5)
    assert back is not None
    assert back.trial_id == "t0"


@pytest.mark.parametrize("lost", [None, math.nan, math.inf])
def test_without_a_finite_loss_a_trial_is_behind_all_others(lost: float | None) -> None:
    scheduler = start(3)
    reach(scheduler, 0, {"main": 2.0}, norm=9.0)
    reach(scheduler, 1, {"main": 9.0}, norm=8.0)
    decision = reach(scheduler, 2, {"main": lost}, norm=0.1)
    assert decision.action is Action.PAUSE
    assert (decision.evidence["rank"], decision.evidence["front"]) == (3, 2)
    assert "held-out loss not finite" in decision.reason


def test_without_norms_the_loss_alone_decides() -> None:
    scheduler = start(4)
    ranks = [
        reach(scheduler, n, {"main": loss}, norm=None).evidence["rank"]
        for n, loss in enumerate([2.0, 3.0, 2.5, 1.0])
    ]
    assert ranks == [1, 2, 2, 1]


def test_a_trial_that_lacks_one_of_the_sets_is_last_in_it() -> None:
    points: list[dict[str, float | None]] = [
        {"math": 2.0, "chat": 2.0},
        {"math": 2.0},
        {"math": 3.0, "chat": 1.9},
        {"math": 3.0, "chat": 3.0},
    ]
    assert best_half(points) == {"t0", "t2"}


def test_fronts_are_those_of_the_definition() -> None:
    rng = random.Random(0)
    for size, measures in ((1, 2), (7, 2), (30, 2), (30, 3), (12, 1)):
        points = np.array([[rng.randint(0, 6) for _ in range(measures)] for _ in range(size)])
        expected = np.zeros(size, dtype=int)
        number = 0
        while (left := [i for i in range(size) if expected[i] == 0]) != []:
            number += 1
            for i in left:
                if not any(_dominates(points[j], points[i]) for j in left):
                    expected[i] = -number
            expected = np.abs(expected)
        assert fronts(points.astype(float)).tolist() == expected.tolist()


def _dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def test_spreading_out_takes_the_ends_then_the_middle() -> None:
    line = np.array([[0.0], [1.0], [2.0], [5.0], [10.0]])
    assert spread_out(line, 0).tolist() == [0, 4, 3, 2, 1]
    alike = np.zeros((3, 2))
    assert spread_out(alike, 0).tolist() == [0, 1, 2]
