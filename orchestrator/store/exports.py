"""A sweep's tables row by row, for export: in batches, however long they are.

Each batch is a query of its own that goes on after the last row of the one before. So nobody holds
a transaction open for as long as a slow reader takes; rows that are written meanwhile may be among
those that come.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Integer,
    select,
)

from orchestrator.store import sweeps as sweep_rows
from orchestrator.store.clock import UtcTime
from orchestrator.store.database import Database, ReadSession
from orchestrator.store.metrics import STEP
from orchestrator.store.schema import decisions, evaluations, events, metrics, trials

What = Literal["trials", "metrics", "evaluations", "decisions", "events"]
Kind = Literal["text", "int", "float", "bool", "time", "json"]

BATCH = 20_000
"""Rows."""
_TRIAL_BATCH = 1_000

_TRIALS = [
    "id",
    "number",
    "kind",
    "state",
    "reason",
    "message",
    "attempt",
    "step",
    "total_steps",
    "samples",
    "total_samples",
    "loss",
    "grad_norm",
    "eval_loss",
    "exact_match",
    "value",
    "also",
    "seconds",
    "checkpoint",
    "pinned",
    "parent",
    "reused_from",
    "created_at",
    "started_at",
    "ended_at",
]
_EVALUATIONS = [
    "attempt",
    "step",
    "split",
    "dataset",
    "samples",
    "loss",
    "tokens",
    "exact_match",
    "generated",
    "seconds",
    "scores",
]
_DECISIONS = [
    "id",
    "trial_id",
    "action",
    "rule",
    "reason",
    "code",
    "samples",
    "evidence",
    "acted",
    "created_at",
]
_METRICS = ("attempt", *STEP)
_STEP = 2 + _METRICS.index("step")
_EVENTS = ["id", "trial_id", "type", "data", "created_at"]


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` are names and kinds; `batches` lists of rows, each a sequence in their order."""

    columns: dict[str, Kind]
    batches: Iterator[list[Any]]


class Exports:
    """Part of `Store`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def table(self, sweep_id: str, what: What) -> Table:
        """A table of a sweep, in the order of trials or of time. Superseded points are left out.
        Raises NotFound at once; batches are read as they are asked for."""
        with self._db.read() as session:
            sweep_rows.row_of(session, sweep_id)
        match what:
            case "trials":
                return self._trials(sweep_id)
            case "metrics":
                return self._metrics(sweep_id)
            case "evaluations":
                chosen = [evaluations.c[n] for n in _EVALUATIONS]
                query = select(*chosen).where(~evaluations.c.superseded)
                keys = (evaluations.c.step, evaluations.c.split, evaluations.c.dataset)
                return self._of_trials(sweep_id, query, chosen, keys)
            case "decisions":
                chosen = [decisions.c[n] for n in _DECISIONS]
                query = select(*chosen).where(decisions.c.sweep_id == sweep_id)
                return Table(_kinds(chosen), self._by_id(query, decisions.c.id))
            case "events":
                chosen = [events.c[n] for n in _EVENTS]
                query = select(*chosen).where(events.c.sweep_id == sweep_id)
                return Table(_kinds(chosen), self._by_id(query, events.c.id))

    def _trials(self, sweep_id: str) -> Table:
        """Trials, with a column `params.NAME` for each parameter that any of them has."""
        chosen = [trials.c[n] for n in _TRIALS]
        of_sweep = trials.c.sweep_id == sweep_id
        found: dict[str, Kind | None] = {}
        names = select(trials.c.number, trials.c.params).where(of_sweep)
        for batch in self._by_id(names, trials.c.number, _TRIAL_BATCH):
            for _, params in batch:
                for name, value in params.items():
                    found[name] = _widest(found.get(name), value)
        kinds: dict[str, Kind] = {name: kind or "text" for name, kind in found.items()}

        def batches() -> Iterator[list[Any]]:
            query = select(trials.c.number, trials.c.params, *chosen).where(of_sweep)
            for batch in self._by_id(query, trials.c.number, _TRIAL_BATCH):
                yield [
                    (*row[2:], *(_cell(row[1].get(n), k) for n, k in kinds.items()))
                    for row in batch
                ]

        columns = _kinds(chosen)
        columns |= {f"params.{name}": kind for name, kind in kinds.items()}
        return Table(columns, batches())

    def _metrics(self, sweep_id: str) -> Table:
        """Steps of all trials, by trial number and step: plain numbers, as the database's driver
        gives them."""

        def read(session: ReadSession, waiting: deque[Any], after: int) -> tuple[list[Any], int]:
            """A batch, and the step after which the first trial that still waits goes on."""
            mark, rows = session.placeholder, []
            query = (
                f"SELECT trial_id, CAST({mark} AS INTEGER), {', '.join(_METRICS)} FROM metrics "
                f"WHERE trial_id = {mark} AND step > {mark} AND NOT superseded "
                f"ORDER BY step LIMIT {mark}"
            )
            with session.cursor() as cursor:
                while waiting and len(rows) < BATCH:
                    room = BATCH - len(rows)
                    cursor.execute(query, (*waiting[0], after, room))
                    found = cursor.fetchall()
                    rows += found
                    if len(found) == room:
                        return rows, found[-1][_STEP]
                    waiting.popleft()
                    after = 0
            return rows, after

        def batches() -> Iterator[list[Any]]:
            of_sweep = select(trials.c.number, trials.c.id).where(trials.c.sweep_id == sweep_id)
            for some in self._by_id(of_sweep, trials.c.number, _TRIAL_BATCH):
                waiting, after = deque(some), 0
                while waiting:
                    with self._db.read() as session:
                        rows, after = read(session, waiting, after)
                    if rows:
                        yield rows

        chosen = [metrics.c[n] for n in _METRICS]
        return Table({"trial_id": "text", "number": "int", **_kinds(chosen)}, batches())

    def _of_trials(
        self,
        sweep_id: str,
        query: Any,
        chosen: Sequence[Column[Any]],
        keys: tuple[Column[Any], ...],
    ) -> Table:
        """Points of all trials, by trial number and `keys`, the first of which is the step."""
        table = keys[0].table
        ordered = query.order_by(*keys)

        def read(session: ReadSession, trial_id: str, after: int) -> list[Any]:
            # Whole steps: a step may have several rows, and the next batch begins after it.
            some = ordered.where(table.c.trial_id == trial_id, keys[0] > after)
            rows: list[Any] = list(session.rows(some.limit(BATCH)))
            if len(rows) < BATCH:
                return rows
            last = rows[-1][1]
            rest = query.where(table.c.trial_id == trial_id, keys[0] == last).order_by(*keys)
            return [row for row in rows if row[1] != last] + list(session.rows(rest))

        def batches() -> Iterator[list[Any]]:
            waiting: list[Any] = []
            of_sweep = select(trials.c.number, trials.c.id).where(trials.c.sweep_id == sweep_id)
            for some in self._by_id(of_sweep, trials.c.number, _TRIAL_BATCH):
                for number, trial_id in some:
                    after = -1
                    while True:
                        with self._db.read() as session:
                            rows = read(session, trial_id, after)
                        waiting += [(trial_id, number, *row) for row in rows]
                        if len(waiting) >= BATCH:
                            yield waiting
                            waiting = []
                        if len(rows) < BATCH:
                            break
                        after = rows[-1][1]
            if waiting:
                yield waiting

        columns: dict[str, Kind] = {"trial_id": "text", "number": "int"}
        columns.update(_kinds(chosen))
        return Table(columns, batches())

    def _by_id(self, query: Any, key: Column[Any], size: int = BATCH) -> Iterator[list[Any]]:
        """Rows by a column of whole numbers that comes first in them."""
        after = -1
        while True:
            with self._db.read() as session:
                rows: list[Any] = list(
                    session.rows(query.where(key > after).order_by(key).limit(size))
                )
            if rows:
                yield rows
            if len(rows) < size:
                return
            after = rows[-1][0]


def _kinds(columns: Sequence[Column[Any]]) -> dict[str, Kind]:
    return {column.name: _kind(column) for column in columns}


def _kind(column: Column[Any]) -> Kind:
    kinds: list[tuple[Any, Kind]] = [
        (JSON, "json"),
        (UtcTime, "time"),
        (Boolean, "bool"),
        ((Integer, BigInteger), "int"),
        (Double, "float"),
    ]
    for types, kind in kinds:
        if isinstance(column.type, types):
            return kind
    return "text"


def _widest(kind: Kind | None, value: Any) -> Kind | None:
    """The kind that holds what was seen, and `value` too."""
    if value is None:
        return kind
    this: Kind = "text"
    if isinstance(value, bool):
        this = "bool"
    elif isinstance(value, int) and abs(value) < 2**63:
        this = "int"
    elif isinstance(value, int | float):
        this = "float"
    if kind is None or kind == this:
        return this
    return "float" if {kind, this} == {"int", "float"} else "text"


def _cell(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if kind == "float":
        return float(value)
    if kind == "text" and not isinstance(value, str):
        return json.dumps(value)
    return value
