"""The common form of a benchmark's result: ours and a peer's samples, their ratio, and the setting.

A result file is one JSON object: `ours` and `peer` with the median of each measure (`KEY_s`,
seconds) and all its samples (`KEY_samples_s`); `ratio`, above 1 where we are better; what each
measure is (`definition`), how much work it was measured on (`work`), and where (`versions`,
`machine`).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PACKAGES = ("torch", "ray", "deepspeed", "transformers")


@dataclass(frozen=True)
class Measure:
    """One thing measured, in seconds, lower is better. `target`: the ratio we want to reach."""

    key: str
    label: str
    definition: str
    target: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One benchmark's samples by measure, at least one a measure and side."""

    name: str
    quick: bool
    measures: Sequence[Measure]
    peer_name: str
    ours: Mapping[str, Sequence[float]]
    peer: Mapping[str, Sequence[float]]
    work: Mapping[str, Any]

    def ratio(self, measure: Measure) -> float:
        """The peer's median over ours: how many times faster we are."""
        ours, peer = self.ours[measure.key], self.peer[measure.key]
        return statistics.median(peer) / statistics.median(ours)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "quick": self.quick,
            "ours": _side(self.measures, self.ours),
            "peer": {"name": self.peer_name, **_side(self.measures, self.peer)},
            "ratio": {m.key: round(self.ratio(m), 2) for m in self.measures},
            "target": {m.key: m.target for m in self.measures},
            "definition": {m.key: m.definition for m in self.measures},
            "work": dict(self.work),
            "versions": versions(),
            "machine": machine(),
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def write(self, path: Path) -> None:
        """Write the result; a reader sees the old file or the new one, never a half."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        draft.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n", "utf-8")
        draft.replace(path)

    def show(self, console: Console) -> None:
        """Print a table: medians, and under each the lowest and highest sample."""
        table = Table(box=SIMPLE_HEAD, title=self.name, title_justify="left", title_style="bold")
        table.add_column("")
        table.add_column("winnow", justify="right")
        table.add_column(self.peer_name, justify="right")
        table.add_column("faster", justify="right")
        table.add_column("target", justify="right", style="dim")
        for measure in self.measures:
            ratio = self.ratio(measure)
            missed = measure.target is not None and ratio < measure.target
            table.add_row(
                measure.label,
                _cell(self.ours[measure.key]),
                _cell(self.peer[measure.key]),
                Text(f"{ratio:.1f}×", style="bold red" if missed else "bold green"),
                "" if measure.target is None else f"≥ {measure.target:g}×",
            )
        work = " · ".join(f"{_number(v)} {k.replace('_', ' ')}" for k, v in self.work.items())
        console.print(table, Text(f"{work}\nmedian, and lowest to highest", style="dim"))


def versions() -> dict[str, str]:
    """Python's version and those of the packages that do the work."""
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}}


def machine() -> dict[str, Any]:
    """What a reader needs to judge absolute times. The load tells whether it did anything else."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def _side(
    measures: Sequence[Measure], samples: Mapping[str, Sequence[float]]
) -> dict[str, float | list[float]]:
    side: dict[str, float | list[float]] = {}
    for key in (m.key for m in measures):
        side[f"{key}_s"] = round(statistics.median(samples[key]), 4)
        side[f"{key}_samples_s"] = [round(value, 4) for value in samples[key]]
    return side


def _cell(samples: Sequence[float]) -> Text:
    text = Text(f"{statistics.median(samples):.2f} s")
    if len(samples) > 1:
        text.append(f"\n{min(samples):.2f} to {max(samples):.2f}", style="dim")
    return text


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
