"""What a run leaves on disk: state to resume from, and a Hugging Face model folder.

A checkpoint appears under its name at once or not at all: it is written beside it, flushed to
disk and renamed. Its manifest holds the SHA-256 of every file, so a damaged one is noticed and the
one before it is used. State is stored in slices that any number of ranks can read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from bisect import bisect_right
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from trainer import engine
from trainer.errors import CheckpointError
from trainer.metrics import CheckpointRecord

KEPT = 2
_MANIFEST = "manifest.json"
_STATE = "state.json"


def save(
    directory: Path, shard: dict[str, torch.Tensor], state: dict[str, Any]
) -> CheckpointRecord:
    """Write `directory/step-N` from every rank's shard; keep the newest two. All ranks together.

    Args:
        directory: the run's checkpoint folder.
        shard: this rank's slice of the training state.
        state: JSON values, the same on all ranks; has `step` and `samples`.
    """
    began = time.monotonic()
    final = directory / f"step-{state['step']}"
    temporary = directory / f".tmp-step-{state['step']}"
    if engine.rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    engine.gather(None)
    name = f"rank-{engine.rank():05d}.safetensors"
    problem, digest = "", ""
    try:
        save_file(shard, temporary / name)
        digest = _flush_and_hash(temporary / name)
    except Exception as error:
        problem = f"rank {engine.rank()}: {error}"
    written = engine.gather((name, digest, problem))
    problems = [problem for _, _, problem in written if problem]
    size = 0
    if engine.rank() == 0 and not problems:
        try:
            _write_text(temporary / _STATE, json.dumps(state))
            files = {name: digest for name, digest, _ in written}
            files[_STATE] = _flush_and_hash(temporary / _STATE)
            _write_text(temporary / _MANIFEST, json.dumps({"files": files}))
            _flush(temporary)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(temporary, final)
            _flush(directory)
            size = _size(final)
            for old in _steps(directory)[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            problems = [str(error)]
    size, problems = engine.gather((size, problems))[0]
    if problems:
        raise CheckpointError(f"the checkpoint {final} could not be written: {problems[0]}")
    return CheckpointRecord(
        step=state["step"],
        samples=state["samples"],
        kind="state",
        path=str(final),
        bytes=size,
        seconds=time.monotonic() - began,
    )


def latest(path: Path) -> Path | None:
    """The newest undamaged checkpoint in `path`, or None.

    `path` is a run's output folder, its checkpoint folder, or one checkpoint; if that one is
    damaged, an older one beside it is taken.
    """
    if path.name.startswith("step-"):
        limit = _number(path)
        steps = [step for step in _steps(path.parent) if _number(step) <= limit]
    elif (path / "checkpoints").is_dir():
        steps = _steps(path / "checkpoints")
    else:
        steps = _steps(path)
    return next((step for step in steps if is_whole(step)), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of `checkpoint` is there and has the hash in its manifest."""
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        return all(_hash(checkpoint / name) == sha for name, sha in manifest["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON values it was saved with."""
    return json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))


def reader(checkpoint: Path) -> Reader:
    """What `Engine.load` reads. It opens its files when it is entered and closes them again."""
    return Reader(checkpoint)


class Reader:
    """The training state in a checkpoint, joined over the shards of the ranks that wrote it.

    A context manager: its files are open inside the block only.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._open = ExitStack()
        self._files: list[Any] = []
        self._pieces: list[_Piece] = []
        self.parts: list[str] = []

    def __enter__(self) -> Reader:
        try:
            for number, path in enumerate(sorted(self._checkpoint.glob("rank-*.safetensors"))):
                file = self._open.enter_context(safe_open(path, "pt"))
                self._files.append(file)
                at = 0
                for begin, length in file.get_tensor("spans").tolist():
                    self._pieces.append(_Piece(begin, begin + length, number, at))
                    at += length
        except Exception:
            self._open.close()
            raise
        self._pieces.sort(key=lambda piece: piece.begin)
        for name in self._files[0].keys():  # noqa: SIM118 (no mapping)
            if name != "spans" and len(self._files[0].get_slice(name).get_shape()) == 1:
                self.parts.append(name)
        return self

    def __exit__(self, *error: object) -> None:
        self._files.clear()
        self._pieces.clear()
        self._open.close()

    @property
    def size(self) -> int:
        """Trained weights in all."""
        return max((piece.end for piece in self._pieces), default=0)

    def singles(self) -> dict[str, torch.Tensor]:
        """What the optimizer keeps once for all weights."""
        file = self._files[0]
        names = [n for n in file.keys() if not file.get_slice(n).get_shape()]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}

    def read(self, part: str, begin: int, end: int) -> torch.Tensor:
        """Elements `begin` to `end` (exclusive) of a part, (end - begin,).

        Raises:
            CheckpointError: no shard has them.
        """
        found: list[torch.Tensor] = []
        number = max(0, bisect_right(self._pieces, begin, key=lambda piece: piece.begin) - 1)
        at = begin
        while at < end and number < len(self._pieces):
            piece = self._pieces[number]
            if not piece.begin <= at < piece.end:
                break
            stop = min(end, piece.end)
            low = piece.at + at - piece.begin
            found.append(self._files[piece.file].get_slice(part)[low : low + stop - at])
            at, number = stop, number + 1
        if at < end:
            raise CheckpointError(f"{self._checkpoint} has no {part} of weight {at}")
        return found[0] if len(found) == 1 else torch.cat(found)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Weights `begin` to `end` are in `file`, from its element `at` on."""

    begin: int
    end: int
    file: int
    at: int


def export(
    folder: Path, model: Any, tokenizer: Any, *, step: int, samples: int
) -> CheckpointRecord:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` opens. Rank 0 only.

    Weights get the data type of the base model, whatever the run computed in.
    """
    began = time.monotonic()
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    dtype = model.config.dtype or torch.float32
    weights = {
        name: tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        for name, tensor in model.state_dict().items()
    }
    model.save_pretrained(temporary, state_dict=weights)
    tokenizer.save_pretrained(temporary)
    for file in temporary.iterdir():
        _flush(file)
    _flush(temporary)
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(temporary, folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return CheckpointRecord(
        step=step,
        samples=samples,
        kind="export",
        path=str(folder),
        bytes=_size(folder),
        seconds=time.monotonic() - began,
    )


# --- files ------------------------------------------------------------------------------------


def _steps(directory: Path) -> list[Path]:
    """Checkpoints in `directory`, newest first."""
    found = [path for path in directory.glob("step-*") if path.is_dir() and _number(path) >= 0]
    return sorted(found, key=_number, reverse=True)


def _number(path: Path) -> int:
    number = path.name.removeprefix("step-")
    return int(number) if number.isdigit() else -1


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_and_hash(path: Path) -> str:
    _flush(path)
    return _hash(path)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
