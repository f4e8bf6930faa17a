"""The report of a whole run: `docs/reliability.md` and the results behind it."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.context import Family
from tests.faults.isolate import Result
from tests.faults.oracle import RULES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "faults" / "results" / "reliability.json"
PAGE = ROOT / "docs" / "reliability.md"

DATABASES = ("sqlite", "postgres")

_PROMISES = {
    "acknowledged": "Whatever a commit had told a process is in the database, with its values.",
    "points": "A step of a trial counts once, none is missing, none counts from a past attempt.",
    "overlap": "A trial's attempts follow one another, by the database's clock and by the workers' "
    "own notes.",
    "ends": "A trial ends once; only a user's wish begins a new life.",
    "moves": "Every change of state is legal and has its event.",
    "events": "Events are numbered without gaps, in commit order, and are as they were told.",
    "fencing": "No write of a driver comes after its successor's first.",
    "orphans": "No process outlives those who should have ended it.",
    "integrity": "The database's own check finds nothing: `integrity_check` and "
    "`foreign_key_check`, or amcheck of every index and all references.",
    "finished": "Every sweep ends, every command is answered, every lease is given back.",
}
assert set(_PROMISES) == set(RULES)


@dataclass(frozen=True)
class Run:
    """How a run was made."""

    seed: int
    when: str
    seconds: float
    runs: int = 1
    """Runs that the results are put together from."""


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


def write(results: Sequence[Result], families: Sequence[Family], run: Run) -> None:
    """Write the page and the results behind it."""
    document = {
        "name": "Reliability",
        "seed": run.seed,
        "measured": run.when,
        "seconds": round(run.seconds, 1),
        "runs": run.runs,
        "cases": len(results),
        "violations": sum(len(r.violations) for r in results),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "results": [r.as_json() for r in sorted(results, key=lambda r: r.id)],
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text("\n".join(_page(results, families, run)) + "\n")


def _page(results: Sequence[Result], families: Sequence[Family], run: Run) -> Iterable[str]:
    by_family: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_family[result.id.split("/")[0]].append(result)
    bad = [r for r in results if r.violations]
    violations = sum(len(r.violations) for r in bad)
    yield "# Reliability"
    yield ""
    yield (
        f"**{len(results):,} cases, {violations} violations** "
        f"({run.when[:10]}, seed {run.seed}, {os.cpu_count()} CPUs, leases of 2 s). "
        "This page is written by `make faults`; the results behind it are in "
        "[`reliability.json`](../tests/faults/results/reliability.json)."
    )
    if run.runs > 1:
        yield (
            f"It is put together from {run.runs} runs that were resumed; each case counts with its "
            "last result."
        )
    yield ""
    yield (
        "Each case breaks a running winnow in one way. Then an oracle compares three witnesses "
        "that know nothing of one another: what processes noted, on disk, when a commit had "
        "returned; when workers trained, by their own clock; and the database, read with plain SQL."
    )
    yield ""
    yield "| what is done | SQLite | PostgreSQL | violations |"
    yield "|---|---:|---:|---:|"
    for family in families:
        cases = by_family[family.name]
        if cases:
            counts = Counter(r.id.rsplit("/", 1)[-1] for r in cases)
            found = sum(len(r.violations) for r in cases)
            yield (
                f"| **{family.name}.** {family.about} | "
                + " | ".join(str(counts[d] or "–") for d in DATABASES)
                + f" | {found} |"
            )
    yield ""
    yield from _points(by_family["crash points"])
    yield from _kills(by_family["kill -9"])
    yield "## What must hold after every case"
    yield ""
    for rule in RULES:
        yield f"- *{rule}*: {_PROMISES[rule]}"
    yield ""
    yield (
        "That the oracle sees a broken promise is tested too: with the epoch guard, the unique "
        "keys or the event of a move taken out of winnow, it reports `fencing`, "
        "`points` or `moves`."
    )
    yield ""
    yield from _violations(bad)
    yield "## Run it"
    yield ""
    yield "    make faults                                        # everything, and this page"
    yield f"    .venv/bin/python -m tests.faults --seed {run.seed}          # without writing it"
    yield '    .venv/bin/python -m tests.faults --only "crash points" --database sqlite'
    yield "    .venv/bin/python -m tests.faults --resume FOLDER   # go on where a run was ended"
    yield ""
    yield (
        "Chance comes from the seed and the case's name, so a case can be run again alone. A small "
        "part of each family runs in `make test`. Where nothing may be mounted (a full disk needs "
        "a small file system), those cases say that they were skipped."
    )


def _points(cases: Sequence[Result]) -> Iterable[str]:
    names = {r.id.split("/", 1)[1].rsplit("/", 1)[0].rsplit(",", 1)[0] for r in cases}
    names.discard("an undisturbed run")
    if names:
        yield (
            f"{len(names)} named crash points: " + ", ".join(f"`{n}`" for n in sorted(names)) + "."
        )
        yield ""


def _kills(cases: Sequence[Result]) -> Iterable[str]:
    by_target: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for result in cases:
        _, name, database = result.id.split("/")
        target = name.rstrip("0123456789 ")
        if (seconds := result.facts.get("seconds until work went on")) is not None:
            by_target[target][database].append(seconds)
    if not by_target:
        return
    yield "## kill -9, and then"
    yield ""
    yield (
        "Seconds until a step was stored again, anywhere in the server, median and longest, on a "
        "machine whose two CPUs train, run Ray and start the successor; Ray's workers have "
        "everyone's priority (`RAY_worker_niceness=0`):"
    )
    yield ""
    yield "| killed | SQLite | PostgreSQL |"
    yield "|---|---:|---:|"
    for target, found in by_target.items():
        yield f"| {target} | " + " | ".join(_spread(found[d]) for d in DATABASES) + " |"
    yield ""


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "–"
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f} ({len(seconds)} kills)"


def _violations(bad: Sequence[Result]) -> Iterable[str]:
    if not bad:
        return
    yield "## Violations"
    yield ""
    for result in bad:
        for text in result.violations[:5]:
            yield f"- `{result.id}`: {text[:300]}"
    yield ""
