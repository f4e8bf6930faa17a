"""Everything the trainer raises on purpose, in one tree.

    TrainerError            the message is for the person who configured the run
    ├── ConfigError         a field of the configuration cannot work
    ├── DataError           a data file is missing or malformed (with file and line)
    ├── ModelError          the model folder or hub id cannot be trained
    ├── CheckpointError     a checkpoint is damaged or belongs to another run
    │   └── DiskError       what was to be kept can't be written, or its store can't be reached
    └── RankFailed          this rank has failed while the others wait for it

`code` is the failure code that ends up in `trainer.metrics.Failure`. They cross processes, so each
keeps its arguments for pickle.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from trainer.metrics import Failure, FailureCode


class TrainerError(Exception):
    """An error whose message says what was wrong, where, and what to do."""

    code: FailureCode = "error"


class ConfigError(TrainerError):
    """A field of the configuration cannot work. `pointer` is its JSON pointer."""

    code = "config"

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message, pointer)
        self.message = message
        self.pointer = pointer

    def __str__(self) -> str:
        return self.message


class DataError(TrainerError):
    """A data file is missing or malformed. `line` counts from 1."""

    code = "data"

    def __init__(self, message: str, path: Path | str, line: int | None = None) -> None:
        super().__init__(message, path, line)
        self.message = message
        self.path = str(path)
        self.line = line

    def __str__(self) -> str:
        where = f"{self.path}, line {self.line}" if self.line is not None else self.path
        return f"{where}: {self.message}"


class ModelError(TrainerError):
    """The model folder or hub id cannot be trained."""

    code = "config"


class CheckpointError(TrainerError):
    """A checkpoint is damaged or belongs to another run."""

    code = "checkpoint"


class DiskError(CheckpointError):
    """What was to be kept can't be written, or its store can't be reached. It may be later."""

    code = "disk"


class RankFailed(TrainerError):
    """This rank has failed where the others can't be told: they wait inside a reduction.

    The process has to end, and with it the others. `failure` is what the run reports.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure
        self.code = failure.code

    def __str__(self) -> str:
        return self.failure.message


def as_failure(error: BaseException) -> Failure:
    """How `error` is reported: its own words if it was raised on purpose, else with a traceback."""
    if isinstance(error, RankFailed):
        return error.failure
    if isinstance(error, TrainerError):
        return Failure(code=error.code, message=str(error))
    detail = "".join(traceback.format_exception(error))
    name = type(error).__name__
    if name == "OutOfMemoryError" or isinstance(error, MemoryError):
        return Failure(
            code="oom",
            message="out of memory; lower max_tokens_per_microbatch or max_length, "
            "or turn on activation_checkpointing",
            detail=detail,
        )
    return Failure(code="error", message=f"{name}: {error}".strip(), detail=detail)
