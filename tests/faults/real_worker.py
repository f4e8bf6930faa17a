"""The real trainer with the simulated worker's calls: one rank, in the driver's own process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from orchestrator.study import Attempt
from tests.faults.journal import Journal
from tests.faults.simulated import NotedRun
from trainer.config import TrainConfig
from trainer.metrics import Batch

_joined = False


class RealRun(NotedRun):
    """`trainer.loop.Run`. An error of it is a failed report, as a worker group makes one."""

    def __init__(self, config: TrainConfig, resume_from: str | None = None, **_: Any) -> None:
        from trainer.errors import as_failure
        from trainer.loop import Run

        join()
        self.config, self._failure = config, None
        try:
            self.run: Any = Run(config, resume_from=Path(resume_from) if resume_from else None)
        except Exception as error:
            self.run, self._failure = None, as_failure(error)

    def note(self, attempt: Attempt, notes: Journal, pace: float, lease: list[float]) -> RealRun:
        super().note(attempt, notes, pace, lease)
        return self

    def advance(self, control: Any) -> Batch:
        from trainer.errors import as_failure

        began = time.monotonic()
        if self.run is None:
            return Batch(status="failed", failure=self._failure)
        try:
            batch = self.run.advance(0.1, lambda: control)
        except Exception as error:
            batch = Batch(status="failed", failure=as_failure(error))
        self._notes.write(
            trial=self._attempt.trial_id,
            attempt=self._attempt.number,
            began=began,
            ended=time.monotonic(),
            pid=os.getpid(),
        )
        if batch.status != "running":
            self.run.close()
        return batch


def join() -> None:
    """Form a process group of one, once."""
    global _joined
    if _joined:
        return
    import torch

    from trainer import engine

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ[name] = "0"
    torch.set_num_threads(1)
    engine.join(0, 1, "127.0.0.1", 0)
    _joined = True
