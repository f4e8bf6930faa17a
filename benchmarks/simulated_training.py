"""Training that takes no work: attempts that report steps, and drivers that run a real Study on
them in threads."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.errors import WinnowError
from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.study import Attempt, Control, Study
from orchestrator.supervision.launch import EXIT_NO_LEASE, Holder
from orchestrator.supervision.placement import Node
from trainer.config import TrainConfig
from trainer.metrics import Batch, CheckpointRecord, Evaluation, StepRecord
from winnow.service import ClusterNode


def step(number: int, samples: int) -> StepRecord:
    return StepRecord(
        step=number,
        samples=samples,
        tokens=samples * 100,
        loss=2.0 + 1.0 / number,
        grad_norm=1.0,
        learning_rate=1e-4,
        seconds=0.1,
        memory=1,
        batch_samples=10,
    )


def evaluation(number: int, samples: int) -> Evaluation:
    return Evaluation(
        step=number, samples=samples, split="eval", dataset="held-out", loss=2.0, tokens=100
    )


class Training:
    """One attempt."""

    def __init__(self, attempt: Attempt, steps_per_report: int = 1) -> None:
        config = TrainConfig.model_validate_json(attempt.config)
        self._batch = config.effective_batch_size
        self._folder = Path(config.output_dir)
        self._report = steps_per_report
        self.total_samples = config.max_samples or 0
        self.total_steps = math.ceil(self.total_samples / self._batch)
        self._step = int(attempt.resume_from.rsplit("-", 1)[-1]) if attempt.resume_from else 0

    def advance(self, control: Control) -> Batch:
        """The next report."""
        totals: dict[str, Any] = {
            "total_steps": self.total_steps,
            "total_samples": self.total_samples,
        }
        at = self._step * self._batch
        if control == "pause":
            where = str(self._folder / "checkpoints" / f"step-{self._step}")
            saved = CheckpointRecord(self._step, at, "state", where, 1, 0.0)
            return Batch(status="yielded", checkpoints=(saved,), **totals)
        if control == "stop":
            return Batch(status="yielded", **totals)
        if not self.total_steps:
            return Batch(status="completed", evaluations=(evaluation(0, 0),), **totals)
        steps: list[StepRecord] = []
        while len(steps) < self._report:
            self._step += 1
            steps.append(step(self._step, self._step * self._batch))
        return Batch(status="running", steps=tuple(steps), **totals)


class Machine:
    """A cluster of one node."""

    def __init__(self, cpus: int) -> None:
        self._cpus = float(cpus)

    def read(self) -> dict[str, float]:
        return {"CPU": self._cpus}

    def nodes(self) -> list[Node]:
        return [Node(self._cpus)]

    def machines(self) -> list[ClusterNode]:
        return []

    def close(self) -> None:
        pass


class Drivers:
    """A launcher whose drivers are threads."""

    ends_with_orchestrator = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.database_url)
        self._threads: dict[str, threading.Thread] = {}
        self._codes: dict[str, int] = {}
        self._leaving = threading.Event()

    def start(self, sweep_id: str, epoch: int, slots: int) -> bool:
        thread = threading.Thread(target=self._drive, args=(sweep_id, slots), daemon=True)
        self._threads[sweep_id] = thread
        thread.start()
        return True

    def leave(self) -> None:
        """Stop all of them as they are."""
        self._leaving.set()
        for thread in self._threads.values():
            thread.join()
        self._store.close()

    def starting(self, sweep_id: str) -> bool:
        thread = self._threads.get(sweep_id)
        return thread is not None and thread.is_alive()

    def abandon(self, sweep_id: str) -> None:
        pass

    def ended(self) -> dict[str, int]:
        codes, self._codes = self._codes, {}
        return codes

    def dead(self, holder: Holder) -> bool:
        return False

    def kill(self, holder: Holder) -> None:
        pass

    def end(self, holders: Iterable[Holder], grace: float) -> None:
        self.leave()

    def log(self, sweep_id: str) -> str:
        return "nowhere"

    def _drive(self, sweep_id: str, slots: int) -> None:
        self._codes[sweep_id] = 1
        with contextlib.suppress(WinnowError):
            self._codes[sweep_id] = self._run(sweep_id, slots)

    def _run(self, sweep_id: str, slots: int) -> int:
        lease = self._store.acquire_lease(sweep_id, Holder.me(slots), 600)
        if lease is None:
            return EXIT_NO_LEASE
        study = Study(self._store, lease, self._settings.home, checkpoint_seconds=60, slots=slots)
        live: dict[str, tuple[Training, Control]] = {}
        turn = 0
        while not study.finished and not self._leaving.is_set():
            for attempt_id, control in study.drain_commands():
                if attempt_id in live:
                    live[attempt_id] = (live[attempt_id][0], control)
            limit = slots if study.slots is None else study.slots
            while len(live) < limit and (attempt := study.next()) is not None:
                live[attempt.id] = (Training(attempt), "go")
            for attempt_id, (training, control) in list(live.items()):
                if control == "go" and turn % 5 and training.total_steps:
                    continue
                batch = training.advance(control)
                answer = study.report(attempt_id, batch)
                live[attempt_id] = (training, answer)
                if batch.status != "running":
                    del live[attempt_id]
            turn += 1
            time.sleep(0.2)
        self._store.release(lease)
        return 0
