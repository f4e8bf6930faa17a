"""What `pip install winnow-sft` gives: the client and the command line, and nothing heavy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from winnow import __version__

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "fastapi", "deepspeed", "transformers", "sqlalchemy", "pandas", "optuna")


def run(*command: object, cwd: Path) -> str:
    """Run a program away from this checkout, so that nothing is imported from it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("winnow", "trainer", "orchestrator", "api", "migrations"):
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source),
        cwd=folder,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an empty environment with the wheel and its base dependencies."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return python


def test_the_base_install_is_light_and_works(python: Path, tmp_path: Path) -> None:
    assert run(python.with_name("winnow"), "--version", cwd=tmp_path) == f"winnow {__version__}\n"
    found = json.loads(
        run(
            python,
            "-c",
            "import json, importlib.util as u, winnow, winnow.cli.main; "
            "winnow.Client, winnow.SweepSpec; "
            f"print(json.dumps([n for n in {HEAVY!r} if u.find_spec(n)]))",
            cwd=tmp_path,
        )
    )
    assert found == []


def test_a_server_cannot_be_started_from_it_and_it_says_what_to_install(
    python: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [str(python.with_name("winnow")), "up", "--home", str(tmp_path / "home")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'winnow-sft[all]'" in done.stderr
    assert not (tmp_path / "home").exists()


def test_the_wheel_holds_all_that_a_server_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "winnow/py.typed",
        "api/app.py",
        "api/routers/sweeps.py",
        "orchestrator/store/store.py",
        "trainer/__main__.py",
        "migrations/env.py",
        "migrations/script.py.mako",
        "migrations/versions/0001_initial.py",
    ):
        assert needed in names, needed
    assert not [n for n in names if n.startswith(("tests/", "examples/", "dashboard/"))]
    if (ROOT / "api" / "static" / "index.html").exists():
        assert "api/static/index.html" in names
