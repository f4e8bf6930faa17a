"""Files are opened only below the folders that a run is confined to.

A path is resolved first, links and `..` included, and what was opened is looked at once more: the
kernel tells which file it is, whatever the path has come to mean in between.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from trainer.errors import TrainerError

MOST_ENTRIES = 20_000
"""Of a folder that is looked through for links that lead out of it."""


class OutsideError(TrainerError):
    """A path leads out of the folders that may be read."""

    code = "config"


def resolved(path: str | Path, roots: Sequence[str] | None) -> Path:
    """The real path, if it is below one of `roots` (None: anywhere). It need not exist.

    Raises:
        OutsideError: it isn't.
    """
    text = str(path)
    if roots is None:
        return Path(text).expanduser()
    if "\0" in text or not text.startswith("/"):
        raise OutsideError(f"{text!r} is not an absolute path")
    real = Path(os.path.realpath(text))
    if not _below(real, roots):
        raise OutsideError(_message(text, roots))
    return real


def opened(path: str | Path, roots: Sequence[str] | None) -> BinaryIO:
    """A file below `roots`, open for reading bytes.

    Raises:
        OutsideError: it isn't below them, or what was opened isn't.
        OSError: it can't be opened.
    """
    real = resolved(path, roots)
    if roots is None:
        return real.open("rb")
    # O_NONBLOCK: a pipe in place of a file would wait for a writer.
    handle = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = _file_of(handle)
        if found is not None and not _below(found, roots):
            raise OutsideError(_message(str(path), roots))
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def folder(path: str | Path, roots: Sequence[str] | None) -> Path:
    """A folder below `roots` from which no link leads out.

    Raises:
        OutsideError: it isn't below them, or a link in it leads out; or it holds too much to tell.
    """
    real = resolved(path, roots)
    if roots is None or not real.is_dir():
        return real
    seen = 0
    for at, folders, names in os.walk(real):
        for name in (*folders, *names):
            seen += 1
            if seen > MOST_ENTRIES:
                raise OutsideError(
                    f"{path} holds more than {MOST_ENTRIES:,} files; give a folder of its own"
                )
            entry = os.path.join(at, name)
            if os.path.islink(entry) and not _below(Path(os.path.realpath(entry)), roots):
                raise OutsideError(f"the link {entry} leads out of {', '.join(roots) or 'nowhere'}")
    return real


def is_below(path: str, roots: Sequence[str]) -> bool:
    """Whether a path leads below one of `roots`, links followed. It need not exist."""
    return _below(Path(os.path.realpath(path)), roots)


def _below(real: Path, roots: Sequence[str]) -> bool:
    return any(real.is_relative_to(os.path.realpath(root)) for root in roots)


def _file_of(handle: int) -> Path | None:
    """What an open file is called now; None where the system doesn't tell."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{handle}"))
    except OSError:
        return None


def _message(path: str, roots: Sequence[str]) -> str:
    if not roots:
        return f"{path} can't be used: this server reads no local files, only the hub's"
    return f"{path} is outside of what may be read here: {', '.join(roots)}"
