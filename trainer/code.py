"""Code that comes with a model or with benchmark tasks: what it is, and running only that.

Whoever allows code names it by a digest of its files (or, for a model of the hub, by the commit).
A run takes a copy of those files, checks the copy, and loads from it: what changes afterwards, or
between the check and the load, is not run.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.errors import ModelError

MODEL_CODE = ("*.py",)
TASK_CODE = ("*.py", "*.yaml", "*.yml", "*.jinja", "*.j2")
"""Files of benchmark tasks: their YAML names functions, and their templates can reach any."""
MOST_FILES = 2000
MOST_BYTES = 32 * 2**20
_PREFIX = "sha256-"
COMMIT = re.compile(r"[0-9a-f]{40}")

_staged: dict[tuple[str, str], Path] = {}
"""Checked copies that this process has made."""


def digest(folder: Path, patterns: tuple[str, ...] = MODEL_CODE) -> str:
    """What a folder's code is called: `sha256-` and the first 57 digits of the hash of its files'
    names and contents. It doesn't depend on where the folder lies, nor on other files in it.

    Raises:
        ModelError: there is too much of it, or it can't be read.
    """
    return _named(_read(folder, patterns))


def digest_of_nothing() -> str:
    """What `digest` says of a folder without code."""
    return _named({})


def staged(folder: Path, revision: str, patterns: tuple[str, ...] = MODEL_CODE) -> Path:
    """A folder like `folder`, for this process alone, whose code is checked to be `revision`.

    Code is copied, everything else linked. Made once a process.

    Args:
        folder: of a model or of tasks.
        revision: a digest, or the commit of a hub snapshot, which `folder` is then named by.
        patterns: names of files that are code.

    Raises:
        ModelError: the code there is another.
    """
    key = (str(folder), revision)
    if key in _staged and _staged[key].is_dir():
        return _staged[key]
    files = _read(folder, patterns)
    problem = _difference(folder, revision, files)
    if problem is not None:
        raise ModelError(problem)
    root = Path(tempfile.mkdtemp(prefix=f"winnow-code-{os.getuid()}-"))
    copy = root / re.sub(r"\W", "_", revision)
    _link(folder, copy, files)
    for name, content in files.items():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if not _staged:
        atexit.register(discard)
    _staged[key] = copy
    return copy


def discard() -> None:
    """Delete the copies of this process."""
    for copy in _staged.values():
        shutil.rmtree(copy.parent, ignore_errors=True)
    _staged.clear()


def elsewhere(folder: Path) -> str | None:
    """The repository of others that a model's files name code of, if they do: such code has no
    revision here, and is never run."""
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for reference in _texts(found.get("auto_map") if isinstance(found, Mapping) else None):
            if "--" in reference:
                return reference.partition("--")[0]
    return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return []


def _read(folder: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """Contents by name in the folder, hidden folders and caches left out."""
    found: dict[str, bytes] = {}
    size = 0
    try:
        for at, folders, names in os.walk(folder):
            folders[:] = [n for n in folders if not n.startswith(".") and n != "__pycache__"]
            for name in names:
                path = Path(at) / name
                if not any(path.match(pattern) for pattern in patterns):
                    continue
                with path.open("rb") as stream:
                    content = stream.read(MOST_BYTES - size + 1)
                size += len(content)
                found[path.relative_to(folder).as_posix()] = content
                if len(found) > MOST_FILES or size > MOST_BYTES:
                    raise ModelError(
                        f"{folder} holds more than {MOST_FILES:,} files or "
                        f"{MOST_BYTES // 2**20} MiB of code; give a folder of its own"
                    )
    except OSError as error:
        raise ModelError(f"the code in {folder} can't be read: {error.strerror}") from error
    return found


def _named(files: Mapping[str, bytes]) -> str:
    parts = [f"{name}:{hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)]
    whole = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"{_PREFIX}{whole}"[:64]


def _difference(folder: Path, revision: str, files: Mapping[str, bytes]) -> str | None:
    if COMMIT.fullmatch(revision):
        if folder.name == revision and folder.parent.name == "snapshots":
            return None
        return f"the code of {folder} is not that of commit {revision}; it is not run"
    now = _named(files)
    if now == revision:
        return None
    return (
        f"the code in {folder} has changed since it was allowed: it is {now}, and {revision} was "
        "allowed; it is not run"
    )


def _link(folder: Path, copy: Path, files: Mapping[str, bytes]) -> None:
    """Make `copy` with a link for everything that isn't code."""
    inside = {str(Path(name).parent) for name in files} - {"."}
    within = {part.as_posix() for one in inside for part in (Path(one), *Path(one).parents)} | {"."}
    for below in sorted(within):
        (copy / below).mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in os.scandir(folder / below):
            name = (Path(below) / entry.name).as_posix()
            if name not in files and name not in within and entry.name != "__pycache__":
                (copy / name).symlink_to(Path(entry.path).resolve())
