"""What a real worker does in a fault test: it notes when it trained, and may misbehave.

A trial misbehaves by its learning rate, so that a sweep file says who does what.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.faults.journal import Journal
from trainer.metrics import Batch

NAN, INFINITE, OUT_OF_MEMORY, HANG, SILENT_EXIT, LOUD, BACKWARDS = (
    1.1e-3,
    1.2e-3,
    1.3e-3,
    1.4e-3,
    1.5e-3,
    1.6e-3,
    1.7e-3,
)
AT_STEP = 6
"""When it begins."""
LOG_BYTES = 100_000_000


def watch(loop: ModuleType) -> None:
    """Patch `trainer.loop.Run`."""
    notes = Journal(Path(os.environ["WINNOW_FAULTS"]) / "workers.jsonl")
    pause = float(os.environ.get("WINNOW_FAULTS_PAUSE", "0"))
    advance = loop.Run.advance

    @functools.wraps(advance)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Batch:
        began = time.monotonic()
        time.sleep(pause)  # most of a small machine is for those who recover
        batch = _misbehave(self, advance(self, *args, **kwargs))
        folder = Path(self.config.output_dir)
        with contextlib.suppress(IndexError, ValueError):
            sweep, trial, attempt = folder.parts[-3:]
            notes.write(
                trial=f"{sweep}-{trial.removeprefix('trial-')}",
                attempt=int(attempt.removeprefix("attempt-")),
                began=began,
                ended=time.monotonic(),
                pid=os.getpid(),
            )
        return batch

    loop.Run.advance = noted


def _misbehave(run: Any, batch: Batch) -> Batch:
    rate = run.config.learning_rate
    if not batch.steps or batch.steps[-1].step < AT_STEP:
        return batch
    last = batch.steps[-1]
    if rate == NAN:
        return replace(batch, steps=(*batch.steps[:-1], replace(last, loss=math.nan)))
    if rate == INFINITE:
        return replace(batch, steps=(*batch.steps[:-1], replace(last, grad_norm=math.inf)))
    if rate == OUT_OF_MEMORY:
        raise MemoryError("DefaultCPUAllocator: not enough memory")
    if rate == HANG:
        time.sleep(3600)
    if rate == SILENT_EXIT:
        os._exit(0)
    if rate == LOUD:
        line = "x" * 999 + "\n"
        for _ in range(LOG_BYTES // len(line)):
            sys.stderr.write(line)
        run.config = run.config.model_copy(update={"learning_rate": rate * 1.0000001})
    if rate == BACKWARDS:
        return replace(batch, steps=(*batch.steps, replace(last, step=max(1, last.step - 3))))
    return batch
