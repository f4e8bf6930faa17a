"""What a rank writes goes to a file of its attempt, not to Ray's file of the process.

A rank trains one attempt after another; each has its own `logs/rank-N.log`, in the attempt's
folder, where the API reads it. Everything that the process writes to stdout and stderr goes there,
libraries in C included.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

LARGEST = 16 * 1024 * 1024
"""Bytes of a file; then it takes the place of the older one."""


class Output:
    """Where this process writes. Does nothing until `to` was called."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def to(self, folder: Path, rank: int) -> None:
        """Write to `folder/logs` from now on. What can't be written is not worth a trial: if the
        folder can't be made, all goes where it went before."""
        path = folder / "logs" / f"rank-{rank}.log"
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open(path)
            self._path = path

    def say(self, text: str) -> None:
        """One line, with the time (UTC)."""
        with contextlib.suppress(OSError, ValueError):
            print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), text, flush=True)

    def rotate(self) -> None:
        """Begin a new file if this one is large."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            if self._path.stat().st_size > LARGEST:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open(self._path)

    def _open(self, path: Path) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            os.dup2(opened, 1)
            os.dup2(opened, 2)
        finally:
            os.close(opened)
