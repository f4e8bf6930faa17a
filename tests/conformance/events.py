"""What schemathesis found, counted from the events that it writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


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
