from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.schedulers import Action, Decision, Outcome, Scheduler, TrialInfo, make_scheduler
from orchestrator.schedulers.simulate import simulate
from trainer.metrics import Evaluation
from winnow.spec import SchedulerSpec

TOTAL = 800  # rungs at 100, 200 and 400 samples


def asha(trials: int = 9, **settings) -> Scheduler:
    scheduler = make_scheduler(SchedulerSpec(name="asha", **settings), 0)
    for number in range(trials):
        scheduler.add(TrialInfo(f"t{number}", number, {}, TOTAL))
    return scheduler


def reach(scheduler: Scheduler, number: int, loss: float | None, samples: int = 100) -> Decision:
    evaluation = Evaluation(samples // 10, samples, "eval", "main", loss, 1000)
    decision = scheduler.observe(f"t{number}", [], [evaluation])
    assert decision is not None
    return decision


def test_rungs_are_samples_and_the_same_for_every_rule() -> None:
    for name in ("none", "asha", "paper-sign", "dynamics"):
        assert make_scheduler(SchedulerSpec(name=name), 0).rungs(TOTAL) == (100, 200, 400)
    assert asha().rungs(2) == (1,)
    assert asha().rungs(1) == ()


def test_the_first_at_a_rung_waits_and_the_better_of_two_is_called_back() -> None:
    scheduler = asha()
    first = reach(scheduler, 0, 2.0)
    assert first.action is Action.PAUSE
    assert "waits until 2" in first.reason
    assert scheduler.next(7) is None
    assert reach(scheduler, 1, 3.0).action is Action.PAUSE
    back = scheduler.next(7)
    assert back is not None
    assert (back.trial_id, back.action, back.rule) == ("t0", Action.RESUME, "promotion")
    assert scheduler.next(7) is None


def test_the_reason_is_a_sentence_with_the_rank_and_the_numbers() -> None:
    scheduler = asha()
    for number in range(8):
        reach(scheduler, number, 2.0 + (0.5 if number >= 6 else 0.01 * number))
    decision = reach(scheduler, 8, 2.31)
    assert decision.reason == "held-out loss 2.31 at 100 samples ranks 7 of 9; the best 4 go on"
    assert decision.action is Action.PAUSE
    assert decision.evidence["revived_if"] == "5 more trials reach this rung and do worse"
    assert decision.evidence["samples_saved"] == 700


def test_a_trial_among_the_best_goes_on_and_the_record_says_so() -> None:
    scheduler = asha()
    reach(scheduler, 0, 3.0)
    decision = reach(scheduler, 1, 2.0)
    assert (decision.action, decision.code) == (Action.CONTINUE, "asha")
    assert decision.evidence["rank"] == 1


def test_a_point_is_judged_once() -> None:
    scheduler = asha()
    reach(scheduler, 0, 3.0)
    reach(scheduler, 1, 2.0)
    again = Evaluation(10, 100, "eval", "main", 2.0, 1000)
    assert scheduler.observe("t1", [], [again]) is None


def test_deeper_rungs_are_served_first() -> None:
    scheduler = asha()
    for number in range(4):
        reach(scheduler, number, 3.0 - number)
    for _ in range(2):
        scheduler.next(5)
    assert reach(scheduler, 3, 1.0, samples=200).action is Action.PAUSE
    for number in range(4, 8):
        reach(scheduler, number, 5.0 + number)
    assert reach(scheduler, 2, 2.0, samples=200).action is Action.PAUSE
    back = scheduler.next(1)
    assert back is not None
    assert (back.trial_id, back.evidence["rung"]) == ("t3", 1)


@pytest.mark.parametrize("lost", [None, float("nan")])
def test_a_model_that_cannot_be_judged_ranks_last(lost: float | None) -> None:
    scheduler = asha()
    assert reach(scheduler, 0, lost).action is Action.PAUSE
    assert reach(scheduler, 1, 9.0).action is Action.CONTINUE
    last = scheduler.finish()
    assert [d.trial_id for d in last] == ["t0"]
    assert "no finite loss" in last[0].reason


def test_of_equals_the_lower_number_goes_on_whoever_came_first() -> None:
    for order in ([0, 1], [1, 0]):
        scheduler = asha()
        decisions = {n: reach(scheduler, n, 2.0) for n in order}
        if decisions[0].action is Action.PAUSE:
            back = scheduler.next(0)
            assert back is not None
            assert back.trial_id == "t0"
        assert decisions[1].action is Action.PAUSE


def test_held_out_loss_is_weighted_by_tokens_and_ignores_the_test_split() -> None:
    scheduler = asha()
    evaluations = [
        Evaluation(10, 100, "eval", "a", 1.0, 3000),
        Evaluation(10, 100, "eval", "b", 3.0, 1000),
        Evaluation(10, 100, "test", "c", 9.0, 9000),
    ]
    decision = scheduler.observe("t0", [], evaluations)
    assert decision is not None
    assert decision.evidence["held_out_loss"] == pytest.approx(1.5)


def test_someone_always_runs_to_the_end() -> None:
    scheduler = asha(trials=1)
    samples: Sequence[int] = scheduler.rungs(TOTAL)
    for at in samples:
        assert reach(scheduler, 0, 2.0, samples=at).action is Action.PAUSE
        assert scheduler.next(waiting=1) is None
        back = scheduler.next(waiting=0)
        assert back is not None
        assert back.rule == "last-standing"
    scheduler.completed("t0", Outcome("COMPLETED", "completed", 1.0))
    assert scheduler.finish() == []


def test_when_one_has_completed_the_paused_are_let_go() -> None:
    scheduler = asha(trials=2)
    reach(scheduler, 0, 3.0)
    reach(scheduler, 1, 2.0)
    scheduler.completed("t1", Outcome("COMPLETED", "completed", 1.0))
    assert scheduler.next(0) is None
    (stop,) = scheduler.finish()
    assert (stop.trial_id, stop.action, stop.code) == ("t0", Action.STOP, "asha")
    assert "ranked 2 of 2" in stop.reason


def test_a_user_who_stops_a_paused_trial_takes_it_out_of_the_game() -> None:
    scheduler = asha(trials=2)
    reach(scheduler, 0, 2.0)
    scheduler.completed("t0", Outcome("CANCELED", "user", None))
    reach(scheduler, 1, 3.0)
    back = scheduler.next(0)
    assert back is not None
    assert (back.trial_id, back.rule) == ("t1", "last-standing")
    assert scheduler.finish() == []


def test_a_restart_does_not_wake_a_paused_trial_that_a_user_has_stopped() -> None:
    scheduler = asha(trials=1)
    paused = reach(scheduler, 0, 2.0)
    rebuilt = asha(trials=1)
    rebuilt.completed("t0", Outcome("CANCELED", "user", None))
    rebuilt.replay(paused)
    assert rebuilt.next(0) is None
    assert rebuilt.finish() == []


def test_records_of_an_unknown_trial_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'t9' is not known; add it"):
        asha(1).observe("t9", [], [])


def test_a_batch_that_spans_two_rungs_is_judged_at_the_later_one() -> None:
    scheduler = asha()
    decision = reach(scheduler, 0, 2.0, samples=240)
    assert decision.evidence["rung"] == 1


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_saves_forty_percent_and_keeps_the_best_when_early_ranks_are_final(sweep, workers) -> None:
    saved = []
    for seed in range(10):
        recorded = sweep(16, seed=seed, batches=(4, 16))
        scheduler = make_scheduler(SchedulerSpec(name="asha"), 0)
        result = simulate(scheduler, recorded, workers=workers)
        saved.append(result.saved)
        assert result.best == min(recorded, key=lambda r: r.value or 0).info.id
    assert sum(saved) / len(saved) >= 0.4


def test_none_ends_and_judges_nothing(sweep) -> None:
    result = simulate(make_scheduler(SchedulerSpec(name="none"), 0), sweep(4), workers=2)
    assert result.decisions == []
    assert result.saved == 0
