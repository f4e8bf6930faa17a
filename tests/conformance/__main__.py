"""`python -m tests.conformance`: run schemathesis for each token, and write the report.

--quick          few cases an operation
--report         write docs/conformance.md
--token NAME     only this one
--operation ID   only this one
--out FILE       write the figures as JSON
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.conformance.report import Run, document, read, write
from tests.conformance.server import Seeded, seed
from winnow.cli.processes import free_ports

ROOT = Path(__file__).parents[2]
START_SECONDS = 60

LEFT_OUT = {
    "positive_data_acceptance": "a body may fit the schema and still not be a sweep that can run: "
    "the rules between its fields are told in words",
}
"""Checks that are not made, and why."""


def main() -> int:
    options = _parse()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="winnow-conformance-") as scratch:
        for name in ("admin", "read", "another project's"):
            if options.token in (None, name):
                home = Path(scratch) / name.replace(" ", "-")
                home.mkdir()
                runs.append(_run(name, home, options))
                print(runs[-1].line(), flush=True)
                for failure in runs[-1].failures:
                    print(f"  {failure}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(document(runs, LEFT_OUT), indent=1) + "\n")
    if options.report:
        write(runs, LEFT_OUT)
    return 1 if any(run.failures for run in runs) else 0


def _run(name: str, home: Path, options: argparse.Namespace) -> Run:
    """All phases with one token, on a fresh database."""
    seeded = seed(home)
    config = home / "schemathesis.toml"
    config.write_text(_config(seeded))
    report = home / "report.ndjson"
    (port,) = free_ports(1)
    began = time.monotonic()
    with _server(home, port):
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(config)),
            *("run", f"http://127.0.0.1:{port}/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {seeded.tokens[name]}"),
            *("--phases", options.phases),
            *("--checks", "all", "--exclude-checks", ",".join(LEFT_OUT)),
            *("--max-examples", "1" if options.quick else "10"),
            *("--seed", str(options.seed), "--generation-database", "none"),
            *("--report", "ndjson", "--report-ndjson-path", str(report)),
            *("--request-timeout", "30", "--no-color", "--continue-on-failure"),
            *("--suppress-health-check", "all", "--workers", "2"),
        ]
        if options.quick:  # they go on until the client has had enough
            command += ["--exclude-path-regex", "stream$|:follow$"]
        if options.operation:
            command += ["--include-operation-id", options.operation]
        with (home / "output.txt").open("w") as output:
            code = subprocess.run(
                command, cwd=home, stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode
    text = (home / "output.txt").read_text()
    if options.verbose:
        print(text)
    return read(name, report, text, code, time.monotonic() - began)


def _config(seeded: Seeded) -> str:
    """Half of all calls shall find something: known ids for path parameters."""
    lines = ["[parameters]"]
    lines += [f'"path.{name}" = {_quoted(value)}' for name, value in seeded.ids.items()]
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


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--quick", action="store_true", help="few cases an operation")
    parser.add_argument("--report", action="store_true", help="write docs/conformance.md")
    parser.add_argument("--token", help="only with this token")
    parser.add_argument("--operation", help="only this operation, by its id")
    parser.add_argument("--phases", default="examples,coverage,fuzzing,stateful")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="what schemathesis printed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
