"""`winnow demo`: a server, a small sweep that really trains, live progress, and what came out."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from winnow.cli.live import follow
from winnow.cli.processes import describe, end_with_parent
from winnow.cli.report import report
from winnow.cli.up import START_SECONDS, UpOptions, address, check_platform, running_server
from winnow.client import Client
from winnow.errors import WinnowError
from winnow.types import SweepState

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "demo.yaml"


def demo(options: UpOptions, file: Path | None, keep: bool, console: Console) -> int:
    """Run the demo; the exit status. With `keep`, a server that it started serves on."""
    check_platform()
    file = file or EXAMPLE
    if not file.is_file():
        raise WinnowError(
            f"{file} does not exist: the demo's data are part of the source tree, not of the "
            "installed package. Run it in a checkout, or give a sweep file: winnow demo FILE"
        )
    home = options.home.expanduser().resolve()
    started = time.monotonic()
    url, server = running_server(home), None
    if url is None:
        with console.status("starting the server: API, orchestrator, local Ray"):
            server = _start_server(options, home)
            url = _wait_for(server, home)
        console.print(f"server ready after {time.monotonic() - started:.0f} s", highlight=False)
    else:
        console.print(f"using the server that runs at {url}", highlight=False)
    try:
        console.print(f"dashboard: {address(url, home)}", soft_wrap=True, highlight=False)
        with Client(url) as client:
            with console.status(f"checking {file.name}, its data and its model"):
                sweep = client.submit(file)
            console.print(f"sweep {sweep.id} submitted", highlight=False)
            follow(client, sweep.id, console)
            final = client.sweep(sweep.id)
            console.print(report(final, client.trials(sweep.id), address(url, home)), crop=False)
        console.print(f"\n{time.monotonic() - started:.0f} s in all", highlight=False)
        if server is not None and keep:
            console.print("the server and its dashboard run on; Ctrl-C ends them")
            server.wait()
        elif server is not None:
            console.print("the server ends now; `--keep` leaves it and its dashboard running")
        return 0 if final.state is SweepState.COMPLETED else 1
    except KeyboardInterrupt:
        console.print("ended")
        return 130
    finally:
        _end(server)


def _start_server(options: UpOptions, home: Path) -> subprocess.Popen[bytes]:
    """`winnow up` as a child that ends with this process."""
    command = [sys.executable, "-P", "-m", "winnow.cli.main", "up", "--home", str(home)]
    for name in ("port", "cpus", "gpus"):
        if (value := getattr(options, name)) is not None:
            command += [f"--{name}", str(value)]
    (home / "logs").mkdir(parents=True, exist_ok=True)
    with (home / "logs" / "up.log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(),
        )


def _wait_for(server: subprocess.Popen[bytes], home: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (url := running_server(home)) is not None:
            return url
        if (status := server.poll()) is not None:
            said = (home / "logs" / "up.log").read_text(errors="replace").strip()
            raise WinnowError(f"the server ended with {describe(status)}:\n{said[-3000:]}")
        time.sleep(0.2)
    _end(server)
    raise WinnowError(f"the server did not start within {START_SECONDS:g} s; see {home / 'logs'}")


def _end(server: subprocess.Popen[bytes] | None) -> None:
    if server is None or server.poll() is not None:
        return
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        server.kill()
