"""The page that tells what was asked and answered, and the figures behind it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.conformance.events import Run
from tests.conformance.refused import NAMED, Refusal, Refusals
from tests.conformance.walked import Walk

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"
RESULTS = Path(__file__).parent / "results" / "conformance.json"


@dataclass
class Findings:
    """Of all parts that were run."""

    left_out: Mapping[str, str]
    """Checks that schemathesis does not make, and why."""
    runs: list[Run] = field(default_factory=list)
    walk: Walk = field(default_factory=Walk)
    refusals: Refusals = field(default_factory=Refusals)
    measured: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def faults(self) -> list[str]:
        generated = [f"{run.token}: {failure}" for run in self.runs for failure in run.failures]
        return [*generated, *self.walk.faults, *self.refusals.faults]


def document(found: Findings) -> dict[str, Any]:
    """The figures, for programs."""
    return {
        "measured": found.measured,
        "schemathesis": version("schemathesis"),
        "cases": sum(run.cases.total() for run in found.runs),
        "failures": sum(len(run.failures) for run in found.runs),
        "server_errors": sum(run.statuses["5xx"] for run in found.runs),
        "runs": [
            {
                "token": run.token,
                "seconds": round(run.seconds, 1),
                "operations": run.operations,
                "cases": dict(run.cases),
                "statuses": dict(sorted(run.statuses.items())),
                "checks": dict(sorted(run.checks.items())),
                "failures": run.failures,
            }
            for run in found.runs
        ],
        "left_out": dict(found.left_out),
        "walk": {
            "routes": found.walk.routes,
            "answers": {who: dict(counts) for who, counts in found.walk.answers.items()},
            "faults": found.walk.faults,
        },
        "bad_inputs": [
            {
                "family": r.family,
                "name": r.name,
                "status": r.status,
                "seconds": round(r.seconds, 4),
                "fault": r.fault,
            }
            for r in found.refusals.answers
        ],
        "connections": found.refusals.connections,
    }


def write(found: Findings) -> None:
    """Write docs/conformance.md and the figures behind it."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document(found), indent=1) + "\n")
    PAGE.write_text("\n".join(_page(found)) + "\n")


def _page(found: Findings) -> Iterator[str]:
    yield "# Conformance"
    yield ""
    yield (
        "Whether the API keeps its own description and refuses what it has to "
        f"({found.measured[:10]}, {os.cpu_count()} CPUs, SQLite). This page is written by "
        "`python -m tests.conformance --report`; the figures behind it are in "
        "[`conformance.json`](../tests/conformance/results/conformance.json)."
    )
    yield ""
    yield from _generated(found)
    yield ""
    yield from _walk(found.walk)
    yield ""
    yield from _inputs(found.refusals)
    if faults := found.faults():
        yield ""
        yield "## What is wrong"
        yield ""
        for fault in faults:
            yield f"- {fault}"


def _generated(found: Findings) -> Iterator[str]:
    runs = found.runs
    cases = sum(run.cases.total() for run in runs)
    errors = sum(run.statuses["5xx"] for run in runs)
    failures = sum(len(run.failures) for run in runs)
    yield "## As the OpenAPI document says"
    yield ""
    yield (
        f"**{cases:,} cases, {errors} server errors, {failures} failed checks.** "
        f"[schemathesis](https://schemathesis.io) {version('schemathesis')} calls every operation "
        "of the [document](openapi.json) with data that fits it and data that doesn't, on a "
        "server with the sweeps of two projects, and holds each answer against what is declared."
    )
    yield ""
    phases = ("examples", "coverage", "fuzzing", "stateful")
    rows = [
        [
            run.token,
            f"{run.operations}",
            *(f"{run.cases[phase]:,}" for phase in phases),
            *(f"{run.statuses[status]:,}" for status in ("2xx", "3xx", "4xx", "5xx")),
            f"{len(run.failures)}",
        ]
        for run in runs
    ]
    header = ["token", "operations", *phases, "2xx", "3xx", "4xx", "5xx", "failed"]
    yield from _table(header, rows)
    yield ""
    names = sorted({name for run in runs for name in run.checks})
    made = (f"`{name}` {sum(run.checks[name] for run in runs):,}" for name in names)
    yield f"Checks made: {', '.join(made)}."
    for name, why in found.left_out.items():
        yield f"Left out: `{name}` ({why})."
    yield (
        "Cut: the phase `coverage` makes more than 20,000 bodies for the three operations that "
        "take a whole sweep or its space. `create_sweep` gets all of them with the admin's token, "
        "`validate_sweep` and `narrow_sweep`, which parse with the same code, those that fit; the "
        "other tokens, which are refused before the body is read or as the admin's is, none. All "
        "other phases have all three."
    )


def _walk(walk: Walk) -> Iterator[str]:
    yield "## Who is let in"
    yield ""
    yield (
        f"**{walk.visits:,} visits, {len(walk.faults)} answered otherwise than they should.** "
        f"Each of {walk.routes} routes (all but the public ones), with addresses of things that "
        "are there, asked by everyone who must not. What is another project's is answered word "
        "for word as what doesn't exist; where a body has to be sent, it may be asked for first "
        "(415). Projects and their quotas are for tokens of no project (403). The last row reads "
        "all lists of its own project, in which nothing may tell of another."
    )
    yield ""
    rows = [[who, f"{counts.total():,}", _counted(counts)] for who, counts in walk.answers.items()]
    yield from _table(["who asks", "visits", "answers"], rows, left=(0, 2))


def _inputs(refusals: Refusals) -> Iterator[str]:
    answers = refusals.answers
    faults = [r for r in answers if r.fault is not None]
    slowest = max(answers, key=lambda r: r.seconds, default=None)
    yield "## Bad inputs"
    yield ""
    yield (
        f"**{len(answers)} bad inputs, {len(faults)} answered otherwise than they should.** Each "
        "is to be refused with a 4xx, as a problem (RFC 9457) of less than 64 kB that names the "
        "field, in less than a second, before any file is opened; nothing of it is kept."
    )
    if slowest is not None:
        yield f"The slowest answer took {slowest.seconds:.2f} s ({slowest.name})."
    yield ""
    families = list(dict.fromkeys(r.family for r in answers))
    rows = [_row(f, [r for r in answers if r.family == f]) for f in families]
    header = ["kind", "inputs", "answers", "slowest, s", "which"]
    yield from _table(header, rows, left=(0, 2, 4))
    yield ""
    yield "Among them:"
    yield ""
    yield from _table(header, [_row(n, refusals.named(n)) for n in NAMED], left=(0, 2, 4))
    yield ""
    yield (
        "Bytes that are no request are answered by the HTTP server itself, with a 400 in plain "
        "text. What shows only when a connection or a file is opened has tests of its own:"
    )
    yield ""
    for what, passed in refusals.connections.items():
        yield f"- {what}: {'refused' if passed else '**not refused**'}"


def _row(name: str, answers: Sequence[Refusal]) -> list[str]:
    slowest = max(answers, key=lambda r: r.seconds)
    statuses = Counter(r.status for r in answers)
    return [name, f"{len(answers)}", _counted(statuses), f"{slowest.seconds:.2f}", slowest.name]


def _counted(counts: Counter[int]) -> str:
    """`404 × 12, 422 × 3`."""
    return ", ".join(f"{status or 'closed'} × {n:,}" for status, n in sorted(counts.items()))


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)
) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join('---' if i in left else '---:' for i in range(len(header)))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
