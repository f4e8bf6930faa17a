"""The example scripts are programs, not a package: they are run, and their output is read."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.programs import start

EXAMPLES = Path(__file__).parents[3] / "examples"
SPLITS = ("train", "eval", "test")
STEMS = ("phase00_instructions", "phase05_knowledge", "phase10_skills")


@dataclass(frozen=True)
class Sample:
    prompt: str
    answer: str
    phase: int
    task: str
    split: str


def run_script(script: str, *args: object) -> None:
    """Run it to its end. Raises CalledProcessError with what it wrote if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / "out", Path(folder) / "errors"
        process = start(
            EXAMPLES / script,
            *args,
            out=out,
            errors=errors,
            variables={"TOKENIZERS_PARALLELISM": "false"},
        )
        process.join(240)
        if process.exitcode != 0:
            process.kill()
            raise subprocess.CalledProcessError(
                process.exitcode or -9, script, out.read_text(), errors.read_text()
            )


@pytest.fixture(scope="session")
def examples() -> Path:
    return EXAMPLES


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Every sample that is shipped."""
    found = []
    for stem in STEMS:
        for split in SPLITS:
            for line in (EXAMPLES / "data" / f"{stem}.{split}.jsonl").read_text().splitlines():
                row = json.loads(line)
                user, assistant = row["messages"]
                assert (user["role"], assistant["role"]) == ("user", "assistant")
                found.append(
                    Sample(user["content"], assistant["content"], row["phase"], row["task"], split)
                )
    return found


@pytest.fixture(scope="session")
def pretraining_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base model's text, as `examples/README.md` makes it."""
    path = tmp_path_factory.mktemp("pretraining") / "text.txt"
    run_script("generate.py", "--pretraining", path, "--seed", 0)
    return path.read_text()
