from __future__ import annotations

import pytest

from orchestrator.schedulers import Action, Decision, Outcome, Scheduler, TrialInfo, make_scheduler
from orchestrator.schedulers.simulate import simulate
from trainer.metrics import Evaluation
from winnow.spec import SchedulerSpec

TOTAL = 1000  # with first_rung 0.1 the point is at 100 samples


def start(trials: int, **settings) -> Scheduler:
    wanted = {"name": "one-epoch", "first_rung": 0.1, "keep": 0.5, **settings}
    scheduler = make_scheduler(SchedulerSpec.model_validate(wanted), 0)
    for number in range(trials):
        scheduler.add(TrialInfo(f"t{number}", number, {}, TOTAL))
    return scheduler


def arrive(
    scheduler: Scheduler, number: int, loss: float | None, samples: int = 100
) -> Decision | None:
    evaluation = Evaluation(samples // 10, samples, "eval", "main", loss, 1000)
    return scheduler.observe(f"t{number}", [], [evaluation])


def call_all(scheduler: Scheduler, waiting: int = 0) -> list[str]:
    called: list[str] = []
    while (decision := scheduler.next(waiting)) is not None:
        assert decision.action is Action.RESUME
        called.append(decision.trial_id)
    return called


def complete(scheduler: Scheduler, *numbers: int, state: str = "COMPLETED") -> None:
    for number in numbers:
        scheduler.completed(f"t{number}", Outcome(state, "completed", 1.0 + number))


def test_held_out_loss_is_measured_at_the_point_and_at_the_rungs() -> None:
    assert start(0).rungs(TOTAL) == (100, 125, 250, 500)
    assert start(0, first_rung=0.25).rungs(TOTAL) == (125, 250, 500)
    assert start(0, rungs=()).rungs(TOTAL) == (100,)


def test_all_wait_for_the_last_one_then_the_best_half_goes_on() -> None:
    scheduler = start(4)
    for number, loss in enumerate([2.4, 2.1, 2.3]):
        decision = arrive(scheduler, number, loss)
        assert decision is not None
        assert decision.action is Action.PAUSE
        assert call_all(scheduler) == []  # one is still on its way
    arrive(scheduler, 3, 2.2)
    assert call_all(scheduler, waiting=1) == []  # one is still to be started
    assert call_all(scheduler) == ["t1", "t3"]
    complete(scheduler, 1, 3)
    assert call_all(scheduler) == []
    assert [(d.trial_id, d.action) for d in scheduler.finish()] == [
        ("t0", Action.STOP),
        ("t2", Action.STOP),
    ]


def test_reasons() -> None:
    scheduler = start(3)
    *_, decision = [arrive(scheduler, n, loss) for n, loss in enumerate([2.4, 2.1, 2.3])]
    assert decision is not None
    assert decision.reason == (
        "held-out loss 2.3 at 100 samples ranks 2 of 3 so far; all wait here until the last one "
        "has come, then the best 50% go on"
    )
    back = scheduler.next(0)
    assert back is not None
    assert back.reason == (
        "all have come: held-out loss 2.1 at 100 samples ranks 1 of 3, one of the best 2, and "
        "goes on to the end"
    )
    complete(scheduler, 1)
    scheduler.next(0)
    complete(scheduler, 2)
    (stop,) = scheduler.finish()
    assert stop.reason == (
        "held-out loss 2.4 at 100 samples ranked 3 of 3; only the best 2 went on"
    )
    assert (stop.code, stop.evidence["samples_saved"]) == ("one-epoch", 900)


@pytest.mark.parametrize(("keep", "trials", "kept"), [(0.1, 4, 1), (0.25, 8, 2), (0.3, 8, 3)])
def test_keep_is_rounded_up(keep: float, trials: int, kept: int) -> None:
    scheduler = start(trials, keep=keep)
    for number in range(trials):
        arrive(scheduler, number, 2.0 + number)
    assert call_all(scheduler) == [f"t{n}" for n in range(kept)]


def test_nobody_waits_for_a_trial_that_has_failed() -> None:
    scheduler = start(3)
    arrive(scheduler, 0, 2.0)
    arrive(scheduler, 1, 3.0)
    assert call_all(scheduler) == []
    complete(scheduler, 2, state="FAILED")
    assert call_all(scheduler) == ["t0"]


def test_when_a_chosen_one_fails_the_next_best_takes_its_place() -> None:
    scheduler = start(4)
    for number in range(4):
        arrive(scheduler, number, 2.0 + number)
    assert call_all(scheduler) == ["t0", "t1"]
    complete(scheduler, 0, state="FAILED")
    assert call_all(scheduler) == ["t2"]
    complete(scheduler, 1, 2, state="FAILED")
    assert call_all(scheduler) == ["t3"]


def test_a_trial_that_was_never_measured_holds_up_the_others_only_until_its_end() -> None:
    scheduler = start(3)
    arrive(scheduler, 0, 2.0)
    arrive(scheduler, 1, 3.0)
    assert arrive(scheduler, 2, 1.0, samples=TOTAL) is None
    assert call_all(scheduler) == []
    complete(scheduler, 2)
    assert call_all(scheduler) == ["t0"]


def test_a_large_batch_is_judged_at_its_first_evaluation_past_the_point() -> None:
    scheduler = start(2)
    arrive(scheduler, 0, 2.0)
    late = arrive(scheduler, 1, 1.5, samples=600)
    assert late is not None
    assert (late.action, late.samples) == (Action.PAUSE, 600)
    assert call_all(scheduler) == ["t1"]


def test_trials_that_are_added_later_join_the_ranking() -> None:
    scheduler = start(2)
    arrive(scheduler, 0, 2.0)
    arrive(scheduler, 1, 3.0)
    assert call_all(scheduler) == ["t0"]
    for number, loss in ((2, 1.0), (3, 4.0)):
        scheduler.add(TrialInfo(f"t{number}", number, {}, TOTAL))
        assert call_all(scheduler) == []
        arrive(scheduler, number, loss)
    assert call_all(scheduler) == ["t2"]  # best two of four: t2 and t0, which is running already


def test_a_loss_that_is_not_finite_ranks_last_and_equals_go_by_number() -> None:
    scheduler = start(4)
    for number, loss in enumerate([None, 2.0, 2.0, float("inf")]):
        arrive(scheduler, number, loss)
    assert call_all(scheduler) == ["t1", "t2"]


def test_the_rungs_after_the_point_change_nothing() -> None:
    scheduler = start(2)
    arrive(scheduler, 0, 2.0)
    arrive(scheduler, 1, 3.0)
    assert call_all(scheduler) == ["t0"]
    assert arrive(scheduler, 0, 9.0, samples=250) is None


def test_an_audited_trial_counts_as_spared_only_if_it_would_not_have_gone_on() -> None:
    scheduler = start(40, audit=0.5)
    for number in range(40):
        arrive(scheduler, number, 1.0 + number)
    called = call_all(scheduler)
    audited = [n for n in range(40) if f"t{n}" not in called and n < 20]
    assert 5 < len(audited) < 15  # they went on anyway
    spared = [n for n in range(20, 40) if scheduler.next(0) is None]
    complete(scheduler, *range(20))
    ended = {d.trial_id for d in scheduler.finish()}
    still = [n for n in spared if f"t{n}" not in ended]
    complete(scheduler, *still)
    report = scheduler.audit()  # type: ignore[attr-defined]
    assert report["audited_stops"] == len(still)
    assert report["false_stops"] == 0


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_saves_what_it_promises_and_keeps_the_best_if_early_ranks_are_final(sweep, workers) -> None:
    recorded = sweep(16, seed=2)
    spec = SchedulerSpec(name="one-epoch", first_rung=0.125, keep=0.25)
    result = simulate(make_scheduler(spec, 0), recorded, workers=workers)
    assert result.saved == pytest.approx(0.75 * 0.875, abs=0.02)
    assert result.best == min(recorded, key=lambda r: r.value).info.id
