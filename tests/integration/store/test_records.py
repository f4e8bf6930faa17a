"""What the trainer records of steps and benchmarks, and that no secret is kept with it."""

from __future__ import annotations

import math

from sqlalchemy import select

from orchestrator.store import Store
from orchestrator.store.schema import attempts
from tests.integration.store.reports import begin, evaluation, step
from trainer.metrics import Batch, Failure
from winnow.types import SweepState, TrialState


def test_throughput_padding_and_noise_come_with_the_points_where_they_are_asked_for(
    store: Store,
) -> None:
    running = begin(store)
    trial, attempt = running.started()
    parts = {"padding": 0.25, "data_wait": 0.1, "mfu": 0.4, "grad_sq": 1.5, "noise": 2.5}
    steps = (step(1, input_tokens=500, **parts), step(2, input_tokens=1000, mfu=float("nan")))
    store.record(running.lease, trial, attempt, Batch("running", steps))
    (plain,) = store.curves(running.sweep_id)
    assert plain.details is None
    (full,) = store.curves(running.sweep_id, details=True)
    assert full.details == {
        "seconds": [0.5, 0.5],
        "memory": [1000, 1000],
        "input_tokens": [500, 1000],
        "tokens_per_second": [1000, 2000],
        "padding": [0.25, 0.0],
        "data_wait": [0.1, 0.0],
        "mfu": [0.4, None],
        "grad_sq": [1.5, None],
        "noise": [2.5, None],
    }
    (row,) = store.sweep_rows(running.sweep_id).trials
    assert row.steps[0] == steps[0]


def test_benchmarks_keep_their_scores_and_are_told_as_they_come(store: Store) -> None:
    running = begin(store)
    trial, attempt = running.started()
    measured = (
        evaluation(5, None, split="lm_eval", dataset="mmlu", scores={"acc": 0.5, "odd": math.inf}),
        evaluation(5, None, split="judge", dataset="mt_bench", scores={"score": 6.5}),
        evaluation(5, 2.5, split="general", dataset="wiki"),
    )
    store.record(running.lease, trial, attempt, Batch("completed", evaluations=measured))
    points = {p.split: p for p in store.evaluations(running.sweep_id)}
    assert points["lm_eval"].scores == {"acc": 0.5}
    assert points["judge"].scores == {"score": 6.5}
    assert points["general"].loss == 2.5
    told = [e.data for e in store.events_after(running.sweep_id) if e.type == "evaluation"]
    assert [e["scores"] for e in told] == [{"acc": 0.5}, {"score": 6.5}, {}]
    # Held-out loss is of the held-out sets alone.
    assert store.get_trial(trial).eval_loss is None


def test_what_a_failure_says_is_stored_without_secrets(store: Store) -> None:
    running = begin(store)
    trial, attempt = running.started()
    secret = "hf_" + "a1" * 12
    failure = Failure("error", f"refused {secret}", f"Traceback … {secret}")
    batch = Batch("failed", failure=failure, notes={"url": f"https://u:{secret}@hub.example"})
    store.record(running.lease, trial, attempt, batch)
    store.end_attempt(running.lease, trial, attempt, TrialState.FAILED, "error", failure.message)
    store.end_sweep(running.lease, SweepState.FAILED, f"every trial failed: {failure.message}")
    told = [e.model_dump_json() for e in store.events_after(running.sweep_id)]
    stored = [store.get_trial(trial).message, store.get_sweep(running.sweep_id).message, *told]
    assert not [text for text in stored if secret in str(text)]
    assert "refused [secret]" in str(store.get_trial(trial).message)
    with store._db.read() as session:
        (row,) = session.rows(select(attempts))
    assert secret not in f"{row.detail} {row.notes}"
