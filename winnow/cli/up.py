"""`winnow up`: a whole server on this machine, in one command.

It starts, watches and ends four programs: the database's migration, a local Ray, the API and the
orchestrator. All state is in the home folder; the programs can be killed at any time and are
started again.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import httpx2

from winnow.cli.processes import Child, describe, free_ports, port_is_free
from winnow.environment import is_withheld
from winnow.errors import WinnowError
from winnow.settings import is_loopback, read_server_file, read_token
from winnow.types import Health

DEFAULT_PORT = 8642
START_SECONDS = 120.0
SERVER_PACKAGES = (
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "alembic",
    "optuna",
    "ray",
    "torch",
    "deepspeed",
)
OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Trials hand no data through Ray; its default, a third of the memory, would be wasted."""


@dataclass(frozen=True)
class UpOptions:
    home: Path
    port: int | None = None
    """None: 8642, or a free one if that is taken."""
    cpus: int | None = None
    gpus: int | None = None


def up(options: UpOptions, say: Callable[[str], None] = print) -> None:
    """Run a server until SIGINT or SIGTERM. Raises WinnowError if it cannot start."""
    check_platform()
    home = options.home.expanduser().resolve()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(home), _ended_by_signals() as ended, contextlib.ExitStack() as cleanup:
        env = _environment(home, options)
        url = f"http://127.0.0.1:{env['WINNOW_PORT']}"
        logs = home / "logs"
        children: list[Child] = []
        cleanup.callback(_end_all, children, say)
        if "RAY_ADDRESS" not in env:
            scratch = tempfile.mkdtemp(prefix="winnow-", dir="/tmp")
            cleanup.callback(shutil.rmtree, scratch, ignore_errors=True)
            # Callbacks run last to first: Ray ends before its scratch folder goes.
            cleanup.callback(_end_all, children, say)
            ray = _local_ray(home, env, logs, scratch, options)
            children.append(ray)
            ray.start()
        _migrate(env, logs)
        # The orchestrator has its drivers checkpoint before it ends.
        for name, grace in (("api", 5.0), ("orchestrator", 30.0)):
            child = Child(name, [sys.executable, "-m", name], env, logs / f"{name}.log", grace)
            children.append(child)
            child.start()
        _wait_until_ready(url, children, ended)
        if ended():
            return
        _write_server_file(home, url, env["RAY_ADDRESS"])
        cleanup.callback((home / "server.json").unlink, missing_ok=True)
        say(f"winnow is running: {address(url, home)}")
        say(f"data, checkpoints and logs are in {home}; Ctrl-C ends it")
        while not ended():
            for child in children:
                if found_dead := child.tend():
                    say(found_dead)
            time.sleep(0.2)


def address(url: str, home: Path) -> str:
    """The dashboard's address. The token is in the part that browsers do not send."""
    token = read_token(home)
    return f"{url}/#token={token}" if token else url


def check_platform() -> None:
    """Raise WinnowError unless a server can run here."""
    if sys.platform != "linux":
        raise WinnowError(
            "a winnow server runs on Linux; on macOS or Windows run it in a Linux container or "
            "virtual machine, and use `winnow submit` here with WINNOW_URL and WINNOW_TOKEN set"
        )
    missing = [name for name in SERVER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise WinnowError(
            f"the server's packages are not installed ({', '.join(missing)}): "
            "pip install 'winnow-sft[all]'"
        )


def running_server(home: Path) -> str | None:
    """The address of the server that runs from `home`, if it answers."""
    found = read_server_file(home)
    if not found or not isinstance(found.get("url"), str):
        return None
    return found["url"] if health(found["url"]) else None


def health(url: str) -> Health | None:
    """What the server says about itself; None if it does not answer."""
    with contextlib.suppress(httpx2.HTTPError, ValueError):
        response = httpx2.get(f"{url}/v1/health", timeout=5.0, trust_env=not is_loopback(url))
        return Health.model_validate_json(response.content)
    return None


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the home folder's lock. The kernel gives it back however this process ends."""
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = read_server_file(home) or {}
            where = found.get("url") or "it is still starting"
            raise WinnowError(
                f"a winnow server already runs from {home} ({where}); use that one, or give "
                "another folder with --home"
            ) from None
        os.set_inheritable(lock.fileno(), False)
        yield


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGINT or SIGTERM has come; the handlers are put back."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(home: Path, options: UpOptions) -> dict[str, str]:
    """What all children get. Their number of threads is theirs to choose, so OMP's is taken out."""
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    env["WINNOW_HOME"] = str(home)
    env["WINNOW_PORT"] = str(_port(options.port))
    env.setdefault("WINNOW_DATABASE_URL", f"sqlite:///{home / 'winnow.db'}")
    env.setdefault("TORCH_EXTENSIONS_DIR", str(home / "cache" / "torch_extensions"))
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    env.setdefault("PYTHONUNBUFFERED", "1")
    env.setdefault("WINNOW_LOG_FORMAT", "text")  # people read the files in `logs`
    # A folder of the user's that is named like one of our packages must not be taken for it.
    env["PYTHONSAFEPATH"] = "1"
    if env.get("WINNOW_RAY_ADDRESS"):
        env["RAY_ADDRESS"] = env["WINNOW_RAY_ADDRESS"]
    if not env.get("RAY_ADDRESS"):
        env.pop("RAY_ADDRESS", None)
    return env


def _port(wanted: int | None) -> int:
    if wanted is None:
        return DEFAULT_PORT if port_is_free(DEFAULT_PORT) else free_ports(1)[0]
    if not port_is_free(wanted):
        raise WinnowError(f"port {wanted} is in use; choose another with --port, or leave it out")
    return wanted


def _local_ray(
    home: Path, env: dict[str, str], logs: Path, scratch: str, options: UpOptions
) -> Child:
    """A one-machine Ray. It listens beyond loopback whatever it is told, so it asks for a token."""
    token = home / "ray_token"
    if not token.exists():
        _write_private(token, secrets.token_hex(32))
    port, client_port, agent_port = free_ports(3)
    env["RAY_ADDRESS"] = f"127.0.0.1:{port}"
    env["RAY_AUTH_MODE"] = "token"
    env["RAY_AUTH_TOKEN_PATH"] = str(token)
    env["RAY_USAGE_STATS_ENABLED"] = "0"
    command = [
        str(Path(sys.executable).with_name("ray")),
        *("start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"),
        f"--ray-client-server-port={client_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        "--include-dashboard=false",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={scratch}",
    ]
    if options.cpus is not None:
        command.append(f"--num-cpus={options.cpus}")
    if options.gpus is not None:
        command.append(f"--num-gpus={options.gpus}")
    # Without the address: it would be taken for a cluster to join. Secrets are given to those ranks
    # alone that need them.
    own = {k: v for k, v in env.items() if k != "RAY_ADDRESS" and not is_withheld(k)}
    return Child("ray", command, own, logs / "ray.log", grace=8.0)


def _migrate(env: dict[str, str], logs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "migrate"],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "migrate.log").open("a") as log:
        log.write(done.stdout + done.stderr)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).rsplit("\n", 1)[-1]
        raise WinnowError(f"the database cannot be brought up to date: {last}")


def _wait_until_ready(url: str, children: list[Child], ended: Callable[[], bool]) -> None:
    """Return once the API answers and the orchestrator has found the cluster; else raise."""
    deadline = time.monotonic() + START_SECONDS
    while not ended():
        for child in children:
            if (status := child.exit_status) is not None:
                raise WinnowError(
                    f"{child.name} ended with {describe(status)} while starting. The end of "
                    f"{child.log}:\n{child.last_lines()}"
                )
        found = health(url)
        if found and found.status == "ok" and found.cluster:
            return
        if time.monotonic() > deadline:
            what = "the API does not answer"
            if found is not None:
                silent = found.orchestrator == "silent"
                what = "the orchestrator is silent" if silent else "the Ray cluster does not answer"
            raise WinnowError(f"{what} after {START_SECONDS:g} s; see {children[0].log.parent}")
        time.sleep(0.2)


def _write_server_file(home: Path, url: str, ray_address: str) -> None:
    body = json.dumps({"url": url, "pid": os.getpid(), "ray_address": ray_address})
    scratch = home / "server.json.tmp"
    scratch.write_text(body + "\n")
    scratch.replace(home / "server.json")


def _write_private(path: Path, text: str) -> None:
    """Write a secret that only this user can read, from its first byte on."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _end_all(children: list[Child], say: Callable[[str], None]) -> None:
    """End the programs in the reverse order of their start: Ray last."""
    if children:
        say("ending")
    while children:
        children.pop().end()
