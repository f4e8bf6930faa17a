"""What a driver writes: trials and points, through its own writer, fenced and with all indices."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from benchmarks.serving.filling import BATCH_SAMPLES, Filled, spec
from orchestrator.store import DriverTransaction, Lease, Store, Writer
from trainer.metrics import Batch, StepRecord

TRIALS_AT_ONCE = 64
STEPS_A_BATCH = 100
CONFIG = {"model": "/models/tiny", "padding": "x" * 1500}
"""As long as a trial's configuration is."""


def write(filled: Filled, trials: int, seconds: float) -> dict[str, Any]:
    """A new sweep's trials are made, then 64 of them report, batch after batch, for `seconds`."""
    store = Store(filled.url)
    try:
        sweep = store.create_sweep(spec("writing", trials), trials, "writing")
        lease = store.acquire_lease(sweep.id, "the benchmark", 3600)
        assert lease is not None
        writer = store.writer(lease)
        return {
            "trials_in_one_transaction_s": round(_make(writer, 0, trials, trials), 3),
            "trials_one_by_one_per_s": round(_alone(writer, trials), 1),
            **_report(store, writer, lease, seconds),
        }
    finally:
        store.close()


def _make(writer: Writer, first: int, count: int, at_once: int) -> float:
    began = time.perf_counter()
    for start in range(first, first + count, at_once):

        def add(tx: DriverTransaction, start: int = start) -> None:
            for number in range(start, min(start + at_once, first + count)):
                params = {"learning_rate": 1e-5 * (1 + number), "effective_batch_size": 64}
                tx.add_trial(number, "search", params, CONFIG | params, 100_000)

        writer.write(add)
    return time.perf_counter() - began


def _alone(writer: Writer, first: int) -> float:
    """Trials a second, each in a transaction of its own with a commit to disk: as they start."""
    count = 300
    return count / _make(writer, first, count, 1)


def _report(store: Store, writer: Writer, lease: Lease, seconds: float) -> dict[str, Any]:
    ids = [f"{lease.sweep_id}-{n}" for n in range(TRIALS_AT_ONCE)]
    for trial in ids:
        writer.write(lambda tx, trial=trial: tx.start_attempt(trial, None))
    done = dict.fromkeys(ids, 0)
    latencies: list[float] = []
    points, began, turn = 0, time.perf_counter(), 0
    halves: list[tuple[float, int]] = []
    while (elapsed := time.perf_counter() - began) < seconds:
        trial = ids[turn % len(ids)]
        batch = _batch(done[trial], STEPS_A_BATCH)
        at = time.perf_counter()
        writer.write(lambda tx, trial=trial, batch=batch: tx.record(trial, 1, batch))
        latencies.append(time.perf_counter() - at)
        done[trial] += STEPS_A_BATCH
        points += STEPS_A_BATCH
        turn += 1
        halves.append((elapsed, points))
    took = time.perf_counter() - began
    middle = next(p for t, p in halves if t >= took / 2)
    ordered = sorted(latencies)
    return {
        "points": points,
        "points_per_s": round(points / took),
        "points_per_s_second_half": round((points - middle) / (took / 2)),
        "batch_p99_s": round(ordered[int(len(ordered) * 0.99)], 4),
    }


def _batch(done: int, count: int) -> Batch:
    first = StepRecord(
        step=0, samples=0, tokens=0, loss=1.5, grad_norm=1.0, learning_rate=1e-5, seconds=0.05,
        memory=7 * 10**9, batch_samples=BATCH_SAMPLES, input_tokens=1000,
    )  # fmt: skip
    return Batch(
        "running",
        steps=tuple(
            replace(first, step=n, samples=n * BATCH_SAMPLES, tokens=n * 1000, loss=1.5 + 1 / n)
            for n in range(done + 1, done + count + 1)
        ),
    )
