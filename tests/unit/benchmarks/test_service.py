"""The benchmark of the service: a part that fails is named, and the others' figures are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import service
from benchmarks.performance import page
from benchmarks.service import QUICK, Parts

ANSWER = {"p50_s": 0.05, "p99_s": 0.1, "bytes_max": 250_000, "times": 20}
READ = ("list", "sweep", "trials", "curves", "page", "best_page", "importance")


def told(missed: int) -> dict[str, Any]:
    return {"listen": {"p50_s": 0.2, "p99_s": 0.4, "missed": missed}}


def test_figures_outlive_a_part_that_fails(tmp_path: Path):
    out = tmp_path / "service.json"
    parts = Parts(QUICK, ["sqlite", "postgresql"], out, Console(quiet=True))
    small, large = parts.ours["sqlite"], parts.ours["postgresql"]
    parts.take("sqlite reading", small, lambda: dict.fromkeys(READ, ANSWER))
    parts.take("sqlite writing", small, lambda: {"ingest": {"points_per_s": 14_999}})
    parts.take("sqlite listening", small, lambda: told(missed=1))
    parts.take("postgresql listening", large, lambda: told(missed=0))
    assert not parts.take("postgresql reading", large, lambda: {"page": 1 / 0})
    peer = parts.peer.setdefault("optuna_dashboard", {})
    optuna = {"name": "optuna-dashboard 1", "trials": 3, "points": 9, "importance_s": 2.0}
    parts.take("optuna_dashboard", peer, lambda: optuna | {"page": ANSWER | {"p50_s": 5.0}})

    result = json.loads(out.read_text("utf-8"))
    assert result["failed"] == {"postgresql reading": "ZeroDivisionError: division by zero"}
    assert result["ratio"]["page_time_optuna_dashboard"] == 100
    reached = {
        (kind, name): goal["reached"]
        for kind, goals in result["reached"].items()
        for name, goal in goals.items()
    }
    assert {at for at, good in reached.items() if good} == {
        ("sqlite", "page_p99_s"),
        ("sqlite", "page_bytes"),
        ("postgresql", "event_p99_s"),
    }, "14,999 is not 15,000, one client missed an event, the rest wasn't measured"

    text = page({"service": result})
    assert "50 ms, 100 ms, 250 kB" in text
    assert "not measured" in text
    assert "optuna-dashboard 1 with 3 trials" in text
    assert "SQLite: points_per_s" in text
    console = Console(width=200, record=True, quiet=True)
    service._show(result, console)
