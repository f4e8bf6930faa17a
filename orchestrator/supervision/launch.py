"""How a sweep's driver process starts and stops, and how it is known again after a restart.

A driver outlives the orchestrator that started it. Who drives a sweep is written in the sweep's
lease as a `Holder`: host, process id and start time, because ids are used again.

There are two launchers behind one interface: `ProcessLauncher` here, whose drivers are processes of
this machine, and `orchestrator.raytune.jobs`, whose drivers are jobs of a Ray cluster.
"""

from __future__ import annotations

import contextlib
import fcntl
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
from typing import Protocol

from orchestrator.errors import WinnowError
from orchestrator.supervision.processes import process_start

EXIT_NO_LEASE = 3
"""A driver's exit code: somebody else drives the sweep, or it has ended."""
EXIT_LEASE_LOST = 4
"""Another: its lease passed on, or could not be renewed."""
EXIT_NO_CLUSTER = 5
"""Another: Ray could not be reached, or went away."""


_DRIVE = (sys.executable, "-m", "orchestrator", "drive")


class LaunchError(WinnowError):
    """What runs drivers can't be reached, or refuses; nothing was started or ended."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who drives a sweep: a process of a machine, and how many trials it may run at once.

    `started` is the process's start time in clock ticks since boot; it tells the process from a
    later one with the same id. `job` is the Ray Job that it runs as, if it is one.
    """

    host: str
    pid: int
    started: int
    slots: int
    job: str | None = None

    @classmethod
    def me(cls, slots: int, job: str | None = None) -> Holder:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), process_start(os.getpid()) or 0, slots, job)

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
        return process_start(self.pid) == self.started


class Launcher(Protocol):
    """Starts drivers, and ends them: its own, or those that an earlier orchestrator started.

    A method may raise LaunchError, where what runs drivers can't be reached; then try again later.
    """

    @property
    def ends_with_orchestrator(self) -> bool:
        """Whether drivers are to stop when the orchestrator does. Others go on without one."""
        ...

    def start(self, sweep_id: str, epoch: int, slots: int) -> bool:
        """Start a driver that is to be the `epoch`-th of its sweep; it takes the lease itself.
        False if there is one already that may still take it, whoever started it."""
        ...

    def starting(self, sweep_id: str) -> bool:
        """Whether a driver that this launcher started still runs, with or without the lease yet."""
        ...

    def abandon(self, sweep_id: str) -> None:
        """End the driver that this launcher started for a sweep at once."""
        ...

    def ended(self) -> dict[str, int]:
        """Exit codes of those started here that have ended since the last call, by sweep."""
        ...

    def dead(self, holder: Holder) -> bool:
        """Whether it is proved that the holder's process is gone. False where nobody can tell."""
        ...

    def kill(self, holder: Holder) -> None:
        """End a driver that has lost its lease at once, and with it the workers that it owns."""
        ...

    def end(self, holders: Iterable[Holder], grace: float) -> None:
        """Ask these drivers and all that were started here to stop (they checkpoint first); kill
        what is left after `grace` seconds."""
        ...

    def log(self, sweep_id: str) -> str:
        """Where to read what the sweep's driver says."""
        ...


class ProcessLauncher:
    """Drivers as child processes of this one.

    Each holds a lock of its sweep for as long as it lives, which the kernel gives back however it
    ends: so two orchestrators of one home folder never have two drivers of a sweep at once.
    """

    ends_with_orchestrator = True

    def __init__(self, home: Path) -> None:
        self._logs = home / "logs"
        self._locks = home / "run"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, sweep_id: str, epoch: int, slots: int) -> bool:
        for folder in (self._logs, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        with (self._locks / f"driver-{sweep_id}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            with Path(self.log(sweep_id)).open("ab") as log:
                self._children[sweep_id] = subprocess.Popen(
                    [*_DRIVE, sweep_id, "--slots", str(slots)],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=[lock.fileno()],  # the lock lives as long as the child
                )
        return True

    def starting(self, sweep_id: str) -> bool:
        child = self._children.get(sweep_id)
        return child is not None and child.poll() is None

    def abandon(self, sweep_id: str) -> None:
        if (child := self._children.get(sweep_id)) is not None and child.poll() is None:
            child.kill()

    def ended(self) -> dict[str, int]:
        done = {s: c.returncode for s, c in self._children.items() if c.poll() is not None}
        for sweep_id in done:
            del self._children[sweep_id]
        return done

    def dead(self, holder: Holder) -> bool:
        return holder.here and not holder.alive

    def kill(self, holder: Holder) -> None:
        kill(holder)

    def end(self, holders: Iterable[Holder], grace: float) -> None:
        pids = {c.pid for c in self._children.values() if c.poll() is None}
        _end(pids | {h.pid for h in holders if h.here and h.alive}, grace)

    def log(self, sweep_id: str) -> str:
        return str(self._logs / f"driver-{sweep_id}.log")


def kill(holder: Holder) -> None:
    """End the process of a holder that is `here` at once."""
    if holder.here and holder.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGKILL)


def _end(pids: set[int], grace: float) -> None:
    deadline = time.monotonic() + grace
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while pids and time.monotonic() < deadline:
        pids = {pid for pid in pids if process_start(pid) is not None}
        time.sleep(0.05)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
