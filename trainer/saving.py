"""What a run leaves on disk while it trains, and how it goes on from there.

A disk that is full, or a store that is away, costs a run nothing but the checkpoint: it trains on,
says so in its notes, and tries again when the next one is due. Only the model at the end is waited
for.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import checkpoint, engine, storage
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, DiskError
from trainer.metrics import CheckpointRecord

EXPORT_SECONDS = 1800.0
"""How long a finished run waits for room to write its model."""
EXPORT_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is. `evaluated` and `saved`: samples at the last hold and checkpoint.

    `best_loss` is the lowest held-out loss so far, counted only with `keep_best`.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluated: int = -1
    saved: int = 0
    best_loss: float = math.inf


class Saving:
    """Checkpoints and the model of one run. All ranks together.

    Args:
        config: the run.
        run: the engine that is saved and loaded.
        identity: JSON values that must not change when the run is resumed.
    """

    def __init__(self, config: TrainConfig, run: engine.Engine, identity: dict[str, Any]) -> None:
        self._config = config
        self._engine = run
        self._identity = identity
        self._tried_at = time.monotonic()
        self.news: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        return self._output / "checkpoints"

    @property
    def due_at(self) -> float:
        """When the clock says that the next checkpoint is due; never, if it is inf."""
        every = self._config.checkpoint_every_seconds
        return math.inf if every is None else self._tried_at + every

    def save(self, at: Progress, *, best: bool = False) -> CheckpointRecord | None:
        """Write a checkpoint; None if it can't be written now."""
        state = {
            "step": at.step,
            "samples": at.samples,
            "tokens": at.tokens,
            "seconds": at.seconds,
            "evaluated": at.evaluated,
            "best_loss": at.best_loss if math.isfinite(at.best_loss) else None,
            "run": self._identity,
        }
        try:
            return checkpoint.save(
                self.folder,
                self._engine.shard(),
                state,
                keep=self._config.keep_checkpoints,
                best=best,
                store=self._config.store,
            )
        except DiskError as error:
            self.news["not_saved"] = f"at step {at.step}: {error}"
            return None
        finally:
            self._tried_at = time.monotonic()

    def resume(self, path: Path) -> Progress:
        """Load the newest undamaged checkpoint at `path`, or before it.

        Raises:
            CheckpointError: there is none, or it is of another run. On every rank.
        """
        copies = self.folder / checkpoint.FETCHED
        found, problem = None, ""
        if engine.rank() == 0:
            try:
                found = checkpoint.latest(path, into=copies)
            except CheckpointError as error:  # the store is away; the other ranks wait here
                problem = str(error)
        found, problem = engine.gather((found, problem))[0]
        if problem:
            raise DiskError(problem)
        if found is None:
            where = storage.address(path)
            raise CheckpointError(f"there is no undamaged checkpoint in {where}")
        state = checkpoint.read_state(found, into=copies)
        for field, value in self._identity.items():
            if state["run"].get(field) != value:
                raise CheckpointError(
                    f"{storage.address(found)} is of a run with {field} = "
                    f"{state['run'].get(field)!r}, this one has {value!r}; give this run another "
                    "output_dir"
                )
        self._engine.load(checkpoint.reader(found, into=copies))
        return Progress(
            step=state["step"],
            samples=state["samples"],
            tokens=state["tokens"],
            seconds=state["seconds"],
            evaluated=state["evaluated"],
            saved=state["samples"],
            best_loss=math.inf if state["best_loss"] is None else state["best_loss"],
        )

    def load_best(self) -> int | None:
        """Take back the weights of the best checkpoint; its step, None if there is none."""
        found = engine.gather(checkpoint.best(self.folder) if engine.rank() == 0 else None)[0]
        if found is None:
            return None
        self._engine.load(checkpoint.reader(found))
        return int(checkpoint.read_state(found)["step"])

    def export(self, at: Progress, tokenizer: Any) -> CheckpointRecord:
        """Write the model.

        Raises:
            DiskError: it can't be written now. On every rank.
        """
        weights = self._engine.weights()
        record, problem = None, ""
        if engine.rank() == 0:
            try:
                record = checkpoint.export(
                    self._output / "export",
                    self._engine.model.model,
                    tokenizer,
                    step=at.step,
                    samples=at.samples,
                    weights=weights,
                    store=self._config.store,
                )
            except Exception as error:
                problem = f"the export could not be written: {error}"
        record, problem = engine.gather((record, problem))[0]
        if record is None:
            raise DiskError(problem)
        return record

    @property
    def _output(self) -> Path:
        return Path(self._config.output_dir).expanduser()
