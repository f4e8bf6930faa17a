"""A real server for browser tests: `python -m api` on a SQLite database of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from orchestrator.store import Store, migrate

START_SECONDS = 60


class Server:
    """The API and the dashboard in a process of their own, and the store that they read."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        database = f"sqlite:///{home / 'winnow.db'}"
        migrate(database)
        self.store = Store(database)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def token(self) -> str:
        return (self.home / "token").read_text().strip()

    def page(self, path: str = "/") -> str:
        """The address of a page, with the token in it, as `winnow up` prints it."""
        return f"{self.url}{path}#token={self.token}"

    def start(self) -> None:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("WINNOW_")},
            "WINNOW_HOME": str(self.home),
            "WINNOW_PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }
        log = (self.home / "api.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "api"], env=environment, stdout=log, stderr=log
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the API did not start:\n{(self.home / 'api.log').read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill the process, as a crash would; `start` brings it back at the same address."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self.store.close()

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/v1/health", timeout=5) as response:
                return response.status == 200
        except (URLError, OSError):
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
