from __future__ import annotations

from orchestrator.schedulers import Action, Scheduler, TrialInfo, make_scheduler
from orchestrator.schedulers.simulate import simulate
from trainer.metrics import StepRecord
from winnow.spec import SchedulerSpec

TOTAL = 1000  # the point is at 50 samples


def start(trials: int, **settings) -> Scheduler:
    scheduler = make_scheduler(SchedulerSpec(name="paper-sign", **settings), 0)
    for number in range(trials):
        scheduler.add(TrialInfo(f"t{number}", number, {}, TOTAL))
    return scheduler


def arrive(scheduler: Scheduler, number: int, *, norm: float, loss: float):
    steps = [StepRecord(i, 10 * i, 400 * i, loss, norm, 1e-4, 0.1, 1, 10) for i in range(1, 6)]
    decision = scheduler.observe(f"t{number}", steps, [])
    assert decision is not None
    return decision


def test_waits_for_four_then_keeps_low_norm_with_high_loss() -> None:
    scheduler = start(5)
    for number in range(3):
        waits = arrive(scheduler, number, norm=5.0 - number, loss=1.0 + number)
        assert waits.action is Action.PAUSE
        assert "of the 4 trials needed" in waits.reason
    assert scheduler.next(2) is None
    worst = arrive(scheduler, 3, norm=9.0, loss=0.5)
    assert (worst.action, worst.code, worst.rule) == (Action.STOP, "paper-sign", "paper-sign")
    assert "rank 4 of 4; the best 2 go on" in worst.reason
    called = [d.trial_id for _ in range(3) if (d := scheduler.next(1)) is not None]
    assert called == ["t2", "t1"]
    assert arrive(scheduler, 4, norm=0.1, loss=9.0).action is Action.CONTINUE
    assert [(d.trial_id, d.action) for d in scheduler.finish()] == [("t0", Action.STOP)]


def test_keep_says_which_fraction_goes_on() -> None:
    scheduler = start(4, keep=0.25)
    for number in range(3):
        arrive(scheduler, number, norm=5.0 + number, loss=1.0)
    decision = arrive(scheduler, 3, norm=1.0, loss=2.0)
    assert decision.evidence["quota"] == 1
    assert decision.action is Action.CONTINUE


def test_with_fewer_than_four_trials_there_is_no_rule_and_all_run(sweep) -> None:
    result = simulate(start(0), sweep(3), workers=1)
    assert result.saved == 0
    assert {t.state for t in result.trials.values()} == {"COMPLETED"}


def test_ends_about_half_of_sixteen_at_its_point(sweep) -> None:
    recorded = sweep(16, seed=4)
    result = simulate(start(0), recorded, workers=4, batch_seconds=0.1)
    stopped = [t for t in result.trials.values() if t.reason == "paper-sign"]
    assert 5 <= len(stopped) <= 11
    assert all(t.samples <= 0.1 * 1600 for t in stopped)
