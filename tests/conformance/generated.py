"""schemathesis against a server of its own, once a token."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.conformance.events import Run, read
from tests.conformance.server import Seeded, seed
from winnow.cli.processes import free_ports

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
TOKENS = ("admin", "read", "another project's")

LEFT_OUT = {
    "positive_data_acceptance": "a body may fit the schema and still not be a sweep that can run: "
    "the rules between its fields are told in words",
}
"""Checks that are not made, and why."""

LARGE = ("create_sweep", "validate_sweep", "narrow_sweep")
"""Operations that take a sweep or its space: the phase `coverage` makes more than 20,000 bodies for
them, of the 25,000 for all 75."""
THE_SAME_BODY = ("validate_sweep", "narrow_sweep")
"""What doesn't fit the document is refused by the code that refuses it in `create_sweep`."""
AT_ONCE = 2
"""Tokens, each with a server of its own."""
WORKERS = "1"
"""Threads of one schemathesis. Hypothesis parses its own source with `ast`, and in CPython before
3.11.8 two threads that do so at once can end in a SystemError (cpython #106905), which shows as an
error of an operation, or, since it does not come again, as a FlakyFailure."""


@dataclass(frozen=True)
class Size:
    """How much is asked. `examples`: random cases an operation."""

    examples: int = 10
    phases: str = "examples,coverage,fuzzing,stateful"
    operation: str | None = None
    seed: int = 1
    streams: bool = True
    """Whether endless answers are read too, which go on until the client has had enough."""
    verbose: bool = False


def generated(tokens: Sequence[str], size: Size) -> Iterator[Run]:
    """A run a token, each on a new database."""
    with tempfile.TemporaryDirectory(prefix="winnow-conformance-") as scratch:
        homes = [Path(scratch) / str(number) for number in range(len(tokens))]
        seeds = [seed(home) for home in homes]  # one by one: Alembic's context is one a process
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(_run, tokens, homes, seeds, repeat(size))


def give_up() -> None:
    """End the runs that go on."""
    for tool in _tools:
        tool.kill()


_tools: list[subprocess.Popen[bytes]] = []


def _run(name: str, home: Path, seeded: Seeded, size: Size) -> Run:
    """All phases with one token, on a fresh database."""
    config = home / "schemathesis.toml"
    config.write_text(_config(name, seeded))
    report = home / "report.ndjson"
    (port,) = free_ports(1)
    began = time.monotonic()
    with _server(home, port):
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(config)),
            *("run", f"http://127.0.0.1:{port}/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {seeded.tokens[name]}"),
            *("--phases", size.phases),
            *("--checks", "all", "--exclude-checks", ",".join(LEFT_OUT)),
            *("--max-examples", str(size.examples)),
            *("--seed", str(size.seed), "--generation-database", "none"),
            *("--report", "ndjson", "--report-ndjson-path", str(report)),
            *("--request-timeout", "30", "--no-color", "--continue-on-failure"),
            *("--suppress-health-check", "all", "--workers", WORKERS),
        ]
        if not size.streams:
            command += ["--exclude-path-regex", "stream$|:follow$"]
        if size.operation:
            command += ["--include-operation-id", size.operation]
        with (home / "output.txt").open("w") as output:
            tool = subprocess.Popen(command, cwd=home, stdout=output, stderr=subprocess.STDOUT)
            _tools.append(tool)
            code = tool.wait()
    text = (home / "output.txt").read_text()
    if size.verbose:
        print(text)
    return read(name, report, text, code, time.monotonic() - began)


def _config(token: str, seeded: Seeded) -> str:
    """Half of all calls shall find something: known ids for path parameters.

    The large bodies come from the admin's token only. One that may not submit is refused before
    its body is read, and another project's is refused as the admin's is.
    """
    lines = ["[parameters]"]
    lines += [f'"path.{name}" = {_quoted(value)}' for name, value in seeded.ids.items()]
    for operation in LARGE:
        if token != "admin":
            lines += ["[[operations]]", f'include-operation-id = "{operation}"']
            lines += ["phases.coverage.enabled = false"]
        elif operation in THE_SAME_BODY:
            lines += ["[[operations]]", f'include-operation-id = "{operation}"']
            lines += ['phases.coverage.generation.mode = "positive"']
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return value if value.isdecimal() else f'"{value}"'


@contextmanager
def _server(home: Path, port: int) -> Iterator[None]:
    log = home / "server.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WINNOW_")} | {
        "WINNOW_READS_PER_MINUTE": "0",
        "WINNOW_WRITES_PER_MINUTE": "0",
        "WINNOW_HEAVY_PER_MINUTE": "0",
        "WINNOW_FAILURES_PER_MINUTE": "0",
    }
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.conformance.server", str(home), str(port)],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the API did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/v1/health", timeout=5) as response:
            return response.status == 200
    except (URLError, OSError):
        return False
