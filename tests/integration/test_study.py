"""A sweep's life on a real database, with simulated training: who runs, who ends, and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import LeaseLost
from orchestrator.store import Store
from orchestrator.study import Attempt, Study
from orchestrator.supervision.launch import Holder
from tests.fixtures.simulated_worker import SimulatedRun, drive
from trainer.config import TrainConfig
from trainer.metrics import Batch, Failure
from winnow.types import SweepState, TrialState

ME = str(Holder.me(slots=2))


def spec(**changes: Any) -> dict[str, Any]:
    sweep: dict[str, Any] = {
        "name": "rates",
        "model": "/models/tiny",
        "data": {
            "train": [{"path": "/data/train.jsonl"}],
            "eval": [{"path": "/data/eval.jsonl", "name": "held-out"}],
            "test": [{"path": "/data/test.jsonl", "name": "test"}],
        },
        "space": {
            "learning_rate": {"choice": [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0]},
            "effective_batch_size": {"choice": [4, 40]},
        },
        "search": {"sampler": "grid", "seed": 1},
        "scheduler": {"name": "asha", "rungs": [0.25, 0.5]},
    }
    return sweep | changes


@pytest.fixture
def start(store: Store, tmp_path: Path):
    """Creates a sweep, or takes one over, and returns its study."""

    def make(sweep_id: str | None = None, **changes: Any) -> tuple[str, Study]:
        if sweep_id is None:
            planned = changes.pop("planned", 16)
            given = spec(**changes)
            sweep_id = store.create_sweep(given, planned, "rates", {"train_samples": 1000}).id
        else:
            epoch = store.live_drivers()[0].epoch
            store.expire_lease(sweep_id, epoch)
        lease = store.acquire_lease(sweep_id, ME, 60)
        assert lease is not None
        return sweep_id, Study(store, lease, tmp_path, checkpoint_seconds=60)

    return make


def test_a_sweep_ends_each_trial_once_and_names_the_best(store: Store, start) -> None:
    sweep_id, study = start()
    drive(study)
    sweep = store.get_sweep(sweep_id)
    trials = store.list_trials(sweep_id).items
    assert sweep.state is SweepState.COMPLETED
    assert Counter(t.kind for t in trials) == {"search": 16, "baseline": 1, "report": 1}
    assert all(t.state.ended for t in trials)
    best = store.get_trial(sweep.summary.best_trial or "")
    assert best.params["learning_rate"] == 1e-2
    assert best.checkpoint is not None
    assert sweep.summary.winner["test"].loss is not None
    assert sweep.summary.baseline["test"].loss is not None
    assert sweep.summary.samples_trained < 0.7 * sweep.summary.samples_full


def test_losing_trials_are_stopped_with_a_reason_and_diverging_ones_are_caught(
    store: Store, start
) -> None:
    sweep_id, study = start()
    drive(study)
    trials = [t for t in store.list_trials(sweep_id).items if t.kind == "search"]
    pruned = [t for t in trials if t.state is TrialState.PRUNED]
    assert {t.reason for t in pruned} == {"asha", "diverged"}
    assert all(t.message for t in pruned)
    diverged = {t.params["learning_rate"] for t in pruned if t.reason == "diverged"}
    assert diverged == {1.0}
    stopped = {d.trial_id for d in store.decisions(sweep_id) if d.action == "stop" and d.acted}
    assert {t.id for t in pruned if t.reason == "asha"} <= stopped


@pytest.mark.parametrize("name", ["dynamics", "asha", "paper-sign", "none"])
def test_every_scheduler_completes_a_sweep(store: Store, start, name: str) -> None:
    sweep_id, study = start(scheduler={"name": name})
    drive(study, slots=3)
    sweep = store.get_sweep(sweep_id)
    assert sweep.state is SweepState.COMPLETED
    assert sweep.summary.best_trial is not None


@pytest.mark.parametrize("rates", [2, 3, 4, 5])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_few_trials_on_many_slots_complete(store: Store, start, rates: int, slots: int) -> None:
    """With few trials one is often called back while it is still yielding."""
    space = {
        "learning_rate": {"choice": [1e-4, 1e-3, 1e-2, 1e-5, 3e-2][:rates]},
        "effective_batch_size": 40,
    }
    sweep_id, study = start(space=space, planned=rates)
    drive(study, slots=slots)
    sweep = store.get_sweep(sweep_id)
    assert sweep.state is SweepState.COMPLETED
    assert sweep.summary.best_trial is not None
    searched = [t for t in store.list_trials(sweep_id).items if t.kind == "search"]
    assert len(searched) == rates
    assert all(t.reason in (None, "asha") for t in searched)


def test_shadow_mode_records_decisions_and_stops_nobody(store: Store, start) -> None:
    sweep_id, study = start(scheduler={"name": "asha", "mode": "shadow"})
    drive(study)
    trials = [t for t in store.list_trials(sweep_id).items if t.kind == "search"]
    assert Counter(t.reason for t in trials) == {None: 14, "diverged": 2}
    decisions = store.decisions(sweep_id)
    assert decisions
    assert not any(d.acted for d in decisions)


@pytest.mark.parametrize("name", ["dynamics", "asha"])
@pytest.mark.parametrize("turns", [1, 7, 30])
def test_a_new_driver_goes_on_where_the_killed_one_was(
    store: Store, start, name: str, turns: int
) -> None:
    sweep_id, study = start(scheduler={"name": name})
    drive(study, turns=turns)
    _, successor = start(sweep_id)
    with pytest.raises(LeaseLost):
        drive(study, turns=50)
    drive(successor)
    sweep = store.get_sweep(sweep_id)
    trials = store.list_trials(sweep_id).items
    assert sweep.state is SweepState.COMPLETED
    assert sum(t.kind == "search" for t in trials) == 16
    assert all(t.state.ended for t in trials)
    for curve in store.curves(sweep_id):
        assert curve.step == sorted(set(curve.step))
        trial = store.get_trial(curve.trial_id)
        assert curve.step == list(range(1, trial.step + 1))


def test_a_driver_killed_again_and_again_still_finishes(store: Store, start) -> None:
    sweep_id, study = start()

    def build(attempt: Attempt) -> SimulatedRun:
        config = TrainConfig.model_validate_json(attempt.config)
        return SimulatedRun(config, attempt.resume_from, checkpoints=True)

    for _ in range(200):
        drive(study, turns=5, make=build)
        if study.finished:
            break
        _, study = start(sweep_id)
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED


def test_a_restart_between_a_pause_decision_and_the_yield_keeps_the_decision(
    store: Store, start
) -> None:
    sweep_id, study = start()
    paused: list[str] = []

    def until_paused(_: int) -> None:
        for decision in store.decisions(sweep_id):
            if decision.action == "pause":
                paused.append(decision.trial_id)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(study, slots=1, each_turn=until_paused)
    _, successor = start(sweep_id)
    first = successor.next()
    assert first is not None
    assert first.trial_id != paused[0]
    _, successor = start(sweep_id)
    drive(successor)
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED


def test_a_pause_decided_while_winnow_stops_is_kept(store: Store, start) -> None:
    sweep_id, study = start()
    attempt = study.next()
    while attempt.trial_id != f"{sweep_id}-1":
        study.report(attempt.id, SimulatedRun(_config(attempt)).advance("go"))
        attempt = study.next()
    run = SimulatedRun(_config(attempt))
    while not (batch := run.advance("go")).evaluations:
        study.report(attempt.id, batch)
    assert study.shut_down() == [(attempt.id, "pause")]
    assert study.report(attempt.id, batch) == "pause"
    study.report(attempt.id, run.advance("pause"))
    assert study.finished
    assert store.get_trial(attempt.trial_id).state is TrialState.PAUSED
    assert [d.acted for d in store.decisions(sweep_id) if d.action == "pause"] == [True]


def _config(attempt: Attempt) -> TrainConfig:
    return TrainConfig.model_validate_json(attempt.config)


def test_a_user_stops_one_trial_and_the_sweep_goes_on(store: Store, start) -> None:
    sweep_id, study = start(scheduler={"name": "none"})
    victim = f"{sweep_id}-3"

    def stop(turn: int) -> None:
        if turn == 20:
            trial = store.get_trial(victim)
            assert not trial.state.ended
            store.add_command(sweep_id, victim, "stop", "ann")

    drive(study, slots=4, each_turn=stop)
    trial = store.get_trial(victim)
    assert (trial.state, trial.reason) == (TrialState.CANCELED, "user")
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED


def test_a_canceled_sweep_ends_all_its_trials(store: Store, start) -> None:
    sweep_id, study = start()

    def cancel(turn: int) -> None:
        if turn == 10:
            store.add_command(sweep_id, None, "cancel", "ann")

    drive(study, each_turn=cancel)
    assert store.get_sweep(sweep_id).state is SweepState.CANCELED
    assert all(t.state.ended for t in store.list_trials(sweep_id).items)


def test_a_trial_lost_to_the_machinery_runs_again_but_not_for_ever(store: Store, start) -> None:
    sweep_id, study = start(scheduler={"name": "none"})

    class Fragile(SimulatedRun):
        def advance(self, control):
            if self.config.learning_rate == 1e-4 and self.step >= 5:
                return Batch(status="failed", notes={"infrastructure": True, "message": "died"})
            return super().advance(control)

    def build(attempt: Attempt) -> SimulatedRun:
        return Fragile(TrainConfig.model_validate_json(attempt.config), attempt.resume_from)

    drive(study, make=build)
    lost = [t for t in store.list_trials(sweep_id).items if t.params.get("learning_rate") == 1e-4]
    assert {(t.state, t.reason) for t in lost} == {(TrialState.FAILED, "infrastructure")}
    assert {t.attempt for t in lost} == {4}
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED


@pytest.mark.parametrize("code", ["oom", "error", "data"])
def test_a_failing_trial_ends_with_its_reason_and_the_sweep_goes_on(
    store: Store, start, code
) -> None:
    sweep_id, study = start(scheduler={"name": "asha"})

    class Failing(SimulatedRun):
        def advance(self, control):
            if self.config.effective_batch_size == 40 and self.config.max_samples != 0:
                return Batch(status="failed", failure=Failure(code, "it went wrong"))
            return super().advance(control)

    def build(attempt: Attempt) -> SimulatedRun:
        return Failing(TrainConfig.model_validate_json(attempt.config), attempt.resume_from)

    drive(study, make=build)
    trials = [t for t in store.list_trials(sweep_id).items if t.kind == "search"]
    failed = [t for t in trials if t.state is TrialState.FAILED]
    assert {t.params["effective_batch_size"] for t in failed} == {40}
    assert {(t.reason, t.message) for t in failed} == {(code, "it went wrong")}
    assert store.get_sweep(sweep_id).state is SweepState.COMPLETED


def test_a_sweep_whose_trials_all_fail_has_failed(store: Store, start) -> None:
    sweep_id, study = start()

    class Failing(SimulatedRun):
        def advance(self, control):
            return Batch(status="failed", failure=Failure("error", "no such layer"))

    def build(attempt: Attempt) -> SimulatedRun:
        return Failing(TrainConfig.model_validate_json(attempt.config), attempt.resume_from)

    drive(study, make=build)
    sweep = store.get_sweep(sweep_id)
    assert sweep.state is SweepState.FAILED
    assert "no such layer" in (sweep.message or "")


JUDGE = {"base_url": "https://judge.example/v1", "model": "j", "questions": "/q.jsonl"}
BENCHMARKS = {"lm_eval": {"tasks": ["arc", "mmlu"]}, "judge": JUDGE}


def with_general(**changes: Any) -> dict[str, Any]:
    data = spec()["data"] | {"general": [{"path": "/data/wiki.jsonl", "name": "wiki"}]}
    return {"data": data | changes, "evaluation": BENCHMARKS}


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("eval/held-out/loss", "min"),
        ("general/loss", "min"),
        ("lm_eval/arc/acc", "max"),
        ("judge/score", "max"),
    ],
)
def test_the_winner_is_the_best_by_whatever_the_objective_is(
    store: Store, start, metric: str, mode: str
) -> None:
    sweep_id, study = start(objective={"metric": metric, "mode": mode}, **with_general())
    drive(study)
    sweep = store.get_sweep(sweep_id)
    assert sweep.state is SweepState.COMPLETED
    best = store.get_trial(sweep.summary.best_trial or "")
    assert best.params["learning_rate"] == 1e-2
    trials = [t for t in store.list_trials(sweep_id).items if t.kind == "search"]
    values = [t.value for t in trials if t.value is not None]
    assert best.value == (min if mode == "min" else max)(values)


def test_benchmarks_and_retention_are_shown_before_and_after(store: Store, start) -> None:
    sweep_id, study = start(**with_general())
    drive(study)
    summary = store.get_sweep(sweep_id).summary
    for before_or_after in (summary.baseline, summary.winner):
        assert set(before_or_after) == {"eval", "test", "general", "lm_eval", "judge"}
        assert set(before_or_after["lm_eval"].scores) == {"arc/acc", "mmlu/acc"}
    before, after = summary.baseline["general"].loss, summary.winner["general"].loss
    assert before is not None
    assert after is not None
    assert after < before
    assert summary.winner["judge"].scores["mt_bench/score"] > 8
    points = {
        (p.split, p.dataset): p for p in store.evaluations(sweep_id, [str(summary.best_trial)])
    }
    assert points["lm_eval", "arc"].scores["acc"] > 0.5
    assert points["lm_eval", "arc"].loss is None


def test_only_the_winner_is_benchmarked_where_that_is_asked_for(store: Store, start) -> None:
    sweep_id, study = start(evaluation=BENCHMARKS | {"trials": "winner"})
    drive(study)
    summary = store.get_sweep(sweep_id).summary
    kinds = {t.id: t.kind for t in store.list_trials(sweep_id).items}
    benchmarked = {
        kinds[p.trial_id] for p in store.evaluations(sweep_id) if p.split in ("lm_eval", "judge")
    }
    assert benchmarked == {"baseline", "report"}
    assert {"lm_eval", "judge"} <= set(summary.winner) & set(summary.baseline)


def test_a_figure_that_the_benchmark_lacks_ends_the_sweep_at_once(store: Store, start) -> None:
    objective = {"metric": "lm_eval/arc/acc_norm"}
    sweep_id, study = start(objective=objective, evaluation=BENCHMARKS)
    drive(study, slots=3)
    sweep = store.get_sweep(sweep_id)
    assert sweep.state is SweepState.FAILED
    assert sweep.message == "objective.metric: lm_eval/arc/acc_norm isn't there; measured: acc"
    assert sweep.summary.trials <= 3
    assert all(t.state.ended for t in store.list_trials(sweep_id).items)


def test_a_new_driver_remembers_that_the_figure_is_lacking(store: Store, start) -> None:
    objective = {"metric": "lm_eval/arc/acc_norm"}
    sweep_id, study = start(objective=objective, evaluation=BENCHMARKS)
    drive(study, slots=2, turns=1)
    _, successor = start(sweep_id)
    drive(successor)
    assert store.get_sweep(sweep_id).state is SweepState.FAILED


def test_strategies_and_adapters_can_be_searched(store: Store, start) -> None:
    train = [{"path": "/data/a.jsonl", "phase": 0}, {"path": "/data/b.jsonl", "phase": 1}]
    space = {
        "learning_rate": 1e-3,
        "effective_batch_size": 40,
        "strategy": {"choice": ["stacked", "phased"]},
        "lora_rank": {"choice": [4, 8]},
    }
    sweep_id, study = start(
        data=spec()["data"] | {"train": train},
        space=space,
        training={"method": "lora"},
        scheduler={"name": "none"},
        planned=4,
    )
    drive(study)
    configs = [t.config for t in store.sweep_rows(sweep_id).trials if t.kind == "search"]
    assert {(c["data"]["strategy"], c["lora_rank"]) for c in configs} == {
        ("stacked", 4), ("stacked", 8), ("phased", 4), ("phased", 8),
    }  # fmt: skip
    assert {c["method"] for c in configs} == {"lora"}
