"""A database as a year's work leaves it: one sweep of many trials, and small ones beside it.

Rows go in below the store, in bulk: this makes what is measured, and is not itself measured.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from sqlalchemy.engine import make_url

from orchestrator.store import Store, migrate, pieces
from winnow.spec import SweepSpec

BATCH_SAMPLES = 16
SMALL_SWEEPS = 40
"""Further sweeps, so that a list has something to list."""
SMALL_TRIALS = 20


@dataclass(frozen=True)
class Filled:
    """What lies in a database: the id of its large sweep, whose trials are `ID-0`, `ID-1`, …"""

    url: str
    sweep_id: str
    trials: int
    steps: int

    @property
    def points(self) -> int:
        return self.trials * self.steps


def fill(url: str, trials: int, steps: int, seed: int = 0) -> Filled:
    """Migrate an empty database and fill it. Takes a minute or two for 10⁷ points."""
    migrate(url)
    store = Store(url)
    try:
        for number in range(SMALL_SWEEPS):
            small = store.create_sweep(spec(f"small {number}", SMALL_TRIALS), SMALL_TRIALS, "small")
            _write(url, small.id, SMALL_TRIALS, 10, seed + 1 + number)
        sweep = store.create_sweep(spec("large", trials), trials, "large")
    finally:
        store.close()
    _write(url, sweep.id, trials, steps, seed)
    _analyse(url)
    return Filled(url, sweep.id, trials, steps)


def spec(name: str, trials: int) -> dict[str, Any]:
    """A sweep over rate, batch size, warmup and schedule, as the API would store it."""
    return SweepSpec.model_validate(
        {
            "name": name,
            "model": "/models/tiny",
            "data": {
                "train": [{"path": "/data/train.jsonl"}],
                "eval": [{"path": "/data/eval.jsonl", "name": "held-out"}],
            },
            "space": {
                "learning_rate": {"log_uniform": [1e-6, 1e-3]},
                "effective_batch_size": {"choice": [16, 32, 64, 128]},
                "warmup_steps": {"choice": [0, 25, 100]},
                "schedule": {"choice": ["constant", "linear", "cosine"]},
            },
            "search": {"sampler": "random", "trials": trials},
        }
    ).model_dump(mode="json")


def _write(url: str, sweep_id: str, trials: int, steps: int, seed: int) -> None:
    made = _Made(sweep_id, trials, steps, seed)
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(parsed.database))) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -200000")
            for table, columns, rows in made.tables():
                marks = ", ".join("?" * len(columns))
                names = ", ".join(columns)
                connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
            connection.execute(*made.ended("?"))
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return
    with psycopg.connect(url) as connection:
        connection.execute("SET synchronous_commit = off")
        for table, columns, rows in made.tables():
            statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
            blobs = table == "curve_pieces"
            if blobs:
                statement += " (FORMAT BINARY)"
            with connection.cursor().copy(statement) as copy:  # type: ignore[arg-type]
                if blobs:
                    copy.set_types(["varchar", "int4", "int4", "bytea", "bytea"])
                for row in rows:
                    copy.write_row(row)
        connection.execute(*made.ended("%s"))  # type: ignore[arg-type]


def _analyse(url: str) -> None:
    """What a database does by itself in the hours in which such a sweep grows."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(parsed.database))) as connection:
            connection.execute("ANALYZE")
            connection.commit()
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


class _Made:
    """Rows of a sweep's trials. A trial's place in the space sets its loss; a third were stopped,
    by a rule, at a part of their steps' number, but have all their points so that sizes are round.
    """

    def __init__(self, sweep_id: str, trials: int, steps: int, seed: int) -> None:
        self._sweep_id, self._steps = sweep_id, steps
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._numbers = list(range(trials))
        self._rates = 10 ** self._random.uniform(-6, -3, trials)
        self._batches = self._random.choice([16, 32, 64, 128], trials)
        self._warmups = self._random.choice([0, 25, 100], trials)
        self._schedules = self._random.choice(["constant", "linear", "cosine"], trials)
        off = np.log10(self._rates / 5e-5)
        self._ends = (
            1.2
            + 0.25 * off**2
            + 0.05 * np.log2(self._batches / 32)
            + self._random.normal(0, 0.05, trials)
        )
        # In the order of their keys, so that the table is written from its start to its end.
        self._by_id = sorted(self._numbers, key=lambda n: f"{sweep_id}-{n}")

    def tables(self) -> Iterator[tuple[str, Sequence[str], Iterator[tuple[Any, ...]]]]:
        yield "trials", _TRIAL, self._trials()
        yield "attempts", _ATTEMPT, self._attempts()
        yield "metrics", _METRIC, self._points()
        yield "curve_pieces", pieces.FIELDS, self._pieces()
        yield "evaluations", _EVALUATION, self._evaluations()

    def ended(self, mark: str) -> tuple[str, tuple[Any, ...]]:
        statement = (
            f"UPDATE sweeps SET state = 'COMPLETED', revision = {mark}, "
            f"started_at = created_at, ended_at = created_at WHERE id = {mark}"
        )
        return statement, (len(self._numbers) + 1, self._sweep_id)

    def _id(self, number: int) -> str:
        return f"{self._sweep_id}-{number}"

    def _trials(self) -> Iterator[tuple[Any, ...]]:
        samples = self._steps * BATCH_SAMPLES
        for n in self._numbers:
            params = {
                "learning_rate": float(self._rates[n]),
                "effective_batch_size": int(self._batches[n]),
                "warmup_steps": int(self._warmups[n]),
                "schedule": str(self._schedules[n]),
            }
            stopped = n % 3 == 0
            end = float(self._ends[n])
            yield (
                self._id(n), self._sweep_id, n, "search",
                "PRUNED" if stopped else "COMPLETED",
                "dynamics" if stopped else None,
                "17 of 24 trials were better at 3,200 samples." if stopped else None,
                json.dumps(params), json.dumps(params | {"model": "/models/tiny"}), n + 1,
                1, self._steps, self._steps, samples, samples, end, 1.0, end + 0.1, 0.5,
                None if stopped else end + 0.1, 60.0, f"/exports/{n}", False, _TIME, _TIME, _TIME,
            )  # fmt: skip

    def _attempts(self) -> Iterator[tuple[Any, ...]]:
        for n in self._by_id:
            yield (self._id(n), 1, f"{self._id(n)}-a1", 1, "COMPLETED", 1, _TIME, _TIME)

    def _curve(self, n: int) -> dict[str, np.ndarray]:
        """What a driver stores of each step, but for what is the same in all."""
        random = np.random.default_rng((self._seed, n))
        size = self._steps
        step = np.arange(1, size + 1)
        noise = random.normal(0, 0.05, size)
        return {
            "step": step,
            "samples": step * BATCH_SAMPLES,
            "tokens": step * 1000,
            "loss": self._ends[n] + 2 * np.exp(-4 * step / size) + noise,
            "grad_norm": np.exp(random.normal(0, 0.4, size)),
            "learning_rate": self._rates[n] * (1 - step / size),
            "seconds": np.full(size, 0.06),
        }

    def _points(self) -> Iterator[tuple[Any, ...]]:
        size = self._steps
        zeros, batch, memory = [0] * size, [BATCH_SAMPLES] * size, [7 * 10**9] * size
        for n in self._by_id:
            columns = [column.tolist() for column in self._curve(n).values()]
            yield from zip(
                [self._id(n)] * size, [1] * size, *columns, memory, batch, [1000] * size,
                zeros, zeros, [False] * size, strict=True,
            )  # fmt: skip

    def _pieces(self) -> Iterator[tuple[Any, ...]]:
        """As a trial that has ended leaves them."""
        for n in self._by_id:
            yield from pieces.encoded(self._id(n), self._curve(n))

    def _evaluations(self) -> Iterator[tuple[Any, ...]]:
        for n in self._by_id:
            for part in (4, 2, 1):
                step = self._steps // part
                end = float(self._ends[n]) + 0.1 * part
                yield (
                    self._id(n), 1, step, "eval", "held-out", step * BATCH_SAMPLES, end,
                    10_000, 0.5, 10, 1.0, "{}", False,
                )  # fmt: skip


_TIME = "2026-06-01 12:00:00.000000"
_TRIAL = (
    "id", "sweep_id", "number", "kind", "state", "reason", "message", "params", "config", "version",
    "attempt", "step", "total_steps", "samples", "total_samples", "loss", "grad_norm", "eval_loss",
    "exact_match", "value", "seconds", "checkpoint", "pinned", "created_at", "started_at",
    "ended_at",
)  # fmt: skip
_ATTEMPT = (
    "trial_id", "attempt", "id", "epoch", "state", "first_step", "started_at", "ended_at",
)  # fmt: skip
_METRIC = (
    "trial_id", "attempt", "step", "samples", "tokens", "loss", "grad_norm", "learning_rate",
    "seconds", "memory", "batch_samples", "input_tokens", "padding", "data_wait", "superseded",
)  # fmt: skip
_EVALUATION = (
    "trial_id", "attempt", "step", "split", "dataset", "samples", "loss", "tokens", "exact_match",
    "generated", "seconds", "scores", "superseded",
)  # fmt: skip


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'winnow.db'}"
