"""Sweeps on simulated workers, which are contract-tested twins, driven by the real Study."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import Conflict, LeaseLost, NotFound, StoreUnavailable
from orchestrator.store import Lease, Store
from orchestrator.study import Attempt, Study
from orchestrator.supervision.launch import Holder
from tests.faults.hooks import Fate, Hooks
from tests.faults.isolate import Scene
from tests.faults.journal import Journal
from tests.fixtures.simulated_worker import SimulatedRun, drive
from tests.fixtures.studies import FACTS, spec
from trainer.config import TrainConfig
from trainer.metrics import Batch, CheckpointRecord

LEASE_SECONDS = 2.0

NO_LEASE, LEASE_LOST = 3, 4
"""Exit codes of a driver."""


def busy_spec(**changes: Any) -> dict[str, Any]:
    """A sweep in which a lot happens: rungs, pauses, a trial that diverges, a report at the end."""
    return spec(
        **{
            "space": {
                "learning_rate": {"choice": [1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]},
                "effective_batch_size": 40,
            },
            "data": {
                "train": [{"path": "/data/train.jsonl"}],
                "eval": [{"path": "/data/eval.jsonl", "name": "held-out"}],
                "test": [{"path": "/data/test.jsonl", "name": "test"}],
            },
            "scheduler": {"name": "asha"},
        }
        | changes
    )


class NotedRun(SimulatedRun):
    """Notes when it trained, by the machine's clock, apart from all that the store knows.

    Like a worker group it keeps time itself: it does no work once its driver can't have the lease.
    """

    def note(self, attempt: Attempt, notes: Journal, pace: float, lease: list[float]) -> NotedRun:
        self._attempt, self._notes, self._pace, self._lease = attempt, notes, pace, lease
        return self

    def __post_init__(self) -> None:
        self._unreadable: OSError | None = None
        try:
            super().__post_init__()
        except OSError as error:  # a successor has deleted what this one was to go on from
            self._unreadable = error

    def advance(self, control: Any) -> Batch:
        began = time.monotonic()
        if began > self._lease[0]:
            raise LeaseLost(self._attempt.trial_id, 0)
        if self._unreadable is not None:
            return _lost(self._unreadable)
        if self._pace:
            time.sleep(self._pace)
        try:
            batch = super().advance(control)
        except OSError as error:  # its folder is gone, or full
            batch = _lost(error)
        self._notes.write(
            trial=self._attempt.trial_id,
            attempt=self._attempt.number,
            began=began,
            ended=time.monotonic(),
            pid=os.getpid(),
        )
        return batch

    def _save(self) -> CheckpointRecord:
        """As the trainer does it: written beside its place, then renamed."""
        folder = Path(self.config.output_dir, "checkpoints")
        final, draft = folder / f"step-{self.step}", folder / f".tmp-step-{self.step}"
        draft.mkdir(parents=True, exist_ok=True)
        (draft / "state.json").write_text(json.dumps({"step": self.step}))
        if not final.exists():
            os.rename(draft, final)
        return CheckpointRecord(self.step, self.samples(self.step), "state", str(final), 1, 0.0)


def _lost(error: OSError) -> Batch:
    """What ranks report whose folder can't be read or written."""
    return Batch(status="failed", notes={"infrastructure": True, "message": str(error)})


@dataclass
class Driver:
    """A sweep's driver with simulated workers. `run` is its process's whole life.

    `wishes`: turn of its loop → what users ask for then, as (trial number or None, kind, payload).
    `loses`: turns in which the worker that is about to report is lost instead.
    """

    url: str
    home: Path
    sweep_id: str
    name: str = "driver"
    slots: int = 2
    fate: Fate | None = None
    trace: Path | None = None
    pace: float = 0.0
    lease_seconds: float = LEASE_SECONDS
    checkpoint_seconds: float = 60.0
    steps_per_report: int = 10
    wishes: dict[int, list[tuple[int | None, str, dict[str, Any] | None]]] = field(
        default_factory=dict
    )
    each_turn: Callable[[int], None] | None = None
    kind: type[NotedRun] = NotedRun
    hooked: bool = False
    """Whether the process has hooks already."""

    def run(self) -> int:
        if not self.hooked:
            journal = self.home / f"{self.name}.journal"
            Hooks(self.name, journal, fate=self.fate, trace=self.trace).install()
        self._store = Store(self.url)
        self._good_until = [time.monotonic() + self.lease_seconds]
        try:
            lease = self._store.acquire_lease(
                self.sweep_id, Holder.me(self.slots), self.lease_seconds
            )
        except StoreUnavailable:
            lease = None  # maybe it has it now; the next driver finds that nobody lives there
        if lease is None:
            return NO_LEASE
        try:
            study = Study(self._store, lease, self.home, checkpoint_seconds=self.checkpoint_seconds)
            notes = Journal(self.home / "workers.jsonl")

            def make(attempt: Attempt) -> SimulatedRun:
                config = TrainConfig.model_validate_json(attempt.config)
                run = self.kind(
                    config,
                    attempt.resume_from,
                    steps_per_report=self.steps_per_report,
                    checkpoints=True,
                )
                return run.note(attempt, notes, self.pace, self._good_until)

            drive(study, self.slots, make=make, each_turn=lambda t: self._turn(lease, t))
            self._store.release(lease)
        except LeaseLost:
            return LEASE_LOST
        finally:
            self._store.close()
        return 0

    def _turn(self, lease: Lease, turn: int) -> None:
        if turn % 7 == 3:
            asked = time.monotonic()
            left = self._good_until[0] - asked
            # As the thread that renews a real driver's lease: again, for as long as it is good.
            if not retrying(lambda: self._store.renew(lease, self.lease_seconds), left):
                raise LeaseLost(lease.sweep_id, lease.epoch)
            self._good_until[0] = asked + self.lease_seconds
        for number, kind, payload in self.wishes.get(turn, []):
            trial = None if number is None else f"{self.sweep_id}-{number}"
            with contextlib.suppress(Conflict, NotFound):
                self._store.add_command(self.sweep_id, trial, kind, "a user", payload)  # type: ignore[arg-type]
        if self.each_turn is not None:
            self.each_turn(turn)


def queued(scene: Scene, **changes: Any) -> str:
    """A new sweep in the scene's database."""
    store = Store(scene.url)
    try:
        return store.create_sweep(busy_spec(**changes), 6, "busy", FACTS).id
    finally:
        store.close()


def has_ended(url: str, sweep_id: str) -> bool:
    store = Store(url)
    try:
        return store.get_sweep(sweep_id).state.ended
    finally:
        store.close()


def free(url: str, sweep_id: str) -> None:
    """Its driver is proved dead: end its lease, as the orchestrator does."""
    store = Store(url)
    try:
        for driver in store.live_drivers():
            if driver.sweep_id == sweep_id:
                store.expire_lease(sweep_id, driver.epoch)
    finally:
        store.close()


def drive_to_the_end(
    scene: Scene, sweep_id: str, *, drivers: int = 20, seconds: float = 30.0, **options: Any
) -> None:
    """Start one driver after another, as long as they die, until one gives its lease back."""
    for number in range(2, 2 + drivers):
        driver = Driver(scene.url, scene.folder, sweep_id, f"driver-{number}", **options)
        code = scene.wait(scene.fork(driver.run, driver.name), seconds)
        if code == 0 or has_ended(scene.url, sweep_id):
            return
        free(scene.url, sweep_id)
    scene.expect(False, f"{drivers} drivers in a row did not bring {sweep_id} to its end")


def retrying(work: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What a client does about a database that is away for a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
