"""What a driver writes: trials, attempts, batches, decisions; together or not at all."""

from __future__ import annotations

import math

import pytest

from orchestrator.errors import Conflict, InvalidTransition, NotFound
from orchestrator.store import Store
from tests.integration.store.reports import (
    Running,
    checkpoint,
    evaluation,
    step,
    steps,
    stop,
)
from trainer.metrics import Batch, Failure
from winnow.types import SweepState, TrialState


def test_progress_follows_each_batch(running: Running):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    store.record(
        lease,
        trial_id,
        attempt,
        Batch(
            "running",
            steps=(step(1), step(2, loss=0.75, grad_norm=3.5)),
            evaluations=(
                evaluation(2, 1.0, dataset="a", tokens=100, exact_match=0.5, generated=10),
                evaluation(2, 2.0, dataset="b", tokens=300, exact_match=1.0, generated=30),
                evaluation(2, 9.0, split="test", dataset="a"),
            ),
            checkpoints=(checkpoint(2, "/run/state"), checkpoint(2, "/run/model", "export")),
            total_steps=40,
            total_samples=400,
        ),
    )
    trial = store.get_trial(trial_id)
    assert (trial.step, trial.total_steps, trial.samples, trial.total_samples) == (2, 40, 20, 400)
    assert (trial.loss, trial.grad_norm) == (0.75, 3.5)
    assert trial.eval_loss == pytest.approx((100 * 1.0 + 300 * 2.0) / 400)
    assert trial.exact_match == pytest.approx((10 * 0.5 + 30 * 1.0) / 40)
    assert trial.seconds == pytest.approx(2 * 0.5 + 3 * 0.25 + 2 * 0.25)
    assert trial.checkpoint == "/run/model"


def test_what_is_not_finite_is_null(running: Running):
    trial_id, attempt = running.started(0)
    bad = Batch(
        "running",
        steps=(step(1, loss=math.nan, grad_norm=None),),
        evaluations=(evaluation(1, math.inf),),
    )
    running.store.record(running.lease, trial_id, attempt, bad)
    (curve,) = running.store.curves(running.sweep_id)
    assert (curve.loss, curve.grad_norm) == ([None], [None])
    trial = running.store.get_trial(trial_id)
    assert (trial.loss, trial.grad_norm, trial.eval_loss) == (None, None, None)


@pytest.mark.parametrize(
    "again",
    [
        steps(3, 3),
        Batch("running", evaluations=(evaluation(2, 1.0),)),
        Batch("running", checkpoints=(checkpoint(2, "/elsewhere"),)),
    ],
    ids=["step", "evaluation", "checkpoint"],
)
def test_a_point_is_stored_once(running: Running, again: Batch):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    first = Batch(
        "running",
        steps=steps(1, 3).steps,
        evaluations=(evaluation(2, 1.0),),
        checkpoints=(checkpoint(2, "/c"),),
    )
    store.record(lease, trial_id, attempt, first)
    before = store.get_trial(trial_id)
    with pytest.raises(Conflict, match="already"):
        store.record(lease, trial_id, attempt, again)
    assert store.get_trial(trial_id) == before
    assert store.curves(running.sweep_id)[0].step == [1, 2, 3]


def test_only_the_live_attempt_may_report(running: Running):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    store.end_attempt(lease, trial_id, attempt, TrialState.PENDING, "infrastructure", "lost")
    with pytest.raises(Conflict, match="isn't live"):
        store.record(lease, trial_id, attempt, steps(1, 1))
    store.start_attempt(lease, trial_id)
    with pytest.raises(Conflict, match="isn't live"):
        store.record(lease, trial_id, attempt, steps(1, 1))
    with pytest.raises(Conflict, match="isn't live"):
        store.end_attempt(lease, trial_id, attempt, TrialState.COMPLETED)
    store.record(lease, trial_id, attempt + 1, steps(1, 1))


def test_resuming_supersedes_what_was_beyond_the_checkpoint(running: Running):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    store.record(
        lease,
        trial_id,
        attempt,
        Batch(
            "running",
            steps=steps(1, 10).steps,
            evaluations=(evaluation(4, 1.4), evaluation(8, 1.8)),
            checkpoints=(checkpoint(4, "/c/4"), checkpoint(8, "/c/8")),
        ),
    )
    store.end_attempt(lease, trial_id, attempt, TrialState.PAUSED)
    assert store.start_attempt(lease, trial_id, "/c/4") == 2

    trial = store.get_trial(trial_id)
    assert (trial.attempt, trial.step, trial.samples) == (2, 4, 40)
    assert (trial.loss, trial.eval_loss) == (step(4).loss, 1.4)
    assert store.curves(running.sweep_id)[0].step == [1, 2, 3, 4]
    assert [e.step for e in store.evaluations(running.sweep_id)] == [4]
    assert [c.path for c in store.sweep_rows(running.sweep_id).trials[0].checkpoints] == ["/c/4"]

    store.record(lease, trial_id, 2, Batch("running", steps=(step(5, loss=55.0),)))
    assert store.curves(running.sweep_id)[0].loss[-1] == 55.0
    store.end_attempt(lease, trial_id, 2, TrialState.PAUSED)
    with pytest.raises(NotFound, match="/c/8"):
        store.start_attempt(lease, trial_id, "/c/8")


def test_starting_over_supersedes_everything_but_keeps_the_time_spent(running: Running):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    before_training = Batch("running", evaluations=(evaluation(0, 3.0),))
    store.record(lease, trial_id, attempt, before_training)
    store.record(lease, trial_id, attempt, steps(1, 4))
    store.end_attempt(lease, trial_id, attempt, TrialState.PENDING, "infrastructure")
    store.start_attempt(lease, trial_id)
    trial = store.get_trial(trial_id)
    assert (trial.step, trial.samples, trial.loss, trial.eval_loss) == (0, 0, None, None)
    assert trial.seconds == pytest.approx(4 * 0.5 + 0.25)
    assert store.curves(running.sweep_id) == []
    store.record(lease, trial_id, 2, before_training)
    store.record(lease, trial_id, 2, steps(1, 4))
    assert store.curves(running.sweep_id)[0].step == [1, 2, 3, 4]


def test_an_attempt_that_went_back_further_than_told_still_counts_once(running: Running):
    """Its newest checkpoint was damaged, so it took the one before."""
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    store.record(
        lease,
        trial_id,
        attempt,
        Batch("running", steps=steps(1, 6).steps, checkpoints=(checkpoint(6, "/c/6"),)),
    )
    store.end_attempt(lease, trial_id, attempt, TrialState.PAUSED)
    store.start_attempt(lease, trial_id, "/c/6")
    store.record(lease, trial_id, 2, Batch("running", steps=(step(3, loss=9.0), step(4))))
    (curve,) = store.curves(running.sweep_id)
    assert curve.step == [1, 2, 3, 4]
    assert curve.loss[2] == 9.0
    assert store.get_trial(trial_id).step == 4


def test_a_rung_measured_again_after_resuming_there_counts_once(running: Running):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    store.record(
        lease,
        trial_id,
        attempt,
        Batch(
            "running",
            steps=steps(1, 4).steps,
            evaluations=(evaluation(4, 1.5),),
            checkpoints=(checkpoint(4, "/c/4"),),
        ),
    )
    store.end_attempt(lease, trial_id, attempt, TrialState.PAUSED)
    store.start_attempt(lease, trial_id, "/c/4")
    store.record(lease, trial_id, 2, Batch("running", evaluations=(evaluation(4, 1.25),)))
    assert [e.loss for e in store.evaluations(running.sweep_id)] == [1.25]


def test_a_batch_its_decision_and_the_end_are_one_commit(running: Running):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    before = store.last_event_id()
    with store.guarded(lease) as tx:
        tx.record(trial_id, attempt, steps(1, 2))
        tx.decide(stop(trial_id), acted=True)
        tx.end_attempt(trial_id, attempt, TrialState.PRUNED, "asha", "Half are better.")
        assert store.last_event_id() == before, "nobody sees half of it"
        assert store.curves(running.sweep_id) == []
    trial = store.get_trial(trial_id)
    assert (trial.state, trial.reason, trial.message) == ("PRUNED", "asha", "Half are better.")
    (decision,) = store.decisions(running.sweep_id)
    assert (decision.trial_number, decision.action, decision.acted) == (0, "stop", True)
    assert decision.evidence == {"rank": 7, "peers": 8}
    assert [e.type for e in store.events_after(None, before)] == ["decision", "trial.state"]


def test_a_block_that_fails_leaves_nothing(running: Running):
    store = running.store
    trial_id, attempt = running.started(0)
    before = (store.get_trial(trial_id), store.last_event_id())

    def half_a_block() -> None:
        with store.guarded(running.lease) as tx:
            tx.record(trial_id, attempt, steps(1, 2))
            tx.decide(stop(trial_id), acted=True)
            raise RuntimeError("the driver has a bug")

    with pytest.raises(RuntimeError, match="has a bug"):
        half_a_block()
    assert (store.get_trial(trial_id), store.last_event_id()) == before
    assert store.curves(running.sweep_id) == []
    assert store.decisions(running.sweep_id) == []


def test_a_trial_ends_once(running: Running):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    store.end_attempt(lease, trial_id, attempt, TrialState.COMPLETED, value=1.5)
    ended = store.get_trial(trial_id)
    assert (ended.state, ended.value) == (TrialState.COMPLETED, 1.5)
    assert ended.ended_at is not None
    with pytest.raises(InvalidTransition, match="it has ended"):
        store.end_trial(lease, trial_id, TrialState.CANCELED)
    with pytest.raises(InvalidTransition, match="it has ended"):
        store.start_attempt(lease, trial_id)
    assert store.get_trial(trial_id) == ended


def test_a_running_trial_is_neither_started_twice_nor_ended_past_its_attempt(running: Running):
    trial_id, _ = running.started(0)
    with pytest.raises(InvalidTransition, match="attempt 1 is still live"):
        running.store.start_attempt(running.lease, trial_id)
    with pytest.raises(InvalidTransition, match="end its attempt 1 instead"):
        running.store.end_trial(running.lease, trial_id, TrialState.CANCELED)


def test_a_number_is_given_once(running: Running):
    running.trial(0)
    with pytest.raises(Conflict, match="already has a trial 0"):
        running.trial(0)


def test_a_failure_with_unprintable_text_is_stored(running: Running):
    store, lease = running.store, running.lease
    trial_id, attempt = running.started(0)
    failure = Failure("error", "bad\x00byte", "Traceback \x00 \ud800")
    store.record(
        lease, trial_id, attempt, Batch("failed", failure=failure, notes={"device": "cpu"})
    )
    store.end_attempt(lease, trial_id, attempt, TrialState.FAILED, "error", failure.message)
    assert store.get_trial(trial_id).message == "bad\ufffdbyte"


def test_canceling_a_sweep_takes_its_open_trials_along(running: Running):
    store, lease = running.store, running.lease
    running.started(0)
    running.trial(1)
    done, attempt = running.started(2)
    store.end_attempt(lease, done, attempt, TrialState.COMPLETED)
    store.end_sweep(lease, SweepState.CANCELED, "by request")
    assert [t.state for t in store.list_trials(running.sweep_id).items] == [
        TrialState.CANCELED,
        TrialState.CANCELED,
        TrialState.COMPLETED,
    ]
    sweep = store.get_sweep(running.sweep_id)
    assert (sweep.state, sweep.message) == (SweepState.CANCELED, "by request")
    assert sweep.ended_at is not None


def test_a_sweep_with_open_trials_is_not_completed(running: Running):
    trial_id = running.trial(0)
    with pytest.raises(InvalidTransition, match=f"trial {trial_id} is PENDING"):
        running.store.end_sweep(running.lease, SweepState.COMPLETED)
    assert running.store.get_sweep(running.sweep_id).state is SweepState.RUNNING


def test_changed_trials_are_found_by_version(running: Running):
    store = running.store
    first, attempt = running.started(0)
    second = running.trial(1)
    trials, version = store.trials_changed_since(running.sweep_id)
    assert [t.id for t in trials] == [first, second]
    assert store.trials_changed_since(running.sweep_id, version) == ([], version)
    store.record(running.lease, first, attempt, steps(1, 1))
    trials, later = store.trials_changed_since(running.sweep_id, version)
    assert [t.id for t in trials] == [first]
    assert later > version


def test_a_driver_reads_back_what_was_reported(store: Store, running: Running):
    trial_id, attempt = running.started(0)
    batch = Batch(
        "running",
        steps=(step(1), step(2)),
        evaluations=(evaluation(2, 1.0, exact_match=0.5, generated=4),),
        checkpoints=(checkpoint(2, "/c/2"),),
    )
    store.record(running.lease, trial_id, attempt, batch)
    store.decide(running.lease, stop(trial_id, "first"), acted=False)
    store.decide(running.lease, stop(trial_id, "second"), acted=True)
    rows = store.sweep_rows(running.sweep_id)
    (trial,) = rows.trials
    assert (trial.steps, trial.evaluations, trial.checkpoints) == (
        batch.steps,
        batch.evaluations,
        batch.checkpoints,
    )
    assert (trial.params, trial.config) == ({"learning_rate": 1e-3}, {"model": "m"})
    assert [(d.decision, d.acted) for d in rows.decisions] == [
        (stop(trial_id, "first"), False),
        (stop(trial_id, "second"), True),
    ]
