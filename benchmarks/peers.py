"""Virtual environments for the programs we compare with: each its own, made once, pinned.

    python = environment("trl", "trl==1.16.0")
    subprocess.run([python, script])

They lie in `.winnow/peers/NAME` of the repository, or under `$WINNOW_PEERS`. Packages come from the
index that the user's pip is set to (torch from `$TORCH_INDEX` where that is set, as for `make`), in
the versions of `constraints.txt` where it names them: a peer runs on the same torch and
transformers as we do.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
STAMP = ".installed"
SHOWN = ("Downloading", "Building", "Installing")

Log = Callable[[str], None]


class PeerNotInstalled(Exception):
    """A peer's environment could not be made. The message holds the end of pip's output."""


def environment(
    name: str,
    *requirements: str,
    torch: bool = True,
    pinned: bool = True,
    log: Log | None = None,
) -> Path:
    """The python of an environment that has `requirements`, made now if it isn't there yet.

    Args:
        name: of the peer; its folder's name.
        requirements: what pip is to install, pinned (`trl==1.16.0`).
        torch: also install torch, in the version we are tested with.
        pinned: take other packages in the versions of `constraints.txt`. Not for a peer that
            refuses them and shares none that matters.
        log: takes one line of progress at a time; prints by default.

    Raises:
        PeerNotInstalled: pip, or the making of the environment, failed. Nothing half made is used.
    """
    say = log or _print
    folder = peers_folder() / name
    python = folder / "bin" / "python"
    stamp = folder / STAMP
    wanted = _digest(requirements, torch, pinned)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f"{name}.lock", lambda: say(f"{name}: another process makes it")):
        if stamp.exists() and stamp.read_text("utf-8") == wanted:
            return python
        began = time.monotonic()
        say(f"{name}: making an environment in {folder} (once)")
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], name, say)
        install = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
        pins = ["-c", str(CONSTRAINTS)] if pinned else []
        _run([*install, "--upgrade", "pip>=25.1"], name, say)
        if torch:  # goes first and pinned: left to the resolver it could become another build
            index = os.environ.get("TORCH_INDEX")
            source = ["--index-url", index] if index else []
            _run([*install, *pins, *source, torch_requirement()], name, say)
        _run([*install, *pins, *requirements], name, say)
        stamp.write_text(wanted, "utf-8")  # last: a folder without it is made anew
        say(f"{name}: installed in {time.monotonic() - began:.0f} s")
    return python


def peers_folder() -> Path:
    """Where the environments lie."""
    return Path(os.environ.get("WINNOW_PEERS") or ROOT / ".winnow" / "peers").absolute()


def torch_requirement() -> str:
    """The torch that winnow pins, as pip takes it."""
    for line in CONSTRAINTS.read_text("utf-8").splitlines():
        if line.startswith("torch=="):
            return line.strip()
    raise PeerNotInstalled(f"{CONSTRAINTS} does not pin torch")


def _run(command: Sequence[str], name: str, say: Log) -> None:
    tail: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail = [*tail[-39:], line]
                text = line.strip()
                if text.startswith(SHOWN):
                    say(f"{name}: {text[:110]}")
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        raise PeerNotInstalled(
            f"{name} could not be installed ({' '.join(command)}):\n{''.join(tail)}"
        )


@contextlib.contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    with path.open("a") as file:  # closing it lets go of the lock, also when the process dies
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(requirements: Sequence[str], torch: bool, pinned: bool) -> str:
    pins = CONSTRAINTS.read_text("utf-8") if pinned else ""
    parts = [sys.version, pins, str(torch), *requirements]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _print(line: str) -> None:
    print(line, flush=True)
