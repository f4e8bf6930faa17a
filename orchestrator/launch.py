"""How a sweep's driver process starts and stops, and how it is known again after a restart.

A driver outlives the orchestrator that started it. Who drives a sweep is written in the sweep's lease
as a `Holder`: host, process id and start time, because ids are used again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from orchestrator.store import Holder


def me(slots: int) -> Holder:
    """This process, as the holder of a lease that may run `slots` trials at once."""
    return Holder(socket.gethostname(), os.getpid(), str(_started(os.getpid())), slots)


def here(holder: Holder) -> bool:
    """Whether the holder is, or was, a process of this machine."""
    return holder.host == socket.gethostname()


def alive(holder: Holder) -> bool:
    """Whether a holder of this machine still runs."""
    return str(_started(holder.pid)) == holder.started


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
        """Ask drivers of this machine to stop (they checkpoint first); kill them after `grace` s."""
        pids = {c.pid for c in self._children.values() if c.poll() is None}
        _end(pids | {h.pid for h in holders if here(h) and alive(h)}, grace)


def kill(holder: Holder) -> None:
    """End a driver that has lost its lease at once, and with it the workers that it owns."""
    if here(holder) and alive(holder):
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
