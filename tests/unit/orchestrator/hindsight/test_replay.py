"""A recorded sweep under another rule: what is saved, what is lost, and what can't be known."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.hindsight.recorded import Ending, StoredTrial
from orchestrator.hindsight.replay import replay, with_own_rungs
from orchestrator.schedulers import make_scheduler
from orchestrator.schedulers.base import Outcome, TrialInfo
from orchestrator.schedulers.simulate import Recorded
from trainer.metrics import Evaluation, StepRecord
from winnow.replays import Replay
from winnow.spec import SchedulerSpec, SweepSpec

TOTAL, BATCH = 1000, 10


def sweep(**changes: Any) -> SweepSpec:
    document = {
        "name": "s",
        "model": "/m",
        "data": {"train": [{"path": "/t.jsonl"}], "eval": [{"path": "/e.jsonl"}]},
        "space": {"learning_rate": {"log_uniform": [1e-5, 1e-3]}, "effective_batch_size": BATCH},
        "search": {"sampler": "random", "trials": 8},
        "resources": {"workers_per_trial": 2, "cpus_per_worker": 3},
    }
    return SweepSpec.model_validate(document | changes)


def trial(
    number: int,
    value: float | None,
    at_half: float | None,
    *,
    until: int = TOTAL,
    ending: Ending = "completed",
    measured_at: int = 500,
) -> StoredTrial:
    """A trial of ten seconds and a thousand samples, measured at half and at its end, a second
    each; or the first `until` samples of one."""
    steps = tuple(
        StepRecord(n, n * BATCH, n * 100, 2.0, 1.0, 1e-4, 0.1, 1, BATCH)
        for n in range(1, until // BATCH + 1)
    )
    at = [(measured_at, at_half), (TOTAL, value)]
    evaluations = tuple(
        Evaluation(samples // BATCH, samples, "eval", "e", loss, 100, seconds=1.0)
        for samples, loss in at
        if samples <= until and loss is not None
    )
    known = value if ending == "completed" else None
    recorded = Recorded(TrialInfo(f"s-{number}", number, {}, TOTAL), steps, evaluations, known)
    state = {"completed": "COMPLETED", "failed": "FAILED", "censored": "PRUNED"}[ending]
    return StoredTrial(recorded, ending, Outcome(state, ending, known), 11.0)


def under(trials: list[StoredTrial], spec: SweepSpec | None = None, **scheduler: Any) -> Replay:
    rule = SchedulerSpec.model_validate({"name": "asha", "rungs": [0.5]} | scheduler)
    return replay(
        trials,
        make_scheduler(rule, seed=0),
        rule,
        sweep=spec or sweep(),
        sweep_id="s",
        seed=0,
        workers=2,
    )


def fates(found: Replay) -> dict[int, str]:
    return {t.number: t.fate for t in found.outcomes}


EARLY_RANKS_HOLD = [trial(n, value=n / 10, at_half=1 + n / 10) for n in range(1, 5)]
THE_SLOWEST_WINS = [trial(n, value=n / 10, at_half=2 - n / 10) for n in range(1, 5)]


def test_where_early_ranks_hold_the_best_is_kept_and_half_the_rest_is_saved():
    found = under(EARLY_RANKS_HOLD)
    assert fates(found) == {1: "kept", 2: "kept", 3: "stopped", 4: "stopped"}
    assert (found.best_trial, found.best_kept, found.regret) == ("s-1", True, 0)
    assert (found.samples_trained, found.samples_full) == (3000, 4000)
    # Each takes 11 s in full, and is measured once more at half: 2 run 12 s, 2 stop after 6 s.
    assert found.seconds_full == pytest.approx(44)
    assert found.seconds == pytest.approx(36)
    assert found.saved == found.saved_at_least == pytest.approx(1 - 36 / 44)
    assert (found.stopped, found.censored, found.unknown) == (2, 0, 0)


def test_a_stopped_trial_says_where_and_why():
    stopped = under(EARLY_RANKS_HOLD).outcomes[3]
    assert (stopped.samples, stopped.rule, stopped.value) == (500, "rung", 0.4)
    assert "ranked 4 of 4" in (stopped.reason or "")


def test_where_the_slowest_wins_the_loss_is_told_in_the_objectives_units():
    found = under(THE_SLOWEST_WINS)
    assert fates(found) == {1: "stopped", 2: "kept", 3: "kept", 4: "kept"}, "the best comes first"
    assert not found.best_kept
    assert (found.best_trial, found.chosen_trial) == ("s-1", "s-2")
    assert found.regret == pytest.approx(0.1)


def test_where_higher_is_better_values_are_shown_as_measured():
    negated = [trial(n, value=-n / 10, at_half=n / 10) for n in range(1, 5)]
    found = under(negated, sweep(objective={"metric": "eval/exact_match"}))
    assert (found.mode, found.best_trial, found.best_value) == ("max", "s-4", 0.4)
    assert (found.chosen_trial, found.chosen_value) == ("s-2", 0.2)
    assert found.regret == pytest.approx(0.2)
    assert {t.number: t.value for t in found.outcomes} == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}


def test_random_search_gets_as_many_whole_trials_as_the_same_time_runs():
    found = under(EARLY_RANKS_HOLD)
    picked = 4 * 36 / 44
    assert found.random.trials == pytest.approx(picked)
    assert found.random.best_kept == pytest.approx(picked / 4)
    # Of 3 picked from .1 … .4 the best is .1 in 3 of 4 picks and .2 in one; of all 4 it is .1.
    three = (3 * 0.1 + 0.2) / 4
    assert found.random.value == pytest.approx(three + (picked - 3) * (0.1 - three))
    assert found.random.regret == pytest.approx((found.random.value or 0) - 0.1)


def test_time_is_told_in_hours_of_the_device_and_on_the_wall():
    found = under(EARLY_RANKS_HOLD)
    assert found.device == "CPU"
    assert found.device_hours == pytest.approx(36 * 6 / 3600), "2 workers of 3 CPUs each"
    assert found.wall_seconds_full == pytest.approx(22), "4 trials of 11 s, 2 at once"
    on_gpus = under(EARLY_RANKS_HOLD, sweep(resources={"gpus_per_trial": 4}))
    assert (on_gpus.device, on_gpus.device_hours) == ("GPU", pytest.approx(36 * 4 / 3600))


# --- trials that were stopped when the sweep ran ------------------------------------------------


def with_one_stopped(until: int, at_half: float) -> list[StoredTrial]:
    stopped = trial(4, None, at_half, until=until, ending="censored")
    return [*EARLY_RANKS_HOLD[:3], stopped]


def test_a_trial_that_the_rule_stops_no_later_than_the_recorded_one_is_known():
    found = under(with_one_stopped(until=500, at_half=9.0))
    assert fates(found)[4] == "stopped"
    assert (found.censored, found.unknown) == (1, 0)
    assert found.samples_full == 4000, "run whole it would have taken its budget"
    assert "1 of 4 trials were ended early when the sweep ran" in found.notes[0]


@pytest.mark.parametrize("until", [250, 500])
def test_a_trial_that_the_rule_lets_run_past_its_records_is_unknown_and_left_out(until: int):
    found = under(with_one_stopped(until=until, at_half=0.5))
    assert fates(found)[4] == "unknown"
    assert (found.unknown, found.samples_full) == (1, 3000)
    assert found.saved_at_least == pytest.approx(
        (found.seconds_full - found.seconds) / (found.seconds_full + 10)
    ), "as if it had run to its end at its own pace"
    assert any("past what was recorded" in note for note in found.notes)


def test_nobody_takes_a_trial_of_unknown_end_for_a_completed_one():
    found = under(with_one_stopped(until=500, at_half=0.5))
    assert found.completed == 3
    assert found.chosen_trial != "s-4"
    assert found.random.trials <= 3, "nor is it among those that are picked at random"


def test_a_trial_that_fails_would_have_failed_under_any_rule():
    failed = trial(2, None, None, until=250, ending="failed")
    found = under([EARLY_RANKS_HOLD[0], failed, *EARLY_RANKS_HOLD[2:]])
    assert fates(found)[2] == "failed"
    assert found.samples_full == 3250, "and would have taken no more"
    assert found.notes == []


# --- rungs where nothing was measured -----------------------------------------------------------


def test_a_rung_is_judged_at_the_next_evaluation():
    late = [trial(n, n / 10, 1 + n / 10, measured_at=600) for n in range(1, 5)]
    found = under(late)
    assert fates(found) == {1: "kept", 2: "kept", 3: "stopped", 4: "stopped"}
    assert found.outcomes[3].samples == 600
    assert found.notes == []


def test_a_rung_that_nothing_was_measured_for_is_told():
    found = under(EARLY_RANKS_HOLD, rungs=[0.1, 0.25, 0.5])
    assert [n for n in found.notes if "no held-out loss" in n] == [
        "no held-out loss was measured between 0.1 and 0.25 of the budget in 4 of 4 trials: "
        "the rung at 0.1 doesn't judge them",
        "no held-out loss was measured between 0.25 and 0.5 of the budget in 4 of 4 trials: "
        "the rung at 0.25 doesn't judge them",
    ]
    assert fates(found)[4] == "stopped", "the rung at half judges them as ever"


def test_rungs_that_are_not_given_are_the_sweeps_own():
    own = SchedulerSpec(name="none", rungs=(0.3, 0.6))
    assert with_own_rungs(SchedulerSpec(name="asha"), own).rungs == (0.3, 0.6)
    given = SchedulerSpec(name="asha", rungs=(0.5,))
    assert with_own_rungs(given, own).rungs == (0.5,)


def test_a_sampler_that_learns_might_have_proposed_others():
    found = under(EARLY_RANKS_HOLD, sweep(search={"sampler": "tpe", "trials": 4}))
    assert any("tpe" in note for note in found.notes)


@pytest.mark.parametrize("name", ["none", "random", "asha", "hyperband", "median", "wilcoxon"])
def test_the_same_replay_twice_is_the_same(name: str):
    trials = [*EARLY_RANKS_HOLD, *with_one_stopped(500, 0.5)[3:]]
    trials[4] = trial(5, None, 0.5, until=500, ending="censored")
    assert under(trials, name=name) == under(trials, name=name)
