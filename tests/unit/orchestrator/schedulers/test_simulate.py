"""The replay simulator: where a worker's seconds go, and what a scheduler is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.schedulers import Action, Decision, Outcome, TrialInfo
from orchestrator.schedulers.simulate import Recorded, simulate
from trainer.metrics import Evaluation, StepRecord

TOTAL = 100


def trial(name: str, *, step_seconds: float = 1.0, value: float | None = 1.0, steps: int = 10):
    """Ten steps of ten samples; evaluated, for half a second, after each of them."""
    return Recorded(
        TrialInfo(name, int(name[1:]), {}, TOTAL),
        tuple(
            StepRecord(i, 10 * i, 10 * i, 1.0, 1.0, 1e-3, step_seconds, 1, 10)
            for i in range(1, steps + 1)
        ),
        tuple(
            Evaluation(i, 10 * i, split, "main", 1.0, 100, seconds=0.5)
            for i in range(1, steps + 1)
            for split in ("eval", "test")
        ),
        value,
        (7.0,),
    )


class Scripted:
    """Does what a script says at a trial's first report at a rung; resumes who is paused."""

    name = "scripted"

    def __init__(self, rungs: tuple[int, ...], script: dict[str, Action]) -> None:
        self._rungs, self._script = rungs, script
        self.paused: list[str] = []
        self.seen: list[tuple[str, int]] = []
        self.shown: list[Evaluation] = []
        self.outcomes: dict[str, Outcome] = {}

    def rungs(self, total_samples: int) -> tuple[int, ...]:
        return self._rungs

    def add(self, trial: TrialInfo) -> None: ...

    def observe(self, trial_id, steps, evaluations) -> Decision | None:
        self.seen += [(trial_id, s.samples) for s in steps]
        self.shown += evaluations
        if not evaluations or trial_id not in self._script:
            return None
        action = self._script.pop(trial_id)
        if action is Action.PAUSE:
            self.paused.append(trial_id)
        return Decision(trial_id, action, "script", "", "scripted", steps[-1].samples)

    def completed(self, trial_id: str, outcome: Outcome) -> list[Decision]:
        self.outcomes[trial_id] = outcome
        return []

    def next(self, waiting: int) -> Decision | None:
        if not self.paused or waiting:
            return None
        return Decision(self.paused.pop(), Action.RESUME, "script", "", "scripted", 0)

    def finish(self) -> list[Decision]:
        return []

    def pin(self, trial_id: str, pinned: bool) -> None: ...

    def replay(self, decision: Decision) -> None: ...


Script = Callable[..., Scripted]


def test_seconds_of_training_evaluating_and_switching_add_up() -> None:
    scheduler = Scripted((50,), {"t0": Action.STOP, "t1": Action.PAUSE})
    recorded = [trial("t0"), trial("t1", step_seconds=2.0), trial("t2")]
    sweep = simulate(scheduler, recorded, workers=1, pause_seconds=3.0, resume_seconds=4.0)
    stopped, paused, whole = (sweep.trials[t] for t in ("t0", "t1", "t2"))
    assert (stopped.train_seconds, stopped.evaluation_seconds, stopped.switch_seconds) == (
        5,
        0.5,
        0,
    )
    assert (paused.train_seconds, paused.evaluation_seconds, paused.switch_seconds) == (20, 1, 7)
    assert (whole.train_seconds, whole.evaluation_seconds) == (10, 1)
    assert sweep.full_seconds == 10.5 + 20.5 + 10.5
    assert sweep.compute == pytest.approx((5.5 + 28 + 11) / 41.5)
    # One worker that never idles: the wall time is all of it.
    assert sweep.seconds == pytest.approx(5.5 + 28 + 11)


def test_two_workers_run_side_by_side_at_each_trials_pace() -> None:
    recorded = [trial("t0"), trial("t1", step_seconds=3.0), trial("t2")]
    sweep = simulate(Scripted((), {}), recorded, workers=2)
    # t0 and t2, one after the other, beside t1.
    assert sweep.seconds == 30.5
    assert sweep.compute == 1


def test_rungs_cost_their_evaluations_even_if_nobody_is_stopped() -> None:
    sweep = simulate(Scripted((20, 50), {}), [trial("t0")], workers=1)
    assert sweep.saved == 0
    assert sweep.compute == pytest.approx(1 + 1.0 / 10.5)


def test_only_evaluations_at_rungs_and_at_the_end_are_shown_and_none_of_the_test_set() -> None:
    scheduler = Scripted((20, 45), {})
    simulate(scheduler, [trial("t0")], workers=1, batch_seconds=100.0)
    # Nothing was recorded at 45: the trial trains on to 50 and is judged there.
    assert [(e.split, e.samples) for e in scheduler.shown] == [
        ("eval", 20),
        ("eval", 50),
        ("eval", 100),
    ]


def test_a_scheduler_sees_every_step_once_and_in_order() -> None:
    scheduler = Scripted((50,), {"t0": Action.PAUSE})
    simulate(scheduler, [trial("t0")], workers=1, batch_seconds=2.5)
    assert scheduler.seen == [("t0", s) for s in range(10, 101, 10)]


def test_a_trial_that_broke_ends_as_failed_where_its_records_end() -> None:
    scheduler = Scripted((50,), {})
    broken = trial("t0", value=None, steps=3)
    sweep = simulate(scheduler, [broken, trial("t1")], workers=1)
    assert sweep.trials["t0"].state == "FAILED"
    assert sweep.trials["t0"].samples == 30
    assert scheduler.outcomes["t0"].value is None
    assert sweep.best == "t1"


def test_a_completed_trial_reports_all_its_objectives() -> None:
    scheduler = Scripted((), {})
    simulate(scheduler, [replace(trial("t0"), value=0.5)], workers=1)
    assert scheduler.outcomes["t0"] == Outcome("COMPLETED", "completed", 0.5, (7.0,))


def test_a_trial_without_a_step_fails_and_holds_nobody_up() -> None:
    empty = replace(trial("t0"), steps=(), evaluations=(), value=None)
    sweep = simulate(Scripted((50,), {}), [empty, trial("t1")], workers=1)
    assert sweep.trials["t0"].state == "FAILED"
    assert sweep.trials["t1"].state == "COMPLETED"
