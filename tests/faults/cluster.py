"""A whole server with a real Ray for fault tests: `winnow up`, watched and killed from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.oracle import Evidence, Violation, judge
from tests.faults.tables import opened
from tests.fixtures.environment import without_winnow
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl
from winnow.cli.processes import free_ports
from winnow.client import Client

ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    """A running server: its home folder, its database and a client."""

    home: Path
    url: str
    client: Client
    process: subprocess.Popen[bytes]

    def pids(self, *words: str, without: str | None = None) -> list[int]:
        """Its processes whose command line has all the words, oldest first."""
        found: list[tuple[int, int]] = []
        for pid in processes(self.home):
            line = command(pid)
            if all(w in line for w in words) and not (without and without in line):
                found.append((started(pid), pid))
        return [pid for _, pid in sorted(found)]

    def points(self) -> int:
        """Steps stored so far."""
        with opened(self.url) as tables:
            return tables.rows("SELECT count(*) AS n FROM metrics")[0]["n"]

    def judge(self, *, finished: bool, survivors: list[str] | None = None) -> list[Violation]:
        return judge(
            Evidence(
                self.url,
                journals=sorted(self.home.glob("*.journal")),
                workers=self.home / "workers.jsonl",
                survivors=survivors or [],
                finished=finished,
            )
        )


@contextlib.contextmanager
def up(home: Path, url: str, *, cpus: int = 2, **environment: str) -> Iterator[Server]:
    """`winnow up` with leases of 2 s; ended by SIGTERM."""
    home.mkdir(parents=True, exist_ok=True)
    env = without_winnow()
    env |= {
        "WINNOW_HOME": str(home),
        "WINNOW_DATABASE_URL": url,
        "WINNOW_LEASE_SECONDS": "2",
        "WINNOW_CHECKPOINT_SECONDS": "1",
        "WINNOW_RECONCILE_SECONDS": "0.2",
        "WINNOW_FAULTS": str(home),
        "WINNOW_FAULTS_PAUSE": "0.5",
        "PYTHONPATH": f"{ROOT / 'tests' / 'faults' / 'site'}{os.pathsep}{ROOT}",
        **environment,
    }
    with (home / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("winnow")), "up", "--cpus", str(cpus)),
                *("--port", str(free_ports(1)[0])),  # another server may start just now
            ],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ready = home / "server.json"
            ready.unlink(missing_ok=True)
            wait_for(lambda: ready.exists() or process.poll() is not None, 180)
            if process.poll() is not None:
                raise RuntimeError((home / "up.log").read_text()[-3000:])
            where = json.loads(ready.read_text())
            with Client(where["url"], (home / "token").read_text().strip()) as client:
                yield Server(home, url, client, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def tiny_sweep(folder: Path, **changes: Any) -> dict[str, Any]:
    """A sweep of real but tiny runs of a few seconds each; its files are made once."""
    if not (folder / "model").exists():
        make_tiny_model(folder / "model")
        write_jsonl(folder / "train.jsonl", sums(256))
        write_jsonl(folder / "eval.jsonl", sums(16, seed=1))
    return {
        "name": "faults",
        "model": str(folder / "model"),
        "data": {
            "train": [{"path": str(folder / "train.jsonl")}],
            "eval": [{"path": str(folder / "eval.jsonl")}],
        },
        "space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}},
        "training": {"effective_batch_size": 2, "max_samples": 1200, "exact_match": False},
        "search": {"sampler": "random", "trials": 12, "seed": 3},
        "scheduler": {"name": "none"},
        "resources": {"max_concurrent": 2},
    } | changes


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """What `condition` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"not within {seconds:g} s")


def processes(home: Path) -> list[int]:
    """Live processes that were started with this home folder in their environment."""
    found: list[int] = []
    mark = f"WINNOW_HOME={home}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state not in "ZX" and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def started(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, IndexError):
        return 0
