"""Child processes that are kept running, end with their parent, and write to log files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_LOG_BYTES = 20_000_000
SETTLED_SECONDS = 60.0
"""A child that ran for so long is forgiven its earlier deaths."""
LAST_DELAY = 30.0

_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One program that should always run.

    Its death is answered by `tend` with a new start, later each time. It is told to end (SIGTERM)
    when this process dies, however it dies; it leads a process group of its own, so that a Ctrl-C
    in the terminal reaches the parent alone, which then ends its children in order.
    """

    name: str
    command: Sequence[str]
    env: dict[str, str]
    log: Path
    grace: float = 5.0
    """Seconds between SIGTERM and SIGKILL."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _started: float = field(default=0.0, init=False)
    _deaths: int = field(default=0, init=False)
    _next_start: float = field(default=0.0, init=False)

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > MAX_LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )
        self._started = time.monotonic()

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self.process.poll() if self.process else None

    def tend(self) -> str | None:
        """Start it again if it has died and its delay is over. A sentence if it was found dead."""
        if self.process is None:
            if time.monotonic() >= self._next_start:
                self.start()
            return None
        status = self.process.poll()
        if status is None:
            return None
        if time.monotonic() - self._started > SETTLED_SECONDS:
            self._deaths = 0
        delay = min(0.5 * 2**self._deaths, LAST_DELAY)
        self._deaths += 1
        self._next_start = time.monotonic() + delay
        self._kill_group(self.process)
        self.process = None
        return f"{self.name} ended with {describe(status)}; starting it again ({self.log})"

    def ask_to_end(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def end(self) -> None:
        """Ask it to end, wait, then kill what is left of its group."""
        if self.process is None:
            return
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.grace)
        self._kill_group(self.process)
        self.process.wait()

    def _kill_group(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing that it started outlives it, but what has left its group (a sweep's driver)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def last_lines(self, count: int = 15) -> str:
        """The end of its log, for a message about why it does not start."""
        with contextlib.suppress(OSError):
            lines = self.log.read_bytes()[-20_000:].decode(errors="replace").splitlines()
            return "\n".join(lines[-count:])
        return ""


def end_with_parent() -> Callable[[], None]:
    """A function to run in a new child: the kernel then ends it when this process dies."""
    libc = ctypes.CDLL(None)  # loaded here: nothing should be imported between fork and exec
    parent = os.getpid()

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return in_child


def describe(status: int) -> str:
    """An exit status in words: "status 1" or "signal SIGKILL"."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
    return f"status {status}"


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on, outside those that Ray keeps for its workers."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            if not 10_000 <= port < 20_000:
                found.append(port)
    return found


def port_is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
