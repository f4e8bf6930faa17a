"""Data and base models of the recorded sweeps.

The demo's come with winnow. The others are made from two public sets of messages:

- `instructions`: conversations drawn from Self-Instruct and P3-style task collections in three
  phases, files `PHASE.{train,eval}.jsonl`.
- `gsm8k`: Cobbe et al., arXiv 2110.14168, files `{train,test}.jsonl` with `question` and `answer`.

Base models are pretrained on the first half of each training file; fine-tuning draws from the
second half only, and held-out sets from files that neither has seen.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PHASES = ("phase00_instructions", "phase05_knowledge", "phase10_skills")
HELD_OUT = 120
"""Samples of an eval or test set."""
LONGEST = 320
"""Characters of a conversation that is trained on: a run is to cost seconds."""
RETAINED = 150
"""Documents by which retention is measured: of the kind of text that the base model learnt from."""


@dataclass(frozen=True)
class Source:
    """A base model and a set to fine-tune it on, as files."""

    name: str
    base: Path
    train: tuple[tuple[Path, int], ...]
    """Files with their phases."""
    eval: tuple[Path, ...]
    test: tuple[Path, ...]
    general: Path
    extract: str = "whole"
    max_new_tokens: int = 24
    generated: int = 32
    """Samples of each set that are answered for exact match."""
    samples: int = 1920
    """Budget of a run."""
    batches: tuple[int, int, int] = (2, 15, 120)


def sources(folder: Path) -> dict[str, Source]:
    """All sources by name; those made by `prepare` lie in `folder`."""
    demo = EXAMPLES / "data"

    def demo_set(name: str, phases: tuple[str, ...]) -> Source:
        return Source(
            name,
            EXAMPLES / "base",
            train=tuple((demo / f"{p}.train.jsonl", int(p[5:7])) for p in phases),
            eval=tuple(demo / f"{p}.eval.jsonl" for p in phases),
            test=tuple(demo / f"{p}.test.jsonl" for p in phases),
            general=folder / "demo.general.jsonl",
        )

    def made(name: str, base: str, **more: Any) -> Source:
        return Source(
            name,
            folder / base,
            train=((folder / f"{name}.train.jsonl", 0),),
            eval=(folder / f"{name}.eval.jsonl",),
            test=(folder / f"{name}.test.jsonl",),
            general=folder / f"{base}.general.jsonl",
            **more,
        )

    return {
        "demo": demo_set("demo", PHASES),
        "demo-knowledge": demo_set("demo-knowledge", PHASES[1:2]),
        "words": made("words", "base-words", samples=720, batches=(1, 8, 60), generated=80),
        "skills": made(
            "skills",
            "base-words",
            samples=720,
            batches=(1, 8, 60),
            max_new_tokens=40,
            generated=32,
        ),
        "gsm8k": made(
            "gsm8k",
            "base-maths",
            samples=720,
            batches=(1, 8, 60),
            extract="last_number",
            max_new_tokens=64,
            generated=32,
        ),
    }


def prepare(folder: Path, instructions: Path, gsm8k: Path) -> None:
    """Write data and base models into `folder`. What is there already is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    phases = {p: _messages(instructions / f"{p}.train.jsonl") for p in PHASES}
    maths = [_asked(r) for r in _rows(gsm8k / "train.jsonl")]
    halves = {
        name: (rows[: len(rows) // 2], rows[len(rows) // 2 :]) for name, rows in phases.items()
    }
    seen_words = [r for first, _ in halves.values() for r in first]
    seen_maths = maths[: len(maths) // 2] + halves[PHASES[0]][0]

    held = {p: _messages(instructions / f"{p}.eval.jsonl") for p in PHASES}
    fresh = [halves[p][1] for p in PHASES]
    _write_sets(folder, "words", fresh[:2], [held[p] for p in PHASES[:2]])
    _write_sets(folder, "skills", fresh[2:], [held[PHASES[2]]])
    tests = [_asked(r) for r in _rows(gsm8k / "test.jsonl")]
    _write_sets(folder, "gsm8k", [maths[len(maths) // 2 :]], [tests])

    _pretrain(folder, "base-words", seen_words, hidden=128, layers=4, steps=2400)
    _pretrain(folder, "base-maths", seen_maths, hidden=96, layers=6, steps=1800)
    lines = folder / "demo.pretraining.txt"
    if not lines.exists():
        _python(
            "examples/generate.py", "--pretraining", str(lines), "--seed", "1", "--lines", "600"
        )
    texts = lines.read_text("utf-8").removesuffix("\n").split("\n")
    _write(folder / "demo.general.jsonl", [{"text": t} for t in texts[:600]])


def _write_sets(
    folder: Path,
    name: str,
    train: list[list[dict[str, Any]]],
    held: list[list[dict[str, Any]]],
) -> None:
    """Train, eval and test files of short conversations."""
    draw = random.Random(f"recording/{name}")

    def short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [r for r in rows if _length(r) <= LONGEST]

    chosen = [r for rows in train for r in draw.sample(short(rows), min(720, len(short(rows))))]
    _write(folder / f"{name}.train.jsonl", chosen)
    pool = short([r for rows in held for r in rows])
    if len(pool) < 2 * HELD_OUT:  # The held-out files are small: then the shortest there are.
        pool = sorted((r for rows in held for r in rows), key=_length)
    pool = draw.sample(pool[: max(2 * HELD_OUT, len(short(pool)))], 2 * HELD_OUT)
    _write(folder / f"{name}.eval.jsonl", pool[0::2])
    _write(folder / f"{name}.test.jsonl", pool[1::2])


def _pretrain(
    folder: Path, name: str, rows: list[dict[str, Any]], *, hidden: int, layers: int, steps: int
) -> None:
    """A base model on all but `RETAINED` of the rows' texts; these measure what it retains."""
    random.Random(f"recording/{name}").shuffle(rows)
    texts = ["\n".join(m["content"] for m in r["messages"]) for r in rows]
    kept = [t for t in texts if len(t) <= 400][:RETAINED]
    learnt = [t for t in texts if t not in set(kept)]
    _write(folder / f"{name}.general.jsonl", [{"text": t} for t in kept])
    if (folder / name / "model.safetensors").exists():
        return
    text = folder / f"{name}.pretraining.jsonl"
    _write(text, [{"text": t} for t in learnt])
    _python(
        "examples/pretrain.py",
        *("--jsonl", str(text), "--field", "text", "--out", str(folder / name)),
        *("--vocab", "2048", "--hidden", str(hidden), "--layers", str(layers), "--heads", "4"),
        *("--batch", "16", "--steps", str(steps), "--seed", "0"),
    )


def _python(*args: str) -> None:
    subprocess.run([sys.executable, *args], cwd=ROOT, check=True)


def _messages(path: Path) -> list[dict[str, Any]]:
    return [{"messages": r["messages"]} for r in _rows(path)]


def _length(row: dict[str, Any]) -> int:
    """In characters."""
    return sum(len(m["content"]) for m in row["messages"])


def _asked(row: dict[str, Any]) -> dict[str, Any]:
    turns = [("user", row["question"]), ("assistant", row["answer"])]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    draft.replace(path)
