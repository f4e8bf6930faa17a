from __future__ import annotations

import math

import pytest

from orchestrator.schedulers import Action, Decision, Outcome, Scheduler, TrialInfo, make_scheduler
from orchestrator.schedulers.median import LEAST_PEERS
from orchestrator.schedulers.simulate import simulate
from trainer.metrics import Evaluation
from winnow.spec import SchedulerSpec

TOTAL = 800  # rungs at 100, 200 and 400 samples


def start(trials: int = 12) -> Scheduler:
    scheduler = make_scheduler(SchedulerSpec(name="median"), 0)
    for number in range(trials):
        scheduler.add(TrialInfo(f"t{number}", number, {}, TOTAL))
    return scheduler


def reach(scheduler: Scheduler, number: int, loss: float | None, samples: int = 100) -> Decision:
    evaluation = Evaluation(samples // 10, samples, "eval", "main", loss, 1000)
    decision = scheduler.observe(f"t{number}", [], [evaluation])
    assert decision is not None
    return decision


def test_passes_everyone_until_there_are_enough_others() -> None:
    scheduler = start()
    for number in range(LEAST_PEERS):
        decision = reach(scheduler, number, 2.0 + number)
        assert decision.action is Action.CONTINUE
        assert f"has {number} of the 5 others here" in decision.reason
    assert reach(scheduler, LEAST_PEERS, 99.0).action is Action.STOP


def test_stops_what_is_worse_than_the_median_and_says_so() -> None:
    scheduler = start()
    for number, loss in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        reach(scheduler, number, loss)
    assert reach(scheduler, 5, 3.0).action is Action.CONTINUE  # equal is not worse
    decision = reach(scheduler, 6, 3.01)  # the median of 1 2 3 3 4 5 is 3
    assert (decision.action, decision.code, decision.rule) == (Action.STOP, "median", "median")
    assert decision.reason == (
        "best held-out loss 3.01 up to 100 samples is worse than 3, the median of 6 others' means"
    )
    assert decision.evidence["median_of_averages"] == 3.0
    assert decision.evidence["samples_saved"] == 700
    assert scheduler.next(0) is None
    assert scheduler.finish() == []


def test_others_count_by_their_average_so_far_and_the_trial_by_its_best() -> None:
    scheduler = start()
    for number in range(6):
        reach(scheduler, number, 4.0)
    for number in range(5):
        reach(scheduler, number, 2.0, samples=200)  # averages: 3
    decision = reach(scheduler, 5, 2.9, samples=200)
    assert decision.action is Action.CONTINUE
    reach(scheduler, 6, 3.5)
    decision = reach(scheduler, 6, 5.0, samples=200)  # got worse, but its best is 3.5 > 3
    assert decision.action is Action.STOP
    assert decision.evidence["best_so_far"] == 3.5


def test_a_trial_whose_batch_skipped_a_rung_is_compared_over_the_rungs_it_has() -> None:
    scheduler = start()
    for number in range(6):
        reach(scheduler, number, 4.0)
        reach(scheduler, number, 2.0, samples=200)
    # Over both rungs the others' mean is 3, over the one that it has it is 2.
    decision = reach(scheduler, 6, 2.5, samples=200)
    assert decision.action is Action.STOP
    assert decision.evidence["median_of_averages"] == 2.0
    # The other way round, it is no peer: it has nothing at the first rung.
    assert reach(scheduler, 7, 3.0).evidence["peers"] == 6


def test_only_those_that_have_got_as_far_are_peers() -> None:
    scheduler = start()
    for number in range(8):
        reach(scheduler, number, 2.0)
    for number in range(6):
        assert reach(scheduler, number, 2.0, samples=200).evidence["peers"] == number


def test_a_trial_that_failed_on_its_way_is_a_peer_where_it_has_been() -> None:
    scheduler = start()
    for number in range(5):
        reach(scheduler, number, 2.0)
        scheduler.completed(f"t{number}", Outcome("FAILED", "oom", None))
    assert reach(scheduler, 5, 3.0).action is Action.STOP


@pytest.mark.parametrize("lost", [None, math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_worse_than_any(lost: float | None) -> None:
    scheduler = start()
    for number in range(5):
        reach(scheduler, number, 2.0)
    decision = reach(scheduler, 5, lost)
    assert decision.action is Action.STOP
    assert "best held-out loss not finite" in decision.reason
    assert decision.evidence["best_so_far"] is None


def test_stops_nobody_among_equals() -> None:
    scheduler = start()
    assert {reach(scheduler, n, 2.0).action for n in range(12)} == {Action.CONTINUE}


def test_keeps_the_best_if_early_ranks_are_final(sweep) -> None:
    recorded = sweep(20, seed=3)
    result = simulate(make_scheduler(SchedulerSpec(name="median"), 0), recorded, workers=2)
    assert result.best == min(recorded, key=lambda r: r.value).info.id
    assert result.saved > 0.1
