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

from orchestrator.supervision.placement import Node
from winnow.service import ClusterNode

COMMAND = [sys.executable, "-m", "orchestrator.raytune.cluster"]
STALE_SECONDS = 10.0
"""It says something every two seconds. After this long in silence nothing is known."""
START_SECONDS = 60.0
"""How long it may take to its first line, before it is started anew."""
RESTART_SECONDS = 2.0


class ClusterWatch:
    """Keeps `python -m orchestrator.raytune.cluster` running and remembers its last line."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._nodes: list[Node] = []
        self._machines: list[ClusterNode] = []
        self._heard = self._begun = 0.0
        """When it last said something, and when it was last started."""
        self._process: subprocess.Popen[str] | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._listen, name="cluster", daemon=True).start()

    def read(self) -> dict[str, float]:
        """Total resources, e.g. {"CPU": 8.0, "GPU": 1.0}; empty if nothing was heard lately."""
        return dict(self._last) if self._fresh else {}

    def nodes(self) -> list[Node]:
        """The nodes that are alive; none if nothing was heard lately."""
        return list(self._nodes) if self._fresh else []

    def machines(self) -> list[ClusterNode]:
        """All that is known of the machines, dead ones too; none if nothing was heard lately."""
        return list(self._machines) if self._fresh else []

    @property
    def _fresh(self) -> bool:
        silent = time.monotonic() - max(self._heard, self._begun)
        if self._heard > self._begun and silent < STALE_SECONDS:
            return True
        # Ray's client hangs for a minute when its cluster goes away; the cluster may be back.
        if silent > (STALE_SECONDS if self._heard > self._begun else START_SECONDS):
            self._kill()
        return False

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        self._closed.set()
        self._kill()

    def _listen(self) -> None:
        while not self._closed.is_set():
            self._begun = time.monotonic()
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._process.stdout is not None
            with self._process.stdout as lines:
                for line in lines:
                    self._hear(line)
            self._begun = time.monotonic()  # what it said is over
            self._process.wait()
            self._closed.wait(RESTART_SECONDS)

    def _hear(self, line: str) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            nodes = [Node(**node) for node in told["nodes"]]
            self._machines = [ClusterNode.model_validate(m) for m in told.get("machines", [])]
            self._nodes = nodes
            self._last = told["total"]
            self._heard = time.monotonic()
