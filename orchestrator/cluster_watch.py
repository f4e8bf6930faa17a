"""What the Ray cluster and its nodes have, as last heard from a process that asks it.

The orchestrator itself never connects to Ray: a client hangs when its cluster goes away.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time

from orchestrator.placement import Node

STALE_SECONDS = 30.0
RESTART_SECONDS = 5.0


class ClusterWatch:
    """Keeps `python -m orchestrator.raytune.cluster` running and remembers its last line."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._nodes: list[Node] = []
        self._heard = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._listen, name="cluster", daemon=True).start()

    def read(self) -> dict[str, float]:
        """Total resources, e.g. {"CPU": 8.0, "GPU": 1.0}; empty if nothing was heard lately."""
        return dict(self._last) if self._fresh else {}

    def nodes(self) -> list[Node]:
        """The nodes that are alive; none if nothing was heard lately."""
        return list(self._nodes) if self._fresh else []

    @property
    def _fresh(self) -> bool:
        return time.monotonic() - self._heard < STALE_SECONDS

    def close(self) -> None:
        self._closed.set()
        if self._process is not None:
            self._process.kill()

    def _listen(self) -> None:
        while not self._closed.is_set():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.raytune.cluster"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._process.stdout is not None
            for line in self._process.stdout:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    told = json.loads(line)
                    self._nodes = [Node(**node) for node in told["nodes"]]
                    self._last = told["total"]
                    self._heard = time.monotonic()
            self._process.wait()
            self._closed.wait(RESTART_SECONDS)
