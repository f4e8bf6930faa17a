"""Making the runs: each one whole, in this process, as one JSON file.

A run whose loss is no longer finite can't go on: its file holds what there was, with the failure.
Other diverged runs go on to the end like all others.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.recording.grid import Planned
from trainer import engine
from trainer.loop import Run


def record(planned: Iterable[Planned], folder: Path, threads: int = 1) -> int:
    """Make all planned runs that have no file yet and that no other process is making.

    Returns how many this process made.
    """
    torch.set_num_threads(threads)
    engine.join(0, 1, "127.0.0.1", 0)
    made = 0
    for run in planned:
        path = run_file(folder, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if path.exists():
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="winnow-record-") as scratch:
                found = _run(run, Path(scratch))
            draft = path.with_suffix(f".{os.getpid()}.new")
            with gzip.open(draft, "wt", encoding="utf-8") as file:
                json.dump(found, file)
            draft.replace(path)
            made += 1
            print(f"{run.name}: {found['status']} in {time.monotonic() - began:.1f} s", flush=True)
    return made


def run_file(folder: Path, run: Planned) -> Path:
    return folder / "runs" / run.sweep.name / f"{run.recipe.name}-s{run.seed}.json.gz"


def _run(planned: Planned, scratch: Path) -> dict[str, Any]:
    run = Run(planned.config(scratch))
    steps: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    while True:
        report = run.advance(5.0)
        steps += [s.asdict() for s in report.steps]
        evaluations += [e.asdict() for e in report.evaluations]
        if report.status != "running":
            break
    run.close()
    return {
        "status": report.status,
        "failure": report.failure.code if report.failure else None,
        "total_samples": report.total_samples,
        "steps": steps,
        "evaluations": evaluations,
    }
