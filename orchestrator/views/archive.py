"""A folder as a tar archive, made while it is sent: nothing is copied, and little is in memory."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from orchestrator.errors import WinnowError

CHUNK = 1024 * 1024
_BLOCK = 512
MOST_FILES = 100_000


class ArchiveError(WinnowError):
    """The folder is not there, is not whole, or is not one that may be sent."""


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    modified: float
    open: Callable[[], IO[bytes]]

    @property
    def header(self) -> bytes:
        info = tarfile.TarInfo(self.name)
        info.size, info.mtime, info.mode = self.size, int(self.modified), 0o644
        return info.tobuf(tarfile.PAX_FORMAT)

    @property
    def padding(self) -> int:
        return -self.size % _BLOCK


@dataclass(frozen=True, slots=True)
class Archive:
    """`size` bytes in all, known before the first is read."""

    size: int
    files: tuple[_File, ...]

    def chunks(self) -> Iterator[bytes]:
        """The archive, piece by piece. Raises ArchiveError in the middle if a file has changed:
        whoever reads then has fewer than `size` bytes, and so knows."""
        for file in self.files:
            yield file.header
            left = file.size
            with file.open() as stream:
                while left:
                    chunk = stream.read(min(CHUNK, left))
                    if not chunk:
                        raise ArchiveError(f"{file.name} has become shorter while it was sent")
                    left -= len(chunk)
                    yield chunk
            yield b"\0" * file.padding
        yield b"\0" * 2 * _BLOCK


def archive(location: str, top: str, within: list[str]) -> Archive:
    """The folder at `location`, a path or an fsspec address, as `top/…`.

    It has to lie below one of `within`. Links are left out, wherever they lead: only the regular
    files of the folder itself are sent. Raises ArchiveError.
    """
    listed = _remote if "://" in location else _local
    files = listed(location, top, within)
    if not files:
        raise ArchiveError(f"there is nothing at {location}")
    size = sum(len(f.header) + f.size + f.padding for f in files) + 2 * _BLOCK
    return Archive(size, tuple(files))


def _local(location: str, top: str, within: list[str]) -> list[_File]:
    given = Path(location)
    roots = [Path(w).resolve() for w in within if "://" not in w]
    try:
        folder = given.resolve(strict=True)
    except (OSError, RuntimeError):
        raise ArchiveError(
            f"there is nothing at {location} on the API's machine; it may be on another one"
        ) from None
    if given.is_symlink() or not any(folder.is_relative_to(r) and folder != r for r in roots):
        raise ArchiveError(f"{location} is not below the folders of this sweep")
    found: list[_File] = []
    for path, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            file = Path(path, name)
            about = file.lstat()
            if stat.S_ISREG(about.st_mode):
                inside = file.relative_to(folder).as_posix()
                found.append(
                    _File(f"{top}/{inside}", about.st_size, about.st_mtime, _opening(file))
                )
            _check_count(found)
    return found


def _opening(file: Path) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        # It was a regular file when the folder was listed; it must not have become a link since.
        return os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb")

    return opened


def _remote(location: str, top: str, within: list[str]) -> list[_File]:
    from fsspec.core import url_to_fs

    address = location.rstrip("/")
    parts = PurePosixPath(address.split("://", 1)[1]).parts
    if ".." in parts or not any(address.startswith(w.rstrip("/") + "/") for w in within):
        raise ArchiveError(f"{location} is not below the addresses of this sweep")
    try:
        system, root = url_to_fs(address)
        root = str(root).rstrip("/")
        listed: dict[str, Any] = system.find(root, detail=True)
    except ImportError as error:
        raise ArchiveError(f"{location} needs a package that the API lacks: {error}") from None
    except Exception as error:  # file systems raise what their libraries do
        raise ArchiveError(f"{location} can't be read ({type(error).__name__}: {error})") from None
    found: list[_File] = []
    for path, about in sorted(listed.items()):
        inside = path.removeprefix(root + "/")
        if about.get("type") != "file" or inside == path or ".." in PurePosixPath(inside).parts:
            continue
        size = int(about.get("size") or 0)
        found.append(_File(f"{top}/{inside}", size, 0.0, _opening_remote(system, path)))
        _check_count(found)
    return found


def _opening_remote(system: Any, path: str) -> Callable[[], IO[bytes]]:
    return lambda: system.open(path, "rb", block_size=8 * CHUNK)


def _check_count(found: list[_File]) -> None:
    if len(found) > MOST_FILES:
        raise ArchiveError(f"more than {MOST_FILES:,} files")
