"""Our side of `benchmarks/turnaround.py`: a sweep's Tune run, with a conductor that keeps time.

It hands out trials one after another, into one slot, and asks for a report after every step. What
stands behind it in the product, the database and the schedulers, isn't part of this benchmark.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.workload import RANKS, Marks, Workload, write_marks
from orchestrator.raytune import tune_run
from orchestrator.raytune.assignment import Assignment, GroupShape
from orchestrator.raytune.workers import Control
from trainer.metrics import Batch


def run(workload: Workload, trials: range, marks: Path) -> None:
    """Train `trials`, one after another: the first on workers that it has to start.

    Raises:
        RuntimeError: a trial failed, or a report held several steps.
    """
    shape = GroupShape(ranks=RANKS, cpus_per_rank=1, gpus_per_rank=0, report_seconds=0.0)
    conductor = Timekeeper(workload, trials, marks)
    tune_run.run(conductor, shape)
    if conductor.error:
        raise RuntimeError(conductor.error)


class Timekeeper:
    """Hands out `trials` in order, and takes the time of each one's first and last step.

    A step's time is when its report reached this process, which is late. For the first step that
    stands against us. For the last step it would be to our advantage, so its end is taken as the
    arrival of the report before, after which it began, plus the seconds that it took: never late.
    """

    limit = 1

    def __init__(
        self,
        workload: Workload,
        trials: range,
        marks: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._workload = workload
        self._group = trials.start
        self._waiting = list(trials)
        self._file = marks
        self._marks: Marks | None = None
        self._arrival = 0.0
        self.error = ""

    @property
    def finished(self) -> bool:
        return self._marks is None and (bool(self.error) or not self._waiting)

    def next(self) -> Assignment | None:
        if self._marks is not None or self.finished:
            return None
        trial = self._waiting.pop(0)
        config = self._workload.config(trial).model_dump_json()
        self._marks = Marks(trial, self._group, self._clock(), 0.0, 0.0, [])
        return Assignment(f"trial-{trial}", f"trial-{trial}", 1, config, None)

    def report(self, attempt_id: str, batch: Batch) -> Control:
        now = self._clock()
        marks = self._marks
        assert marks is not None
        if len(batch.steps) > 1:
            self.error = "a report held several steps; the times would be wrong"
        if batch.failure is not None:
            self.error = f"{attempt_id}: {batch.failure.message}\n{batch.failure.detail}"
        for step in batch.steps:
            if not marks.losses:
                marks.first_step = now
            marks.last_step = self._arrival + step.seconds if marks.losses else now
            marks.losses.append(step.loss)
            self._arrival = now
        if batch.status != "running":
            if not self.error:
                write_marks(self._file, marks)
            self._marks = None
        return "stop" if self.error else "go"

    def lost(self, attempt_id: str, message: str) -> None:
        self.error = f"{attempt_id}: {message}"
        self._marks = None

    def tick(self) -> list[tuple[str, Control]]:
        return []
