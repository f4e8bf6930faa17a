"""The report of a whole run: `docs/reliability.md` and the results behind it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.faults.isolate import Result
from tests.faults.oracle import RULES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"


def read(path: Path) -> list[Result]:
    """The last result of each case in a file of results."""
    found: dict[str, Result] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            if line.endswith("}"):
                row = json.loads(line)
                found[row["id"]] = Result(
                    row["id"], tuple(row["violations"]), row["seconds"], row.get("facts", {})
                )
    return list(found.values())


def write(
    results: Sequence[Result], seed: int, when: str, took: float, data: Path, page: Path
) -> None:
    raise SystemExit(RULES)
