"""How fast trials go through the orchestrator, how fairly it shares, and how flat a driver stays.

    python -m benchmarks.orchestration [--quick] --out orchestration.json

*Rate*: trials that do nothing, through submit → SQL → Tune → SQL: proposed by the sampler, stored,
started, reported with a step and an evaluation, judged, ended, each in its own transactions on
SQLite with full fsync. Against bare Ray Tune with `reuse_actors`, whose trials do nothing either
and are stored nowhere. Both sides have a Ray of their own, as many slots, and Tune's own files and
chatter switched off. Rate: trials over the seconds from handing in to the end of the run.

*Weights*: twenty sweeps at once on eight slots, with weights 1 to 4, for a while. Real are the
orchestrator's loop, the sharing, the database and each sweep's Study; training is simulated. Slot-
seconds are read from the attempts' rows; each sweep's are compared with its weight's part of all.
The last of the twenty starts some seconds after the first, once: in a short run that counts.

*Flat*: two hundred simulated trials of one sweep that each report every second, through the
driver's Study and database, without a rule that ends trials. CPU and memory of the process are
sampled; given is how they change over the run (Theil-Sen's slope), and that over their mean. A rule
that reads steps, such as `dynamics`, keeps 56 bytes of each. Tune isn't part of it: two hundred of
its actors do not fit a small machine.

Ray Tune has no counterpart to the latter two, so they stand without a peer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine, versions

PEER = "bare Ray Tune with reuse_actors"
TARGETS = {"rate": 0.5, "weights_off_most": 0.1, "cpu_drift": 0.1, "memory_drift": 0.1}
PART_SECONDS = 1200


class BenchmarkFailed(Exception):
    """A part could not be measured. The message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    try:
        result = measure(options.quick, console)
    except BenchmarkFailed as error:
        console.print(f"[red]The benchmark failed.[/] {error}", highlight=False)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draft = options.out.with_name(options.out.name + ".new")
    draft.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(options.out)
    _show(result, console)
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    return 0


def measure(quick: bool, console: Console) -> dict[str, Any]:
    """Run every part, each in a process of its own. Raises BenchmarkFailed."""
    trials, seconds, flat = (200, 120, 60) if quick else (1000, 480, 120)
    half = trials // 2
    with tempfile.TemporaryDirectory(prefix="winnow-orchestration-") as name:
        folder = Path(name)
        # Ours before and after the peer: a machine that gets busier shows in the range.
        first = _part("rate-ours", folder / "1", half, console)
        peer = _part("rate-peer", folder / "2", trials, console)
        second = _part("rate-ours", folder / "3", trials, console)
        weights = _part("weights", folder / "4", seconds, console)
        steady = _part("flat", folder / "5", flat, console)
    rates = [first["rate"], second["rate"]]
    return {
        "name": "Orchestration",
        "quick": quick,
        "ours": {
            "rate_per_s": round(second["rate"], 2),
            "rate_samples_per_s": [round(rate, 2) for rate in rates],
            "weights": weights,
            "flat": steady,
        },
        "peer": {"name": PEER, "rate_per_s": round(peer["rate"], 2)},
        "ratio": {"rate": round(second["rate"] / peer["rate"], 2)},
        "target": TARGETS,
        "definition": {"text": (__doc__ or "").strip()},
        "work": {
            "trials": trials,
            "weights_seconds": seconds,
            "flat_seconds": flat,
        },
        "versions": versions(),
        "machine": machine(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _part(name: str, folder: Path, size: int, console: Console) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.orchestration_parts", name, str(folder), str(size)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_", "WINNOW_"))}
    env = kept | {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with console.status(f"{name}, {size}"):
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=PART_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed(f"{name} did not end within {PART_SECONDS} s") from None
    if done.returncode:
        raise BenchmarkFailed(f"{name}: {done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    console.print(f"[dim]{name:<10}[/] {json.dumps(found)[:200]}", highlight=False)
    return found


def _show(result: dict[str, Any], console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, title=result["name"], title_justify="left")
    for column in ("", "winnow", PEER, "ratio or drift", "target"):
        table.add_column(column)
    ours, peer, target = result["ours"], result["peer"], result["target"]
    table.add_row(
        "Trials that do nothing",
        f"{ours['rate_per_s']}/s",
        f"{peer['rate_per_s']}/s",
        f"{result['ratio']['rate']}",
        f"≥ {target['rate']}",
    )
    weights, flat = ours["weights"], ours["flat"]
    off = f"{weights['off_most']:.3f}"
    table.add_row("Furthest from its weight", off, "–", off, f"≤ {target['weights_off_most']}")
    for what in ("cpu", "memory"):
        mean = f"{flat[f'{what}_mean']:.3g} {'of a core' if what == 'cpu' else 'MB'}"
        drift = f"{flat[f'{what}_drift']:+.3f}"
        table.add_row(f"Driver's {what}", mean, "–", drift, f"≤ {target[f'{what}_drift']}")
    console.print(table)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.orchestration",
        description="The orchestrator's rate of trials, its sharing, a driver's load over time.",
    )
    parser.add_argument("--quick", action="store_true", help="less of each: about six minutes")
    parser.add_argument("--out", type=Path, required=True, help="where to write the result (JSON)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
