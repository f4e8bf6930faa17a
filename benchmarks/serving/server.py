"""The real API on a filled database, in a process of its own, on a loopback port.

    python -m benchmarks.serving.server     (settings as ever; see `running`)

It differs from `python -m api` in one thing: the files of a new sweep are not opened, because there
are none.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

START_SECONDS = 120


class ServerFailed(Exception):
    """It did not start. The message holds the end of what it wrote."""


@dataclass(frozen=True)
class Server:
    """A server that runs, and the token to ask it with."""

    url: str
    token: str

    def client(self) -> httpx2.Client:
        """One connection that is kept, as a browser has it. Answers are not compressed."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept-Encoding": "identity"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=120)


@contextlib.contextmanager
def running(database_url: str, home: Path) -> Iterator[Server]:
    """A server until the block ends. Raises ServerFailed."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "WINNOW_"))}
    env = kept | {
        "WINNOW_DATABASE_URL": database_url,
        "WINNOW_HOME": str(home),
        "WINNOW_PORT": str(port),
        "WINNOW_READS_PER_MINUTE": "0",
        "WINNOW_WRITES_PER_MINUTE": "0",
        "WINNOW_HEAVY_PER_MINUTE": "0",
        "OMP_NUM_THREADS": "1",
    }
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.server"], env=env, stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, home)
            yield Server(url, (home / "token").read_text("utf-8").strip())
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen[bytes], url: str, home: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/v1/health", timeout=10).status_code in (200, 503):
                return
        time.sleep(0.1)
    raise ServerFailed((home / "server.log").read_text("utf-8")[-3000:])


def main() -> None:
    from unittest.mock import patch

    from api import __main__ as api
    from api.app import create_app
    from orchestrator.admission.preflight import Preflight

    def without_files(settings):
        return create_app(settings, check_files=lambda spec: Preflight(facts={"train_samples": 1}))

    with patch.object(api, "create_app", without_files):
        sys.exit(api.main())


if __name__ == "__main__":
    main()
