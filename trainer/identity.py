"""What a run reads, by content: a digest for each data set, template and model.

Digests don't depend on where a file lies or when it was written, so two runs that read the same
have the same ones. A file is hashed once and known again by its name, size and times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.config import TrainConfig
from trainer.data import cache_dir
from trainer.data.cache import Cache
from trainer.data.sources import open_source
from trainer.errors import TrainerError

WHOLE_UP_TO = 16 * 2**30
"""Bytes of a file that is hashed as a whole. Of a larger one, which is a shard of weights, size,
both ends and blocks in between are: training changes all of it, so no other weights pass for it,
but a change of a few bytes between the blocks isn't seen."""
_END = 16 * 2**20
_BLOCK = 2**20
_BLOCKS = 512

_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_THREADS = 4  # hashing leaves the interpreter's lock


def identities(config: TrainConfig, folder: Path) -> dict[str, str]:
    """Digests by path of the configuration, of a data set by its `Source.key`.

    What can't be read has none.

    Args:
        config: the run.
        folder: the model's folder, for a hub id its snapshot.
    """
    cache = Cache(cache_dir(config))
    data = config.data
    found: dict[str, str | None] = {config.model: model_identity(config.model, folder, cache)}
    for source in (*data.train, *data.eval, *data.test, *data.general):
        try:
            found[source.key] = _digest([open_source(source, config.roots.data).identity(cache)])
        except (TrainerError, OSError):
            found[source.key] = None
    files = [data.chat_template, config.judge.questions if config.judge else None]
    for path in files:
        if path is not None:
            found[path] = _of_files([Path(path).expanduser()], None, cache)
    if config.lm_eval is not None and config.lm_eval.include_path is not None:
        below = Path(config.lm_eval.include_path).expanduser()
        found[config.lm_eval.include_path] = _of_files(_visible(below), below, cache)
    return {path: digest for path, digest in found.items() if digest is not None}


def model_identity(model: str, folder: Path, cache: Cache) -> str | None:
    """A hub model's id and commit; a folder's files that a model is loaded from, by content."""
    if folder.parent.name == "snapshots" and not Path(model).expanduser().is_dir():
        return _digest(["hub", model, folder.name])
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)})
    return _of_files(files, folder, cache) if files else None


def file_digest(path: Path, cache: Cache) -> str:
    """Of a file's content; of a part of it if it is larger than `WHOLE_UP_TO`."""
    size = path.stat().st_size
    if size <= WHOLE_UP_TO:
        return cache.file_hash(path)
    digest = hashlib.sha256(f"{size}:".encode())
    stride = (size - 2 * _END) // _BLOCKS
    with path.open("rb") as stream:
        digest.update(stream.read(_END))
        for block in range(_BLOCKS):
            stream.seek(_END + block * stride)
            digest.update(stream.read(_BLOCK))
        stream.seek(size - _END)
        digest.update(stream.read(_END))
    return f"sampled-{digest.hexdigest()}"


def _of_files(files: Iterable[Path], folder: Path | None, cache: Cache) -> str | None:
    """Of several files with their names in `folder`, or of one without a name."""
    listed = list(files)
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            digests = list(pool.map(lambda path: file_digest(path, cache), listed))
    except OSError:
        return None
    names = ["" if folder is None else path.relative_to(folder).as_posix() for path in listed]
    return _digest([f"{name}:{one}" for name, one in zip(names, digests, strict=True)])


def _visible(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [f for f in files if not any(p.startswith(".") for p in f.relative_to(folder).parts)]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
