"""How a sweep's driver process starts and stops, and how it is known again after a restart.

A driver outlives the orchestrator that started it. Who drives a sweep is written in the sweep's
lease as a `Holder`: host, process id and start time, because ids are used again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Holder:
    """Who drives a sweep: a process of a machine, and how many trials it may run at once.

    `started` is the process's start time in clock ticks since boot; it tells the process from a
    later one with the same id.
    """

    host: str
    pid: int
    started: int
    slots: int

    @classmethod
    def me(cls, slots: int) -> Holder:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()) or 0, slots)

    @classmethod
    def parse(cls, text: str | None) -> Holder | None:
        """The holder that `str()` wrote; None for any other text."""
        try:
            return cls(**json.loads(text or ""))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether a holder that is `here` still runs."""
        return _started(self.pid) == self.started


class Drivers:
    """Starts drivers as child processes and ends drivers of this machine, its own or adopted."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, sweep_id: str, slots: int) -> None:
        """Start a driver; it takes the sweep's lease itself."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        with self.log(sweep_id).open("ab") as log:
            self._children[sweep_id] = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", "drive", sweep_id, "--slots", str(slots)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def log(self, sweep_id: str) -> Path:
        return self._log_dir / f"driver-{sweep_id}.log"

    def starting(self, sweep_id: str) -> bool:
        """Whether a child of ours for this sweep still runs, with or without the lease yet."""
        child = self._children.get(sweep_id)
        return child is not None and child.poll() is None

    def ended(self) -> dict[str, int]:
        """Children that have ended since the last call, with their exit codes."""
        done = {s: c.returncode for s, c in self._children.items() if c.poll() is not None}
        for sweep_id in done:
            del self._children[sweep_id]
        return done

    def end(self, holders: Iterable[Holder], grace: float) -> None:
        """Ask this machine's drivers to stop (they checkpoint first); kill them after `grace` s."""
        pids = {c.pid for c in self._children.values() if c.poll() is None}
        _end(pids | {h.pid for h in holders if h.here and h.alive}, grace)


def kill(holder: Holder) -> None:
    """End a driver that has lost its lease at once, and with it the workers that it owns."""
    if holder.here and holder.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGKILL)


def _end(pids: set[int], grace: float) -> None:
    deadline = time.monotonic() + grace
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while pids and time.monotonic() < deadline:
        pids = {pid for pid in pids if _started(pid) is not None}
        time.sleep(0.05)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
