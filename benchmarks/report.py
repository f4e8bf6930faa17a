"""The common form of a benchmark's result: ours and a peer's samples, their ratio, and the setting.

A result file is one JSON object: `name`; `ours` and `peer` with the median of each measure
(`NAME_s`, seconds) and all its samples; `ratio`, above 1 where we are better; what was measured
(`work`); and where (`versions`, `machine`).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PACKAGES = ("torch", "ray", "deepspeed", "transformers")


@dataclass(frozen=True)
class Comparison:
    """One benchmark's samples in seconds, lower is better, by measure.

    `targets` holds the ratio that we want to reach, by measure. A measure without samples on both
    sides has no ratio.
    """

    name: str
    quick: bool
    ours: Mapping[str, Sequence[float]]
    peer: Mapping[str, Sequence[float]]
    peer_name: str
    work: Mapping[str, Any]
    targets: Mapping[str, float] = field(default_factory=dict)
    meaning: Mapping[str, str] = field(default_factory=dict)
    """What each measure is, in words, for the reader of the table."""

    def ratio(self, measure: str) -> float | None:
        """The peer's median over ours: how many times faster we are."""
        ours, peer = self.ours.get(measure), self.peer.get(measure)
        if not ours or not peer:
            return None
        return statistics.median(peer) / max(statistics.median(ours), 1e-9)

    @property
    def measures(self) -> list[str]:
        """The measures that both sides have, in our order."""
        return [m for m in self.ours if self.ratio(m) is not None]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "quick": self.quick,
            "ours": _side(self.ours),
            "peer": {"name": self.peer_name, **_side(self.peer)},
            "ratio": {m: round(self.ratio(m) or 0.0, 2) for m in self.measures},
            "targets": dict(self.targets),
            "meaning": dict(self.meaning),
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
        console.print(self._table())

    def _table(self) -> RenderableType:
        table = Table(title=self.name, title_justify="left", title_style="bold", pad_edge=False)
        table.add_column("")
        table.add_column("winnow", justify="right")
        table.add_column(self.peer_name, justify="right")
        table.add_column("faster", justify="right")
        table.add_column("target", justify="right", style="dim")
        for measure in self.measures:
            ratio = self.ratio(measure) or 0.0
            target = self.targets.get(measure)
            style = "green" if target is None or ratio >= target else "red"
            table.add_row(
                self.meaning.get(measure, measure),
                _median_and_range(self.ours[measure]),
                _median_and_range(self.peer[measure]),
                Text(f"{ratio:.1f}×", style=style),
                f"≥ {target:g}×" if target is not None else "",
            )
        work = " · ".join(f"{key.replace('_', ' ')} {_number(v)}" for key, v in self.work.items())
        return Group(table, Text(f"Medians (lowest to highest). {work}", style="dim"))


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


def _side(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    side: dict[str, Any] = {}
    for measure, values in samples.items():
        side[f"{measure}_s"] = round(statistics.median(values), 4) if values else None
        side[f"{measure}_samples_s"] = [round(v, 4) for v in values]
    return side


def _median_and_range(values: Sequence[float]) -> str:
    median = f"{statistics.median(values):.2f} s"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):.2f} to {max(values):.2f})"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
