"""What schemathesis found, counted from its events, and the page that tells of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "conformance.md"
RESULTS = Path(__file__).parent / "results" / "conformance.json"


@dataclass
class Run:
    """One token's run. `cases` by phase, `statuses` by class of status (2xx, 4xx, …), `checks` by
    name; a failure is one operation that fails one check, however many cases show it."""

    token: str
    seconds: float
    operations: int = 0
    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        seen = ", ".join(f"{n:,} × {status}" for status, n in sorted(self.statuses.items()))
        return (
            f"{self.token}: {self.operations} operations, {self.cases.total():,} cases ({seen}), "
            f"{len(self.failures)} failures, {self.seconds:.0f} s"
        )


def read(token: str, events: Path, output: str, code: int, seconds: float) -> Run:
    """Count the events of one run. One that broke off, or made no case, is a failure itself."""
    run = Run(token, seconds)
    failures: dict[str, str] = {}
    with events.open() as lines:
        for line in lines:
            ((kind, event),) = json.loads(line).items()
            if kind == "LoadingFinished":
                run.operations = event["statistic"]["operations"]["selected"]
            elif kind == "ScenarioFinished":
                _scenario(run, event, failures)
            elif kind in ("NonFatalError", "FatalError"):
                what = event.get("value") or event.get("exception") or {}
                where = f"{event.get('label', '')} ({event.get('phase', '')})"
                failures[f"{where} {what.get('type')}"] = str(what.get("message"))
    run.failures = [f"{where}: {what}" for where, what in sorted(failures.items())]
    if code not in (0, 1) or not run.cases:
        run.failures.append(f"schemathesis ended with {code}: {output[-1000:]}")
    elif code == 1 and not run.failures:
        run.failures.append(f"schemathesis reports a failure: {output[-1000:]}")
    return run


def _scenario(run: Run, event: Mapping[str, object], failures: dict[str, str]) -> None:
    recorder = event["recorder"]
    assert isinstance(recorder, dict)
    run.cases[str(event["phase"])] += len(recorder.get("cases", ()))
    for interaction in recorder.get("interactions", {}).values():
        answer = interaction.get("response")
        run.statuses[f"{answer['status_code'] // 100}xx" if answer else "no answer"] += 1
    for checks in recorder.get("checks", {}).values():
        for check in checks:
            run.checks[check["name"]] += 1
            if check["status"] == "failure":
                failure = check["failure_info"]["failure"]
                said = " ".join(str(failure["message"]).split())
                failures[f"{failure['operation']} {check['name']}"] = said


def document(runs: Sequence[Run], left_out: Mapping[str, str]) -> dict[str, Any]:
    """The figures, for programs."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "schemathesis": version("schemathesis"),
        "cases": sum(run.cases.total() for run in runs),
        "failures": sum(len(run.failures) for run in runs),
        "server_errors": sum(run.statuses["5xx"] for run in runs),
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
            for run in runs
        ],
        "left_out": dict(left_out),
    }


def write(runs: Sequence[Run], left_out: Mapping[str, str]) -> None:
    """Write docs/conformance.md and the figures behind it."""
    figures = document(runs, left_out)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(_page(runs, left_out, figures["measured"]))


def _page(runs: Sequence[Run], left_out: Mapping[str, str], when: str) -> str:
    phases = sorted({phase for run in runs for phase in run.cases})
    checks = sorted({name for run in runs for name in run.checks})
    cases = sum(run.cases.total() for run in runs)
    lines = [
        "# Conformance",
        "",
        "<!-- Written by `python -m tests.conformance --report`. -->",
        "",
        f"[schemathesis](https://schemathesis.io) {version('schemathesis')} called every operation "
        f"of the [OpenAPI document](openapi.json) on {when[:10]}, with data that fits the document "
        "and data that doesn't, on a server with two projects' sweeps in its database: "
        f"**{cases:,} cases, {sum(run.statuses['5xx'] for run in runs)} server errors, "
        f"{sum(len(run.failures) for run in runs)} failed checks**.",
        "",
        f"| token | operations | {' | '.join(phases)} | 2xx | 4xx | 5xx | failed | seconds |",
        f"|---|---:|{'---:|' * len(phases)}---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        by_phase = " | ".join(f"{run.cases[phase]:,}" for phase in phases)
        by_status = " | ".join(f"{run.statuses[s]:,}" for s in ("2xx", "4xx", "5xx"))
        lines.append(
            f"| {run.token} | {run.operations} | {by_phase} | {by_status} | {len(run.failures)} "
            f"| {run.seconds:.0f} |"
        )
    lines += ["", "Checks made, in all:", ""]
    lines += [f"- `{name}`: {sum(run.checks[name] for run in runs):,}" for name in checks]
    lines += ["", "Checks left out:", ""]
    lines += [f"- `{name}`: {why}." for name, why in left_out.items()]
    if any(run.failures for run in runs):
        lines += ["", "## Failed checks", ""]
        lines += [f"- {run.token}: {failure}" for run in runs for failure in run.failures]
    return "\n".join(lines) + "\n"
