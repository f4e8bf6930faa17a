"""Sweeps with several objectives: what the scheduler hears, what is stored, who is on the front."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.hindsight.replay import replay_sweep
from orchestrator.schedulers.base import Outcome
from orchestrator.study import Attempt
from tests.fixtures.simulated_worker import SimulatedRun, drive
from tests.fixtures.studies import Studies, spec
from trainer.config import TrainConfig
from trainer.metrics import Evaluation
from winnow.spec import ReplayRequest
from winnow.types import SweepState, TrialState

GENERAL = spec()["data"] | {"general": [{"path": "/data/wiki.jsonl", "name": "wiki"}]}
JUDGE = {"judge": {"base_url": "https://judge.example/v1", "model": "j", "questions": "/q.jsonl"}}
BOTH = {
    "objective": {"metric": "eval/loss", "also": ["general/loss", "judge/score"]},
    "data": GENERAL,
    "evaluation": JUDGE,
}


class Forgetting(SimulatedRun):
    """The higher the rate, the worse on general text; what a judge says goes by held-out loss."""

    def _on(self, sets: list[tuple[str, str]], end: bool) -> tuple[Evaluation, ...]:
        rate = self.config.learning_rate
        return tuple(
            replace(e, loss=2.0 + 10 * rate) if e.split == "general" else e
            for e in super()._on(sets, end)
        )


def forgetting(attempt: Attempt) -> SimulatedRun:
    config = TrainConfig.model_validate_json(attempt.config)
    return Forgetting(config, attempt.resume_from)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> dict[str, Outcome]:
    """The outcomes that schedulers were told, by trial."""
    from orchestrator.schedulers.tracking import TrackingScheduler

    told: dict[str, Outcome] = {}
    real = TrackingScheduler.completed

    def completed(self: Any, trial_id: str, outcome: Outcome) -> Any:
        told[trial_id] = outcome
        return real(self, trial_id, outcome)

    monkeypatch.setattr(TrackingScheduler, "completed", completed)
    return told


def test_each_trial_keeps_its_further_figures_and_the_sweep_names_the_front(
    studies_on_both: Studies,
) -> None:
    sweep_id = studies_on_both.queued(**BOTH)
    drive(studies_on_both.take(sweep_id), make=forgetting)
    sweep = studies_on_both.store.get_sweep(sweep_id)
    trials = [t for t in studies_on_both.store.list_trials(sweep_id).items if t.kind == "search"]
    for trial in trials:
        rate = trial.params["learning_rate"]
        assert trial.also["general/loss"] == pytest.approx(2 + 10 * rate)
        assert trial.value is not None
        assert trial.also["judge/score"] == pytest.approx(10 - trial.value)
    by_rate = {t.params["learning_rate"]: t.id for t in trials}
    # Held-out loss is best at 1e-2 and falls off to both sides; general loss rises with the rate.
    # 1e-1 is as good as 1e-3 on the one and worse on the other.
    assert sweep.summary.front == [by_rate[r] for r in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)]
    assert sweep.summary.best_trial == by_rate[1e-2], "the winner is chosen by the first"


def test_the_scheduler_hears_them_all_as_lower_is_better(
    studies: Studies, heard: dict[str, Outcome]
) -> None:
    sweep_id = studies.queued(scheduler={"name": "asha", "rungs": [0.5]}, **BOTH)
    drive(studies.take(sweep_id), make=forgetting)
    trials = [t for t in studies.store.list_trials(sweep_id).items if t.kind == "search"]
    assert {t.id for t in trials} == set(heard)
    for trial in trials:
        outcome = heard[trial.id]
        assert len(outcome.also) == 2, "always as many as there are"
        if trial.state is TrialState.COMPLETED:
            score = trial.also["judge/score"]
            assert score is not None
            assert outcome.also == (trial.also["general/loss"], -score)
        else:
            assert outcome.also == (None, None)


def test_a_new_driver_tells_its_scheduler_the_same(
    studies_on_both: Studies, heard: dict[str, Outcome]
) -> None:
    scheduler = {"name": "asha", "rungs": [0.5]}
    sweep_id = studies_on_both.queued(scheduler=scheduler, **BOTH)

    def until_one_completed(_: int) -> None:
        if any(o.state == "COMPLETED" for o in heard.values()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(studies_on_both.take(sweep_id), make=forgetting, each_turn=until_one_completed)
    before = dict(heard)
    heard.clear()
    studies_on_both.take(sweep_id)
    assert heard == before


def test_with_one_objective_there_is_no_front(studies: Studies) -> None:
    sweep_id = studies.ended()
    assert studies.store.get_sweep(sweep_id).summary.front == []
    assert all(t.also == {} for t in studies.store.list_trials(sweep_id).items)


def test_a_further_figure_that_the_benchmark_lacks_ends_the_sweep_at_once(
    studies: Studies,
) -> None:
    objective = {"metric": "eval/loss", "also": ["lm_eval/arc/acc_norm"]}
    sweep_id = studies.ended(objective=objective, evaluation={"lm_eval": {"tasks": ["arc"]}})
    sweep = studies.store.get_sweep(sweep_id)
    assert sweep.state is SweepState.FAILED
    assert sweep.message == "objective.also: lm_eval/arc/acc_norm isn't there; measured: acc"
    assert sweep.summary.trials <= 2


def test_a_replay_tells_how_much_of_the_front_is_kept(studies: Studies) -> None:
    sweep_id = studies.queued(**BOTH)
    drive(studies.take(sweep_id), make=forgetting, slots=1)
    wanted = ReplayRequest.model_validate({"scheduler": {"name": "asha"}})
    replayed = replay_sweep(studies.store, sweep_id, wanted)
    assert replayed.front == studies.store.get_sweep(sweep_id).summary.front
    kept = {t.trial_id for t in replayed.outcomes if t.fate == "kept"}
    assert replayed.front_kept == [i for i in replayed.front if i in kept]
    assert 0 < len(replayed.front_kept) < len(replayed.front), "asha looks at held-out loss alone"
