"""`winnow up`: a whole server, kept running, and gone without a trace when it ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import winnow
from tests.fixtures.environment import without_winnow
from winnow.cli.processes import free_ports
from winnow.errors import ServerNotFound
from winnow.settings import read_server_file

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


class Up:
    """A `winnow up` and what it prints."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        env = without_winnow()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "winnow.cli.main", "up", "--home", str(home), *options],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self.printed = ""

    def wait_for(self, words: str, seconds: float = 240.0) -> None:
        """Wait until it has printed `words`."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while words not in self.printed:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, left))
            assert ready, f"no {words!r} within {seconds:g} s in: {self.printed}"
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, f"it ended: {self.printed}"
            self.printed += chunk.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(120)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def family(self) -> dict[int, str]:
        """All processes that came from it, by their id, with their command lines."""
        mark = f"WINNOW_HOME={self.home}".encode()
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != self.process.pid:
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        if line:
                            found[int(entry.name)] = line
                except (OSError, UnicodeDecodeError):
                    continue
        return found

    def part(self, words: str) -> int:
        return next(pid for pid, line in self.family().items() if words in line)

    def wait_until_alone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.family():
            assert time.monotonic() < deadline, self.family()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One server for all tests here; the last of them ends it."""
    started = Up(tmp_path_factory.mktemp("up") / "home", "--cpus", "3", "--gpus", "0")
    try:
        started.wait_for("Ctrl-C ends it")
        yield started
    finally:
        started.close()


@pytest.fixture
def client(up: Up, monkeypatch: pytest.MonkeyPatch) -> Iterator[winnow.Client]:
    for name in ("WINNOW_URL", "WINNOW_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WINNOW_HOME", str(up.home))
    with winnow.Client() as client:
        yield client


def test_all_its_parts_run_and_the_client_finds_them(up: Up, client: winnow.Client) -> None:
    health = client.health()
    assert (health.status, health.cluster["CPU"]) == ("ok", 3.0)
    assert list(client.sweeps()) == []
    token = (up.home / "token").read_text().strip()
    assert f"{client.url}/#token={token}" in up.printed
    for secret in ("token", "ray_token"):
        assert (up.home / secret).stat().st_mode & 0o777 == 0o600


def test_its_api_is_on_loopback_only(up: Up, client: winnow.Client) -> None:
    port = int(client.url.rsplit(":", 1)[1])
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]


def test_a_second_one_on_the_same_folder_is_refused_with_the_address_of_the_first(
    up: Up, client: winnow.Client
) -> None:
    second = Up(up.home)
    output, _ = second.process.communicate(timeout=240)
    assert second.process.returncode == 2
    assert f"already runs from {up.home}" in output.decode()
    assert client.url in output.decode()
    assert client.health().status == "ok"


@pytest.mark.parametrize("part", ["-m api", "-m orchestrator"])
def test_a_part_that_is_killed_is_started_again(up: Up, client: winnow.Client, part: str) -> None:
    before = up.part(part)
    name = part.split()[1]
    up.printed = ""
    os.kill(before, signal.SIGKILL)
    up.wait_for(f"{name} ended with signal SIGKILL; starting it again")
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            if client.health().database == "ok" and up.part(part) != before:
                break
        except (ServerNotFound, StopIteration):
            pass
        time.sleep(0.1)
    assert up.part(part) != before
    assert list(client.sweeps()) == []


def test_ctrl_c_ends_everything_in_order_and_leaves_nothing(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(120) == 0
    up.wait_until_alone(60)
    assert read_server_file(up.home) is None


def test_everything_ends_with_it_even_if_it_is_killed(tmp_path: Path) -> None:
    started = Up(tmp_path / "home")
    started.wait_for("Ctrl-C ends it")
    assert len(started.family()) >= 5
    started.process.kill()
    started.process.wait()
    started.wait_until_alone(120)
    started.close()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_ports(1)[0]))
        taken.listen()
        port = taken.getsockname()[1]
        refused = Up(tmp_path / "home", "--port", str(port))
        output, _ = refused.process.communicate(timeout=240)
    refused.close()
    assert refused.process.returncode == 2
    assert f"port {port} is in use" in output.decode()
