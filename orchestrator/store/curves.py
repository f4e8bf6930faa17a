"""Learning curves as columns of numbers, read in bulk below SQLAlchemy and kept while they hold.

A page asks for the curves of many trials at once: a hundred thousand numbers that nobody looks at
one by one. They go from the database's cursor into arrays, and from these into the answer. Arrays
of trials that were asked for lately are kept. A trial's `version` rises with every transaction that
writes of it, and its `rewound` with those after which a point counts no more; both are read in the
same snapshot as the points, so what is kept is what is stored or its beginning, and is never stale.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from orchestrator.errors import NotFound
from orchestrator.store import sweeps
from orchestrator.store.database import Database, ReadSession
from orchestrator.store.metrics import evaluation_rows
from orchestrator.store.schema import trials
from orchestrator.store.thinning import chosen

Axis = Literal["steps", "samples", "tokens", "time"]
Main = Literal["loss", "grad_norm", "learning_rate"]
Detail = Literal[
    "seconds",
    "memory",
    "input_tokens",
    "padding",
    "data_wait",
    "mfu",
    "grad_sq",
    "noise",
    "tokens_per_second",
]
MAIN: tuple[str, ...] = get_args(Main)
DETAILS: tuple[str, ...] = get_args(Detail)
EXTREMES = ("loss", "grad_norm")
"""Columns whose extremes stay, where they are asked for; else those of the first that is."""

CACHED_BYTES = 128 * 2**20
_BASE = ("step", "samples", *EXTREMES)
_WHOLE = frozenset({"step", "samples", "tokens", "memory", "input_tokens"})
_STORED_FOR = {"tokens_per_second": ("input_tokens", "seconds")}
_AXIS = {"steps": "step", "samples": "samples", "tokens": "tokens", "time": "seconds"}

Column = NDArray[np.float64] | NDArray[np.int64]
Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which points of a curve, and what of them.

    `columns` are of MAIN and DETAILS. Filters come first: `after_step`, one for all or by trial id
    (a trial that the mapping lacks gives all), then `low` ≤ x ≤ `high` on the axis. What is left is
    thinned out to `max_points`. `axis` None leaves `x` out; `time` is seconds of training.
    """

    columns: Sequence[str] = MAIN
    max_points: int = 500
    after_step: int | Mapping[str, int] | None = None
    axis: Axis | None = None
    low: float | None = None
    high: float | None = None

    def after(self, trial_id: str) -> int | None:
        if isinstance(self.after_step, Mapping):
            return self.after_step.get(trial_id)
        return self.after_step

    def stored(self) -> tuple[str, ...]:
        """Columns of the table that this needs, without doubles."""
        asked = [n for name in self.columns for n in _STORED_FOR.get(name, (name,))]
        return tuple(dict.fromkeys((*_BASE, *asked, _AXIS[self.axis or "steps"])))


@dataclass(frozen=True, slots=True)
class Points:
    """A curve: `columns` of equal length by name, `step` and `samples` first. NaN: not finite."""

    trial_id: str
    total: int
    """Points that passed the filter."""
    columns: dict[str, Column]
    x: Column | None

    def asdict(self) -> dict[str, Any]:
        """Fields of `winnow.types.Curve`, as lists. A number that was not finite is None."""
        return self.fields(lambda column: [None if v != v else v for v in column.tolist()])

    def fields(self, shown: Callable[[Column], Any]) -> dict[str, Any]:
        """Fields of `winnow.types.Curve`, each column as `shown` gives it."""
        top = {n: shown(c) for n, c in self.columns.items() if n not in DETAILS}
        details = {n: shown(c) for n, c in self.columns.items() if n in DETAILS}
        return {
            "trial_id": self.trial_id,
            **top,
            "total_points": self.total,
            "details": details or None,
            "x": None if self.x is None else shown(self.x),
        }


@dataclass(frozen=True, slots=True)
class CurvesPage:
    """Curves, and evaluations as mappings with the fields of `winnow.types.EvaluationPoint`, by
    trial number. `next`: the last trial's number, if there are more."""

    curves: list[Points]
    evaluations: list[dict[str, Any]]
    next: int | None


@dataclass(slots=True)
class _Kept:
    version: int
    rewound: int
    columns: Columns = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(column.nbytes for column in self.columns.values())


@dataclass(frozen=True, slots=True)
class _Trial:
    id: str
    number: int
    version: int
    rewound: int
    step: int


class Curves:
    """Reads curves, from any number of threads."""

    def __init__(self, database: Database, cached_bytes: int = CACHED_BYTES) -> None:
        self._db = database
        self._limit = cached_bytes
        self._size = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def read(
        self,
        sweep_id: str,
        trial_ids: Sequence[str] | None,
        wanted: Wanted,
        *,
        limit: int | None = None,
        after: int = -1,
        evaluations: bool = True,
    ) -> CurvesPage:
        """Curves and evaluations by trial number, of the named trials or of all; trials without
        points to show are left out. At most of `limit` trials, with numbers above `after`.

        Raises NotFound for a sweep, and for a trial that isn't one of its.
        """
        with self._db.read() as session:
            of = _members(session, sweep_id, trial_ids, after, limit)
            more = limit is not None and len(of) > limit
            of = of[:limit]
            ids = [trial.id for trial in of]
            return CurvesPage(
                curves=list(self._read(session, of, wanted)),
                evaluations=evaluation_rows(session, ids) if evaluations else [],
                next=of[-1].number if more else None,
            )

    def _read(self, session: ReadSession, of: Sequence[_Trial], wanted: Wanted) -> Iterator[Points]:
        cursor = session.cursor()
        try:
            for trial in of:
                found = self._points(session, cursor, trial, wanted)
                if found is not None:
                    yield found
        finally:
            cursor.close()

    def _points(
        self, session: ReadSession, cursor: Any, trial: _Trial, wanted: Wanted
    ) -> Points | None:
        after = wanted.after(trial.id)
        if trial.step == 0 or (after is not None and after >= trial.step):
            return None
        columns = self._columns(session, cursor, trial, wanted)
        steps = columns["step"]
        x = columns[_AXIS[wanted.axis or "steps"]]
        if wanted.axis == "time":
            x = np.cumsum(x)
        keep = np.ones(len(steps), dtype=bool)
        if after is not None:
            keep &= steps > after
        if wanted.low is not None:
            keep &= x >= wanted.low
        if wanted.high is not None:
            keep &= x <= wanted.high
        passed = np.flatnonzero(keep)
        if not len(passed):
            return None
        asked = [n for n in EXTREMES if n in wanted.columns] or [*wanted.columns[:1]]
        extremes = [_made(name, columns)[passed] for name in asked]
        at = passed[chosen(steps[passed], extremes, wanted.max_points)]
        names = dict.fromkeys(("step", "samples", *wanted.columns))
        return Points(
            trial_id=trial.id,
            total=len(passed),
            columns={name: _typed(name, _made(name, columns)[at]) for name in names},
            x=None if wanted.axis is None else _typed(_axis_name(wanted.axis), x[at]),
        )

    def _columns(self, session: ReadSession, cursor: Any, trial: _Trial, wanted: Wanted) -> Columns:
        """The trial's stored columns: whole, or, if only new points are asked for and nothing is
        kept, those."""
        names = wanted.stored()
        with self._lock:
            kept = self._kept.get(trial.id)
            known: Columns = {}
            version = rewound = -1
            if kept is not None:
                self._kept.move_to_end(trial.id)
                known = dict(kept.columns)
                version, rewound = kept.version, kept.rewound
        if kept is not None and rewound == trial.rewound and known.keys() >= set(names):
            if version == trial.version:
                return known
            if version < trial.version:
                last = known["step"][-1] if len(known["step"]) else 0
                more = _fetch(session, cursor, trial.id, tuple(known), int(last))
                grown = {n: np.concatenate((known[n], more[n])) for n in known}
                self._keep(trial, grown)
                return grown
        after = wanted.after(trial.id)
        if after and wanted.axis != "time":
            return _fetch(session, cursor, trial.id, names, after)
        if kept is not None:
            names = tuple(dict.fromkeys((*names, *known)))
        found = _fetch(session, cursor, trial.id, names, 0)
        self._keep(trial, found)
        return found

    def _keep(self, trial: _Trial, columns: Columns) -> None:
        new = _Kept(trial.version, trial.rewound, columns)
        with self._lock:
            old = self._kept.pop(trial.id, None)
            if old is not None:
                if old.version > trial.version:  # a reader with a later snapshot was faster
                    self._kept[trial.id] = old
                    return
                self._size -= old.size
            self._kept[trial.id] = new
            self._size += new.size
            while self._size > self._limit and self._kept:
                _, oldest = self._kept.popitem(last=False)
                self._size -= oldest.size


def _members(
    session: ReadSession,
    sweep_id: str,
    trial_ids: Sequence[str] | None,
    after: int,
    limit: int | None,
) -> list[_Trial]:
    """The named trials of a sweep, or all, by number, one more than `limit`."""
    sweeps.project_of(session, sweep_id)
    query = (
        select(trials.c.id, trials.c.number, trials.c.version, trials.c.rewound, trials.c.step)
        .where(trials.c.sweep_id == sweep_id)
        .order_by(trials.c.number)
    )
    if trial_ids is not None:
        found = [_Trial(*row) for row in session.rows(query.where(trials.c.id.in_(trial_ids)))]
        for missing in sorted(set(trial_ids) - {trial.id for trial in found}):
            raise NotFound("trial", missing)
        found = [trial for trial in found if trial.number > after]
        return found if limit is None else found[: limit + 1]
    query = query.where(trials.c.number > after)
    if limit is not None:
        query = query.limit(limit + 1)
    return [_Trial(*row) for row in session.rows(query)]


def _fetch(
    session: ReadSession, cursor: Any, trial_id: str, names: Sequence[str], after: int
) -> Columns:
    """Columns of a trial's points that count, beyond a step. Names are ours, not a user's."""
    mark = session.placeholder
    cursor.execute(
        f"SELECT {', '.join(names)} FROM metrics "
        f"WHERE trial_id = {mark} AND step > {mark} AND NOT superseded ORDER BY step",
        (trial_id, after),
    )
    rows = cursor.fetchall()
    table = np.array(rows, dtype=np.float64) if rows else np.empty((0, len(names)))
    return {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)}


def _made(name: str, columns: Columns) -> NDArray[np.float64]:
    """A column, stored or made of stored ones."""
    if name != "tokens_per_second":
        return columns[name]
    seconds = columns["seconds"]
    return np.divide(
        columns["input_tokens"], seconds, out=np.full(len(seconds), np.nan), where=seconds > 0
    )


def _typed(name: str, column: NDArray[np.float64]) -> Column:
    return column.astype(np.int64) if name in _WHOLE else column


def _axis_name(axis: Axis) -> str:
    return "elapsed" if axis == "time" else _AXIS[axis]
