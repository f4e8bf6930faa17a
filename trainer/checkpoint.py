"""What a run leaves: state to resume from, and a Hugging Face model folder.

A checkpoint appears under its name at once or not at all: it is written beside it, flushed to
disk and renamed. Its manifest holds the SHA-256 of every file, so a damaged one is noticed and the
one before it is used. State is stored in slices that any number of ranks can read.

With a store (`trainer.storage`) a checkpoint goes there once it is whole here, its manifest last,
and is named by its address from then on; each rank sends its own slice. Whatever takes a
checkpoint or a folder of them takes an address too, and works on a copy that it has checked.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
import time
from bisect import bisect_right
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from trainer import adapters, engine, storage
from trainer.errors import CheckpointError, DiskError
from trainer.metrics import CheckpointRecord
from trainer.storage import Location

Where = TypeVar("Where", Path, str)

_FORMAT = 2
_MANIFEST = storage.MANIFEST
_STATE = "state.json"
_BEST = "best"
_CHECKPOINTS = "checkpoints"
FETCHED = ".fetched"
"""Folder among a run's checkpoints for copies from a store; gone when the run has saved its own."""


def save(
    directory: Path,
    shard: dict[str, torch.Tensor],
    state: dict[str, Any],
    *,
    keep: int = 2,
    best: bool = False,
    store: Location | None = None,
) -> CheckpointRecord:
    """Write `directory/step-N` from every rank's shard. All ranks together.

    Args:
        directory: the run's checkpoint folder.
        shard: this rank's slice of the training state, as `Engine.shard` gives it.
        state: JSON values, the same on all ranks; has `step` and `samples`.
        keep: the newest N stay, and the best one; the others are deleted.
        best: this one is the best so far.
        store: the run's folder in a store. The checkpoint goes to `checkpoints/step-N` in it; here
            only the best one stays.

    Raises:
        DiskError: it could not be written. Those before it are untouched. On every rank.
    """
    began = time.monotonic()
    final = directory / f"step-{state['step']}"
    temporary = directory / f".tmp-{final.name}"
    remote = None if store is None else storage.join(store, _CHECKPOINTS)
    target = None if remote is None else storage.join(remote, final.name)
    problem = ""
    if engine.rank() == 0:
        for left in (*directory.glob(".tmp-*"), *directory.glob(".old-*")):
            shutil.rmtree(left, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            if target is not None:
                storage.unseal(target)
        except Exception as error:
            problem = str(error)
    problem = engine.gather(problem)[0]
    name = f"rank-{engine.rank():05d}.safetensors"
    digest = ""
    if not problem:
        try:
            temporary.mkdir(parents=True, exist_ok=True)  # on this rank's machine
            save_file(shard, temporary / name)
            digest = _flush_and_hash(temporary / name)
            if target is not None:
                storage.send_files(temporary, target, [name])
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
            manifest = {"format": _FORMAT, "files": files}
            _write_text(temporary / _MANIFEST, json.dumps(manifest))
            _flush(temporary)
            _replace(final, temporary)
            size = _size(final)
            if target is not None:
                storage.send_files(final, target, [_STATE])
                storage.seal(target, files, format=_FORMAT)
            if best:
                _point(directory, final.name)
                if remote is not None:
                    storage.upload(directory / _BEST, storage.join(remote, _BEST))
            _clean(directory, keep if remote is None else 0)
            if remote is not None:
                _clean_store(remote, keep)
        except Exception as error:  # whatever it is: the other ranks wait
            problems = [str(error)]
    size, problems = engine.gather((size, problems))[0]
    if problems:
        shutil.rmtree(temporary, ignore_errors=True)  # it may be what fills the disk
        raise DiskError(f"the checkpoint {target or final} could not be written: {problems[0]}")
    if target is not None:
        shutil.rmtree(temporary, ignore_errors=True)  # on machines other than rank 0's
        shutil.rmtree(directory / FETCHED, ignore_errors=True)
    return CheckpointRecord(
        step=state["step"],
        samples=state["samples"],
        kind="state",
        path=target or str(final),
        bytes=size,
        seconds=time.monotonic() - began,
    )


def latest(path: Where, *, into: Path | None = None) -> Where | None:
    """The newest undamaged checkpoint in `path`, or None.

    `path` is a run's output folder, its checkpoint folder, or one checkpoint; if that one is
    damaged, an older one beside it is taken. Each of them may be an address in a store; then the
    answer is one (a Path without its second slash if `path` is one), and a copy is in `into`.

    Raises:
        CheckpointError: the store can't be reached.
    """
    if storage.is_remote(path):
        where = storage.address(path)
        folder, _, name = where.rpartition("/")
        limit = _number(Path(name))
        steps = _steps_in_store(folder if limit >= 0 else _directory_in_store(where))
        if limit >= 0:
            steps = [step for step in steps if _number(Path(step)) <= limit]
        return next((type(path)(step) for step in steps if is_whole(step, into=into)), None)
    here = Path(path)
    if here.name.startswith("step-"):
        limit = _number(here)
        found = [step for step in _steps(here.parent) if _number(step) <= limit]
    else:
        found = _steps(_directory(here))
    return next((type(path)(step) for step in found if is_whole(step)), None)


def best(path: Where, *, into: Path | None = None) -> Where | None:
    """The checkpoint that was last saved as the best, if there is one and it is undamaged.

    `path` is a run's output folder or its checkpoint folder, or an address of one.
    """
    if storage.is_remote(path):
        where = _directory_in_store(storage.address(path))
        name = (storage.read_text(storage.join(where, _BEST)) or "").strip()
        step = storage.join(where, name)
        whole = _number(Path(name)) >= 0 and is_whole(step, into=into)
        return type(path)(step) if whole else None
    directory = _directory(Path(path))
    try:
        found = directory / (directory / _BEST).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return type(path)(found) if _number(found) >= 0 and is_whole(found) else None


def is_whole(checkpoint: Location, *, into: Path | None = None) -> bool:
    """Whether every file of `checkpoint` is there and has the hash in its manifest."""
    if storage.is_remote(checkpoint):
        copy = storage.fetch(checkpoint, into or _copies())
        return copy is not None and is_whole(copy)
    checkpoint = Path(checkpoint)
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = manifest["files"]
        if manifest["format"] != _FORMAT:
            return False
        with ThreadPoolExecutor(max_workers=8) as pool:  # hashing leaves the interpreter's lock
            found = pool.map(_hash, [checkpoint / name for name in files])
            return all(one == other for one, other in zip(found, files.values(), strict=True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_state(checkpoint: Location, *, into: Path | None = None) -> dict[str, Any]:
    """The JSON values it was saved with."""
    return json.loads((_here(checkpoint, into) / _STATE).read_text(encoding="utf-8"))


def reader(checkpoint: Location, *, into: Path | None = None) -> Reader:
    """What `Engine.load` reads. It opens its files when it is entered and closes them again."""
    return Reader(_here(checkpoint, into))


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
    folder: Path,
    model: Any,
    tokenizer: Any,
    *,
    step: int,
    samples: int,
    weights: Mapping[str, torch.Tensor] | None = None,
    store: Location | None = None,
) -> CheckpointRecord:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` opens. Rank 0 only.

    Weights get the data type of the base model, whatever the run computed in. Adapters are merged
    into them, and written by themselves to the folder `adapter` in it.

    Args:
        folder: replaced if it exists.
        model: the trained language model.
        tokenizer: written beside it, with the chat template that was in force.
        step: optimizer steps made.
        samples: samples seen.
        weights: the model's state dict, as `Engine.weights` gathers it.
        store: the run's folder in a store. The export moves there, to a folder of the same name.

    Raises:
        StoreError: it is whole in `folder`, but not in the store.
    """
    began = time.monotonic()
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    given: Mapping[str, torch.Tensor] = model.state_dict() if weights is None else weights
    whole = adapters.merge(model, given) if adapters.has_adapters(model) else dict(given)
    dtype = model.config.dtype or torch.float32
    converted: dict[tuple[int, torch.Size], torch.Tensor] = {}  # tied weights stay one
    for name, tensor in whole.items():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in converted:
            kept = tensor.detach()
            converted[key] = kept.to(dtype) if kept.is_floating_point() else kept
        whole[name] = converted[key]
    _skeleton(model, dtype).save_pretrained(temporary, state_dict=whole)
    tokenizer.save_pretrained(temporary)
    if adapters.has_adapters(model):
        adapters.save(temporary / "adapter", model, given)
    for path in temporary.rglob("*"):
        _flush(path)
    _flush(temporary)
    _replace(folder, temporary)
    size, path = _size(folder), str(folder)
    if store is not None:
        path = storage.join(store, folder.name)
        files = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
        storage.send(folder, path, storage.hashes(folder, sorted(files)))
        shutil.rmtree(folder, ignore_errors=True)
    return CheckpointRecord(
        step=step,
        samples=samples,
        kind="export",
        path=path,
        bytes=size,
        seconds=time.monotonic() - began,
    )


def _skeleton(model: Any, dtype: torch.dtype) -> Any:
    """The plain model without weights: no adapters, quantisation, spread weights or hooks."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config._attn_implementation = "sdpa"
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        skeleton: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    skeleton.generation_config = copy.deepcopy(model.generation_config)
    return skeleton


# --- in a store -------------------------------------------------------------------------------


def _here(checkpoint: Location, into: Path | None) -> Path:
    """A checkpoint's folder on this machine."""
    if not storage.is_remote(checkpoint):
        return Path(checkpoint)
    copy = storage.fetch(checkpoint, into or _copies())
    if copy is None:
        raise CheckpointError(f"{storage.address(checkpoint)} is damaged, or isn't there any more")
    return copy


def _copies() -> Path:
    """Where copies go if nobody says."""
    return Path(tempfile.gettempdir()) / f"winnow-fetched-{os.getuid()}"


def _steps_in_store(directory: str) -> list[str]:
    """Checkpoints in `directory`, newest first, whole or not."""
    found = [name for name in storage.names(directory) if _number(Path(name)) >= 0]
    newest = sorted(found, key=lambda name: _number(Path(name)), reverse=True)
    return [storage.join(directory, name) for name in newest]


def _directory_in_store(where: str) -> str:
    """The checkpoint folder of a run's folder; itself if it is one."""
    return storage.join(where, _CHECKPOINTS) if _CHECKPOINTS in storage.names(where) else where


def _clean_store(directory: str, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one, and unfinished ones."""
    kept = (storage.read_text(storage.join(directory, _BEST)) or "").strip()
    whole = 0
    for step in _steps_in_store(directory):
        if storage.is_sealed(step):
            whole += 1
            if whole <= keep or step.endswith(f"/{kept}"):
                continue
        storage.remove(step)


# --- files ------------------------------------------------------------------------------------


def _steps(directory: Path) -> list[Path]:
    """Checkpoints in `directory`, newest first."""
    found = [path for path in directory.glob("step-*") if path.is_dir() and _number(path) >= 0]
    return sorted(found, key=_number, reverse=True)


def _directory(path: Path) -> Path:
    """The checkpoint folder of a run's output folder; itself if it is one."""
    return path / _CHECKPOINTS if (path / _CHECKPOINTS).is_dir() else path


def _replace(final: Path, temporary: Path) -> None:
    """Give `temporary` the name `final`; a half-deleted folder never bears that name."""
    old = final.with_name(f".old-{final.name}")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.rename(final, old)
    os.rename(temporary, final)
    _flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _point(directory: Path, name: str) -> None:
    """Make `name` the best checkpoint, at once."""
    temporary = directory / f".{_BEST}"
    _write_text(temporary, name)
    os.rename(temporary, directory / _BEST)
    _flush(directory)


def _clean(directory: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    pointer = directory / _BEST
    kept = pointer.read_text(encoding="utf-8").strip() if pointer.exists() else ""
    for path in _steps(directory)[keep:]:
        if path.name != kept:
            old = path.with_name(f".old-{path.name}")
            os.rename(path, old)
            shutil.rmtree(old, ignore_errors=True)


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
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
