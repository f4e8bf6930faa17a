"""A folder of finished work that concurrent processes share.

An entry is a folder whose name says all that it was made from, so it never changes. It is made in a
folder beside it, under a lock that the kernel takes back when its holder dies, and moved into place
when it is whole: a reader sees all of it or nothing. Files are known again by name, size, times and
inode, so that a large one is hashed once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from trainer.errors import DataError

T = TypeVar("T")

_log = logging.getLogger(__name__)

_FRESH = 2_000_000_000
"""Nanoseconds for which a file's times don't tell whether it has changed again."""
_SAY_AFTER = 5.0
"""Seconds of waiting after which it is said whom for."""

_hashes: dict[tuple[object, ...], str] = {}
"""What this process has hashed, by name and state of the file."""


class Cache:
    """Entries in `folder`, which is made when something is to be kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str, read: Callable[[Path], T | None], make: Callable[[Path], None]) -> T:
        """The entry `key`, made if it isn't there.

        Args:
            key: the entry's name.
            read: opens the entry in a folder; None if it isn't whole.
            make: writes the entry into an empty folder. Only one process at a time makes it.

        Raises:
            DataError: the cache can't be written. What `make` raises comes through.
        """
        entry = self.folder / key
        found = read(entry)
        if found is not None:
            return found
        with self._writing(), self._locked(key):
            found = read(entry)
            if found is not None:
                return found
            for left in self.folder.glob(f".{key}-*"):  # of a maker that was killed
                shutil.rmtree(left, ignore_errors=True)
            shutil.rmtree(entry, ignore_errors=True)  # damaged, if it is there at all
            draft = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=self.folder))
            try:
                make(draft)
                draft.chmod(0o777 & ~_umask())
                os.replace(draft, entry)
                _sync_folder(self.folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        found = read(entry)
        if found is None:
            raise DataError("was damaged as it was written; is the disk sound?", entry)
        return found

    def file_hash(self, path: Path) -> str:
        """SHA-256 of a file's content, read only if the file isn't known as it is now."""
        state = _state(path)
        known = (str(path.resolve()), *state)
        if known in _hashes:
            return _hashes[known]
        note = self.folder / "files" / hashlib.sha256(known[0].encode()).hexdigest()[:32]
        found = _noted(note, known)
        if found is None:
            began = time.time_ns()
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            newest = max(state[1], state[2])
            if _state(path) == state and newest < began - _FRESH:
                self._note(note, known, found)
        _hashes[known] = found
        return found

    def _note(self, note: Path, known: tuple[object, ...], digest: str) -> None:
        with contextlib.suppress(OSError):  # it saves time, no more
            note.parent.mkdir(parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(prefix=".", dir=note.parent)
            with open(descriptor, "w", encoding="utf-8") as stream:
                json.dump({"file": list(known), "sha256": digest}, stream)
            os.replace(draft, note)

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{key}.lock")
        try:
            lock.acquire(timeout=_SAY_AFTER)
        except Timeout:
            _log.warning("waiting for another process that is making %s", self.folder / key)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what to do about a cache folder that can't be written."""
        try:
            yield
        except DataError:
            raise
        except NotImplementedError as error:
            raise DataError(
                "the cache folder's file system has no locks; set data.cache_dir to another one",
                self.folder,
            ) from error
        except OSError as error:
            where = Path(str(error.filename)) if error.filename else self.folder
            if error.errno not in _FULL and not where.is_relative_to(self.folder):
                raise
            if error.errno in _FULL:
                free = shutil.disk_usage(_existing(self.folder)).free / 2**30
                message = (
                    f"there is no space left for tokenised data ({error.strerror}; {free:,.1f} GiB "
                    "of the disk are free, and a token takes 5 bytes); make room, or set "
                    "data.cache_dir to another disk"
                )
            else:
                message = (
                    f"the cache folder can't be written ({error.strerror}); set data.cache_dir to "
                    "one that can"
                )
            raise DataError(message, self.folder) from error


_FULL = (errno.ENOSPC, errno.EDQUOT)


def _state(path: Path) -> tuple[int, int, int, int, int]:
    stat = path.stat()
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)


def _noted(note: Path, known: tuple[object, ...]) -> str | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return str(found["sha256"]) if found["file"] == list(known) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's own; mkdtemp makes folders that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
