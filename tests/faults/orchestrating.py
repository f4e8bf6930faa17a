"""The real orchestrator in a forked process, with simulated drivers where it would start real ones.

Patched are what it starts (a fork instead of a new Python) and what it reads of the cluster.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.settings import Settings
from orchestrator.supervision import launch, reconcile
from orchestrator.supervision.reconcile import Orchestrator
from tests.faults.hooks import Fate, Hooks
from tests.faults.simulated import Driver

Drive = Callable[[str, Path, str, int], int]


def simulated_driver(url: str, folder: Path, sweep_id: str, slots: int) -> int:
    name = f"driver-{sweep_id}-{os.getpid()}"
    return Driver(url, folder, sweep_id, name, slots=slots, pace=0.002).run()


def orchestrate(
    url: str,
    folder: Path,
    name: str,
    *,
    cpus: int = 4,
    drive: Drive = simulated_driver,
    pause: float = 0.05,
    fate: Fate | None = None,
    trace: Path | None = None,
) -> int:
    """Turn until SIGTERM. Drivers come from a process without these hooks: they have their own."""
    nursery = _Nursery(lambda sweep_id, slots: drive(url, folder, sweep_id, slots))
    hooks = Hooks(name, folder / f"{name}.journal", fate=fate, trace=trace).install()
    real = subprocess.Popen

    class Started(_Forked):
        def __init__(self, command: Sequence[str], **_: Any) -> None:
            at = list(command).index("drive")
            slots = int(command[list(command).index("--slots") + 1])
            hooks.point("launch/before")
            super().__init__(nursery, command[at + 1], slots)
            hooks.point("launch/after")

    def popen(command: Any, *args: Any, **kwargs: Any) -> Any:
        return Started(command) if "drive" in command else real(command, *args, **kwargs)

    launch.subprocess.Popen = popen  # type: ignore[assignment,misc]
    reconcile.ClusterWatch = lambda *_, **__: _Cluster(cpus)  # type: ignore[assignment,misc]
    settings = Settings(
        home=folder, database_url=url, lease_seconds=2.0, reconcile_seconds=pause, stop_seconds=2.0
    )
    return Orchestrator(settings).run()


class _Cluster:
    def __init__(self, cpus: int) -> None:
        self._resources = {"CPU": float(cpus)}

    def read(self) -> dict[str, float]:
        return dict(self._resources)

    def nodes(self) -> list[Any]:
        from orchestrator.supervision.placement import Node

        return [Node(cpus=self._resources["CPU"])]

    def machines(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass


class _Nursery:
    """A process, forked before anything is patched, that forks drivers when asked to.

    Its children are told apart by pipe: what is asked for goes in, process ids and exit codes come
    out. A driver outlives it and the orchestrator, as a real one does.
    """

    def __init__(self, drive: Callable[[str, int], int]) -> None:
        asked, self._ask = os.pipe()
        self._answers, answer = os.pipe()
        self._codes: dict[int, int] = {}
        self._lock = threading.Lock()
        self._started: list[int] = []
        if os.fork() == 0:
            os.close(self._ask)
            os.close(self._answers)
            _serve(os.fdopen(asked), answer, drive)
        os.close(asked)
        os.close(answer)
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, sweep_id: str, slots: int) -> int:
        before = len(self._started)
        os.write(self._ask, f"{sweep_id} {slots}\n".encode())
        while len(self._started) == before:
            time.sleep(0.0005)
        return self._started[-1]

    def code(self, pid: int) -> int | None:
        with self._lock:
            return self._codes.get(pid)

    def _listen(self) -> None:
        with os.fdopen(self._answers) as lines:
            for line in lines:
                what, pid, code = line.split()
                if what == "started":
                    self._started.append(int(pid))
                else:
                    with self._lock:
                        self._codes[int(pid)] = int(code)


def _serve(asked: Any, answer: int, drive: Callable[[str, int], int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def reap() -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.005)
                continue
            try:
                os.write(answer, f"ended {pid} {os.waitstatus_to_exitcode(status)}\n".encode())
            except BrokenPipeError:
                return

    threading.Thread(target=reap, daemon=True).start()
    for line in asked:
        sweep_id, slots = line.split()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            code = 70
            try:
                code = drive(sweep_id, int(slots))
            finally:
                os._exit(code)
        os.write(answer, f"started {pid} 0\n".encode())
    os._exit(0)


class _Forked:
    """As much of `subprocess.Popen` as the orchestrator uses."""

    def __init__(self, nursery: _Nursery, sweep_id: str, slots: int) -> None:
        self._nursery = nursery
        self.args = ["drive", sweep_id]
        self.pid = nursery.start(sweep_id, slots)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.returncode = self._nursery.code(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout or 3600)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
