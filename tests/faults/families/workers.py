"""Workers that misbehave: numbers that are none, lost memory, steps that go back, silence."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from orchestrator.store import Store
from tests.faults.context import Context
from tests.faults.isolate import Case, Scene
from tests.faults.simulated import Driver, NotedRun, drive_to_the_end, free, queued
from trainer.metrics import Batch, Evaluation, Failure
from winnow.types import TrialState

BAD_RATE = 1e-3
"""The trial with this learning rate misbehaves."""

Change = Callable[[NotedRun, Batch], Batch]


def plan(context: Context) -> Iterator[Case]:
    kinds: dict[str, tuple[Change, Callable[[Any], bool] | None]] = {
        "loss is NaN": (lambda r, b: _last(b, loss=math.nan), None),
        "loss is infinite": (lambda r, b: _last(b, loss=math.inf), None),
        "gradient norm is infinite": (lambda r, b: _last(b, grad_norm=-math.inf), None),
        "evaluation is NaN": (_nan_evaluation, None),
        "out of memory": (_out_of_memory, lambda t: t.state.ended),
        "lost again and again": (_poison, lambda t: t.state is TrialState.FAILED),
        "yields unasked": (lambda r, b: replace(b, status="yielded"), None),
        "steps go back": (_backwards, lambda t: t.state.ended),
        "the same report twice": (_repeated, lambda t: t.state.ended),
        "a step is left out": (_gap, lambda t: t.state.ended),
        "ends without a value": (_no_value, lambda t: t.state.ended),
        "100 MB of notes": (_loud, lambda t: t.state.ended),
        "another trial's checkpoint": (_foreign_checkpoint, lambda t: t.state.ended),
    }
    for database in context.databases:
        for name, (change, ends) in kinds.items():
            if context.quick and database == "postgres" and not name.startswith("steps"):
                continue
            run = functools.partial(_misbehave, change=change, ends=ends)
            yield Case("workers", name, database, run)


def _misbehave(scene: Scene, *, change: Change, ends: Callable[[Any], bool] | None) -> None:
    class Bad(NotedRun):
        def advance(self, control: Any) -> Batch:
            batch = super().advance(control)
            bad = self.config.learning_rate == BAD_RATE and batch.status == "running"
            return change(self, batch) if bad and batch.steps else batch

    sweep_id = queued(scene, scheduler={"name": "none", "rungs": [0.25, 0.5]})
    driver = Driver(scene.url, scene.folder, sweep_id, "driver-1", kind=Bad, lease_seconds=10.0)
    code = scene.wait(scene.fork(driver.run, "driver-1"), 50)
    scene.facts["the driver went on"] = code == 0
    scene.expect(code == 0, f"one bad worker ended the driver of all: exit code {code}")
    if code:
        free(scene.url, sweep_id)
        drive_to_the_end(scene, sweep_id)
    store = Store(scene.url)
    trials = store.list_trials(sweep_id, kinds=["search"]).items
    store.close()
    bad = next(t for t in trials if t.params["learning_rate"] == BAD_RATE)
    good = [t for t in trials if t is not bad and t.params["learning_rate"] < 0.5]
    scene.facts["it ended"] = f"{bad.state} ({bad.reason}) after {bad.attempt} attempts"
    scene.expect(bad.attempt <= 8, f"it was tried {bad.attempt} times")
    scene.expect(all(t.state is TrialState.COMPLETED for t in good), "it took other trials with it")
    if ends is not None:
        scene.expect(ends(bad), f"it is {bad.state} ({bad.reason})")
    # Steps that were left out are the worker's lie, not the store's.
    scene.judge()
    if change is _gap:
        scene.found = [v for v in scene.found if v.rule != "points"]


def _last(batch: Batch, **changes: Any) -> Batch:
    return replace(batch, steps=(*batch.steps[:-1], replace(batch.steps[-1], **changes)))


def _nan_evaluation(run: NotedRun, batch: Batch) -> Batch:
    bad = Evaluation(
        batch.steps[-1].step, batch.steps[-1].samples, "eval", "held-out", math.nan, 100
    )
    return replace(batch, evaluations=(bad,))


def _out_of_memory(run: NotedRun, batch: Batch) -> Batch:
    failure = Failure("oom", "a worker was ended because its node ran out of memory")
    return replace(batch, status="failed", failure=failure)


def _poison(run: NotedRun, batch: Batch) -> Batch:
    return Batch(status="failed", notes={"infrastructure": True, "message": "a worker died"})


def _backwards(run: NotedRun, batch: Batch) -> Batch:
    if run.step > 10:
        run.step -= 5
    return batch


def _repeated(run: NotedRun, batch: Batch) -> Batch:
    run.step = batch.steps[0].step - 1
    return batch


def _gap(run: NotedRun, batch: Batch) -> Batch:
    run.step += 1
    return batch


def _no_value(run: NotedRun, batch: Batch) -> Batch:
    return replace(batch, status="completed", evaluations=())


def _loud(run: NotedRun, batch: Batch) -> Batch:
    """One report that carries far more text than anybody will read."""
    failure = Failure("error", "x" * 1_000_000, "y" * 100_000_000)
    return replace(batch, status="failed", failure=failure)


def _foreign_checkpoint(run: NotedRun, batch: Batch) -> Batch:
    saved = tuple(replace(c, path="/nowhere/step-1") for c in batch.checkpoints)
    return replace(batch, checkpoints=saved)
