"""How well, and how fast, effective batches are packed: ours, and three other ways.

    python -m benchmarks.packing [--quick] --out packing.json

Against instructlab-training's packers (linear attention: LPT; padded: rectangles), TRL's
`pack_dataset`, and the sampler of the study, which `batching: paper` replicates.

A *cell* is a set of lengths, a number of ranks, an effective batch, a kind of attention and a mode.
In a cell everyone packs samples of the same lengths under the same cap for the same ranks;
instructlab-training and we pack the very same effective batches. Cost is n + n²/16,384 for a sample
of n tokens: what it takes, attention included. Peers balance tokens; so each cell is also measured
with tokens as the cost (`by_tokens`), where we are told so.

Modes. *Free* (ZeRO 0 and 1): ranks wait for one another once a step. *Lockstep* (ZeRO 2 and 3):
after each micro-batch. instructlab-training and the study's sampler have one plan for both. Where a
peer's rank has fewer micro-batches than another, as its padded packer makes, lockstep counts empty
ones; it would in fact hang.

TRL packs a whole data set into rows before training and has no effective batch in samples. So its
rows are compared with what our best fit decreasing makes of the same set, and beside it stand the
samples that its steps would have, with as many rows a step as come nearest.

Planning time is that of the whole set: ours in one process (steps are planned by `plan_steps`, as
`plan_step` does one by one), the lowest of two or three. instructlab-training's is the median of
its calls on this machine, times the steps: each of its ranks makes one call a step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.packing_cells import (
    SETS,
    add_peer_planning,
    make_cells,
    measure_batches,
    measure_cell,
    measure_planning,
    measure_whole_set,
    ranks_of,
    sizes_of,
)
from benchmarks.peers import PeerNotInstalled, environment
from benchmarks.report import machine, versions
from trainer.packing import QUADRATIC_TOKENS

INSTRUCTLAB = "instructlab-training==0.16.2"
TRL = "trl==1.16.0"
TARGET_SECONDS = 2.0
ROW_SAMPLES = 100_000
"""Samples that TRL packs: it takes seconds for them."""
DEFINITION = {
    "cost": f"n + n²/{QUADRATIC_TOKENS} for a sample of n tokens; by_tokens: n",
    "efficiency": "linear: real tokens over micro-batches x cap; padded: real tokens over those of "
    "the rectangles. Lockstep counts empty micro-batches, free doesn't",
    "balance": "mean cost over ranks over the highest, padding counted; free: of a step, lockstep: "
    "of each micro-step; the sum of means over the sum of maxima",
    "utilisation": "the same with the cost of real tokens on top: ranks' time left after waiting "
    "and padding",
    "batch": "samples of the full steps of an epoch: mean, standard deviation, share that is exact",
    "planning_s": "seconds to plan all steps of a set; ours: wall clock of plan_steps, lowest of "
    "two or three (cpu: its processor time); the peer's: median call x steps, on one of its ranks",
    "one_step_ms": "plan_step for one step, nothing compiled, median",
    "ratio": "ours over the best peer's in the cell; above 1, we are better",
    "ours_beside_paper": "ours over the more steps on which the study's sampler, whose batches are "
    "its own, is compared",
}


class BenchmarkFailed(Exception):
    """A side could not be measured. The message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packing",
        description="Efficiency, balance, exactness and speed of packing, against "
        "instructlab-training, TRL and the study's sampler.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer cells: under a minute")
    parser.add_argument("--out", type=Path, required=True, help="where to write the result (JSON)")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        result = compare(options.quick, console)
    except (BenchmarkFailed, PeerNotInstalled) as error:
        console.print(f"[red]The benchmark failed.[/] {error}", highlight=False)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draft = options.out.with_name(options.out.name + ".new")
    draft.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(options.out)
    show(result, console)
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    return 0


def compare(quick: bool, console: Console) -> dict[str, Any]:
    """Measure everything.

    Raises:
        BenchmarkFailed: a peer's script failed.
        PeerNotInstalled: a peer could not be installed.
    """
    say: Callable[[str], None] = lambda line: console.print(line, style="dim", highlight=False)  # noqa: E731
    instructlab = environment("instructlab", INSTRUCTLAB, log=say)
    trl = environment("trl", TRL, log=say)
    size = 50_000 if quick else 300_000
    cells = list(make_cells(quick))
    with tempfile.TemporaryDirectory(prefix="winnow-packing-") as name:
        folder = Path(name)
        drawn = {s.name: s.draw(size) for s in SETS}
        for key, lengths in drawn.items():
            np.save(folder / f"{key}.npy", lengths)
            np.save(folder / f"{key}-rows.npy", lengths[:ROW_SAMPLES])
        say("Planning ours")
        planning = [measure_planning(s, count, quick) for s in SETS for count in sizes_of(quick)]
        say(f"instructlab-training packs {len(cells)} cells")
        peer = _run_peer(
            instructlab,
            "packing_instructlab",
            [
                {
                    "key": c.key,
                    "lengths": str(folder / f"{c.lengths.name}.npy"),
                    "batch_size": c.batch_size,
                    "ranks": c.ranks,
                    "cap": c.lengths.cap,
                    "padded": c.padded,
                    "steps": c.steps,
                }
                for c in cells
            ],
            folder,
            say,
        )
        say("TRL packs whole sets")
        rows = _run_peer(
            trl,
            "packing_trl",
            [
                {
                    "key": f"{s.name}/{strategy}/{batch or 'all'}",
                    "lengths": str(folder / f"{s.name}-rows.npy"),
                    "cap": s.cap,
                    "strategy": strategy,
                    "map_batch": batch,
                }
                for s in SETS
                for strategy, batch in (("bfd", None), ("bfd", 1000), ("wrapped", None))
            ],
            folder,
            say,
        )
    say("Comparing")
    measured = [m for cell in cells for m in measure_cell(cell, drawn[cell.lengths.name], peer)]
    batches = [
        measure_batches(s, ranks, drawn[s.name], rows) for s in SETS for ranks in ranks_of(quick)
    ]
    for entry in planning:
        add_peer_planning(entry, cells, peer)
    return {
        "name": "Packing of effective batches",
        "quick": quick,
        "ours": _summary(measured, planning, "ours"),
        "peer": {"name": INSTRUCTLAB, **_summary(measured, planning, "peer")},
        "ratio": _ratios(measured),
        "target": {"efficiency": 1.0, "balance": 1.0, "planning_s": TARGET_SECONDS},
        "definition": DEFINITION,
        "work": {
            "samples": max(sizes_of(quick)),
            "samples_compared": size,
            "samples_in_rows": min(size, ROW_SAMPLES),
            "sets": [
                {
                    **{k: getattr(s, k) for k in ("name", "mean", "sigma", "shortest", "longest")},
                    "cap": s.cap,
                    "real_mean": round(float(drawn[s.name].mean()), 1),
                }
                for s in SETS
            ],
        },
        "cells": measured,
        "batches": [entry for group in batches for entry in group],
        "whole_set": [measure_whole_set(s, drawn[s.name][:ROW_SAMPLES], rows) for s in SETS],
        "planning": planning,
        "versions": {**versions(), **_peer_versions(instructlab, trl)},
        "machine": machine(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


# --- peers ------------------------------------------------------------------------------------


def _run_peer(
    python: Path, script: str, work: list[dict[str, Any]], folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run a peer's script; its arrays by key, those of TRL put together by run."""
    asked = folder / f"{script}.json"
    told = folder / f"{script}.npz"
    asked.write_text(json.dumps(work), "utf-8")
    command = [str(python), str(Path(__file__).with_name(f"{script}.py")), str(asked), str(told)]
    tail: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail = [*tail[-29:], line]
                if line[:1].isdigit():
                    say(f"  {line.strip()}")
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code:
        raise BenchmarkFailed(f"{script} ended with {code}:\n{''.join(tail)}")
    with np.load(told) as file:
        arrays: dict[str, Any] = {key: file[key] for key in file.files}
    if script == "packing_trl":
        return {
            run["key"]: (
                float(arrays[f"{run['key']}/seconds"]),
                int(arrays[f"{run['key']}/count"])
                if run["strategy"] == "wrapped"
                else arrays[f"{run['key']}/samples"],
            )
            for run in work
        }
    return arrays


def _peer_versions(instructlab: Path, trl: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for python, package in ((instructlab, "instructlab-training"), (trl, "trl")):
        code = f"from importlib.metadata import version; print(version({package!r}))"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        found[package] = done.stdout.strip()
    return found


# --- the result -------------------------------------------------------------------------------


def _summary(
    cells: list[dict[str, Any]], planning: list[dict[str, Any]], side: str
) -> dict[str, float]:
    """Medians over the cells, and the slowest plan of the largest set."""
    key = "ours" if side == "ours" else "instructlab"
    summary = {
        measure: round(float(np.median([c[key][measure] for c in cells])), 5)
        for measure in ("efficiency", "balance", "utilisation")
    }
    largest = max(entry["samples"] for entry in planning)
    cases = [c for entry in planning if entry["samples"] == largest for c in entry["cases"]]
    if side == "ours":
        summary["slowest_planning_s"] = max(c["planning_s"] for c in cases)
        summary["slowest_planning_cpu_s"] = max(c["planning_cpu_s"] for c in cases)
    else:
        summary["slowest_planning_s"] = max(c.get("instructlab_s", 0.0) for c in cases)
    return summary


def _ratios(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The lowest ratio over the cells, and in how many we are at least as good as every peer."""
    ratios: dict[str, Any] = {"cells": len(cells)}
    for measure in ("efficiency", "balance", "utilisation"):
        values = [c["ratio"][measure] for c in cells]
        ratios[f"{measure}_lowest"] = min(values)
        ratios[f"{measure}_median"] = round(float(np.median(values)), 5)
        ratios[f"{measure}_reached"] = sum(v >= 1.0 for v in values)
    return ratios


def show(result: dict[str, Any], console: Console) -> None:
    """Print the cells, and what was not reached."""
    table = Table(box=SIMPLE_HEAD, title=result["name"], title_justify="left", title_style="bold")
    for heading in ("set", "ranks", "batch", "attention", "mode"):
        table.add_column(heading)
    for heading in ("efficiency", "best peer", "balance", "best peer"):
        table.add_column(heading, justify="right")
    for cell in result["cells"]:
        columns = [str(cell[k]) for k in ("set", "ranks", "batch_size", "attention", "mode")]
        for measure in ("efficiency", "balance"):
            peers = [cell[p][measure] for p in ("instructlab", "paper") if p in cell]
            missed = cell["ratio"][measure] < 1.0
            ours = f"{cell['ours'][measure]:.4f}"
            columns += [f"[red]{ours}[/]" if missed else ours, f"{max(peers):.4f}"]
        table.add_row(*columns)
    ratio = result["ratio"]
    console.print(table)
    console.print(
        f"At least the best peer: efficiency in {ratio['efficiency_reached']}, balance in "
        f"{ratio['balance_reached']} of {ratio['cells']} cells. Slowest plan of the largest set: "
        f"{result['ours']['slowest_planning_s']:.2f} s, "
        f"{result['ours']['slowest_planning_cpu_s']:.2f} s of processor time (target "
        f"{TARGET_SECONDS:g} s)."
    )


if __name__ == "__main__":
    sys.exit(main())
