"""Learning curves as columns of numbers, read in bulk below SQLAlchemy and kept while they hold.

A page asks for the curves of many trials at once: a hundred thousand numbers that nobody looks at
one by one. They go from `pieces` into arrays, and from these into the answer: from the coarse views
alone, where no more of a curve is to be shown. Arrays of trials that were asked for lately are
kept. A trial's `version` rises with every transaction that writes of it, and its `rewound` with
those after which a point counts no more; both are read in the same snapshot as the points, so what
is kept is what is stored or its beginning, and is never stale.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from orchestrator.errors import NotFound
from orchestrator.store import pieces, sweeps
from orchestrator.store.database import Database, ReadSession
from orchestrator.store.metrics import evaluation_rows
from orchestrator.store.pieces import COARSE, COARSE_LEVEL, EXTREMES, WHOLE, Columns, Held
from orchestrator.store.schema import trials
from orchestrator.store.thinning import chosen, level, most_kept

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
CACHED_BYTES = 128 * 2**20
_TRIALS_AT_ONCE = 200
_BASE = ("step", "samples", *EXTREMES)
_WHOLE = frozenset({"step", "samples", "tokens", "memory", "input_tokens"})
_STORED_FOR = {"tokens_per_second": ("input_tokens", "seconds")}
_AXIS = {"steps": "step", "samples": "samples", "tokens": "tokens", "time": "seconds"}

Column = NDArray[np.float64] | NDArray[np.int64]


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

    def extremes(self) -> list[str]:
        """Columns whose extremes stay: of EXTREMES those asked for, else the first that is."""
        return [n for n in EXTREMES if n in self.columns] or [*self.columns[:1]]

    def coarse(self, last_step: int) -> bool:
        """Whether a coarse view is probably enough for a curve that ends there."""
        extremes = self.extremes()
        unfiltered = self.after_step is None and self.low is None and self.high is None
        return (
            unfiltered
            and set(self.stored()) <= set(COARSE)
            and set(extremes) <= set(EXTREMES)
            and self.enough(1, last_step)
        )

    def enough(self, first_step: int, last_step: int) -> bool:
        """Whether a coarse view has all points that are chosen of a curve with these ends."""
        kept = most_kept(len(self.extremes()))
        if self.max_points < kept:
            return True
        return level(first_step, last_step, self.max_points, kept) >= COARSE_LEVEL


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


@dataclass(frozen=True, slots=True)
class _Trial:
    id: str
    number: int
    version: int
    rewound: int
    step: int


@dataclass(frozen=True, slots=True)
class _Read:
    """Columns of a trial's points: all, or of a coarse view."""

    columns: Columns
    points: int
    """That they stand for."""

    @property
    def size(self) -> int:
        return sum(column.nbytes for column in self.columns.values())


@dataclass(frozen=True, slots=True)
class _Kept:
    version: int
    rewound: int
    read: _Read


class Curves:
    """Reads curves, from any number of threads."""

    def __init__(self, database: Database, cached_bytes: int = CACHED_BYTES) -> None:
        self._db = database
        self._limit = cached_bytes
        self._size = 0
        self._kept: OrderedDict[tuple[str, bool], _Kept] = OrderedDict()
        """By trial, and whether it is a coarse view."""
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
        asked = [t for t in of if t.step and (wanted.after(t.id) or 0) < t.step]
        for start in range(0, len(asked), _TRIALS_AT_ONCE):
            some = asked[start : start + _TRIALS_AT_ONCE]
            coarse = [trial for trial in some if wanted.coarse(trial.step)]
            found = self._columns(session, coarse, wanted, coarse=True)
            # Of a curve with gaps, or that begins late, more may be shown than its coarse view has.
            found = {id: read for id, read in found.items() if _suffices(read, wanted)}
            rest = [trial for trial in some if trial.id not in found]
            views = {trial.id: trial.id in found for trial in some}
            found |= self._columns(session, rest, wanted, coarse=False)
            for trial in some:
                points = _points(trial.id, found[trial.id], wanted, coarse=views[trial.id])
                if points is not None:
                    yield points

    def _columns(
        self, session: ReadSession, of: Sequence[_Trial], wanted: Wanted, *, coarse: bool
    ) -> dict[str, _Read]:
        """By trial its columns: whole, or the coarse view of them; or, if only new points are
        asked for and nothing is kept, those."""
        names = wanted.stored()
        in_pieces = set(names) <= set(WHOLE)
        found: dict[str, _Read] = {}
        missing: list[_Trial] = []
        with session.cursor() as cursor:
            for trial in of:
                kept = self._known(trial, names, coarse=coarse)
                after = wanted.after(trial.id)
                if kept is not None:
                    found[trial.id] = self._grown(session, cursor, trial, kept, coarse=coarse)
                elif after and wanted.axis != "time":
                    columns = pieces.rows(session, cursor, trial.id, names, after)
                    found[trial.id] = _Read(columns, len(columns["step"]))
                else:
                    missing.append(trial)
            held: dict[str, Held] = {}
            if missing and in_pieces:
                held = pieces.load(session, [trial.id for trial in missing], coarse=coarse)
            all_names = (COARSE if coarse else WHOLE) if in_pieces else (*WHOLE, *names)
            for trial in missing:
                read = _from(session, cursor, trial, held.get(trial.id), all_names)
                self._keep(trial, read, coarse=coarse)
                found[trial.id] = read
        return found

    def _known(self, trial: _Trial, names: Sequence[str], *, coarse: bool) -> _Kept | None:
        """What is kept of a trial, if it is what is stored or its beginning."""
        with self._lock:
            kept = self._kept.get((trial.id, coarse))
            if kept is None:
                return None
            self._kept.move_to_end((trial.id, coarse))
        good = kept.rewound == trial.rewound and kept.version <= trial.version
        return kept if good and kept.read.columns.keys() >= set(names) else None

    def _grown(
        self, session: ReadSession, cursor: Any, trial: _Trial, kept: _Kept, *, coarse: bool
    ) -> _Read:
        """What is kept, with the points that are new since."""
        if kept.version == trial.version:
            return kept.read
        known = kept.read.columns
        last = int(known["step"][-1]) if len(known["step"]) else 0
        read = kept.read
        if last < trial.step:
            more = pieces.rows(session, cursor, trial.id, tuple(known), last)
            read = _Read(pieces.joined(known, more), read.points + len(more["step"]))
        self._keep(trial, read, coarse=coarse)
        return read

    def _keep(self, trial: _Trial, read: _Read, *, coarse: bool) -> None:
        key = (trial.id, coarse)
        with self._lock:
            old = self._kept.pop(key, None)
            if old is not None:
                if old.version > trial.version:  # a reader with a later snapshot was faster
                    self._kept[key] = old
                    return
                self._size -= old.read.size
            self._kept[key] = _Kept(trial.version, trial.rewound, read)
            self._size += read.size
            while self._size > self._limit and self._kept:
                _, oldest = self._kept.popitem(last=False)
                self._size -= oldest.read.size


def _from(
    session: ReadSession, cursor: Any, trial: _Trial, held: Held | None, names: Sequence[str]
) -> _Read:
    """A trial's columns: what its pieces hold, and the rows of the points beyond."""
    names = tuple(dict.fromkeys(names))
    if held is None:
        columns = pieces.rows(session, cursor, trial.id, names, 0)
        return _Read(columns, len(columns["step"]))
    if held.last_step >= trial.step:
        return _Read(held.columns, held.points)
    more = pieces.rows(session, cursor, trial.id, names, held.last_step)
    return _Read(pieces.joined(held.columns, more), held.points + len(more["step"]))


def _suffices(read: _Read, wanted: Wanted) -> bool:
    """Whether a coarse view has all points that are chosen of the curve."""
    steps = read.columns["step"]
    if len(steps) == read.points:
        return True
    return read.points > wanted.max_points and wanted.enough(int(steps[0]), int(steps[-1]))


def _points(trial_id: str, read: _Read, wanted: Wanted, *, coarse: bool) -> Points | None:
    columns = read.columns
    steps = columns["step"]
    x = columns[_AXIS[wanted.axis or "steps"]]
    if wanted.axis == "time":
        x = np.cumsum(x)
    keep = np.ones(len(steps), dtype=bool)
    if (after := wanted.after(trial_id)) is not None:
        keep &= steps > after
    if wanted.low is not None:
        keep &= x >= wanted.low
    if wanted.high is not None:
        keep &= x <= wanted.high
    passed = np.flatnonzero(keep)
    if not len(passed):
        return None
    total = read.points if coarse else len(passed)
    extremes = [_made(name, columns)[passed] for name in wanted.extremes()]
    at = passed[chosen(steps[passed], extremes, wanted.max_points, total)]
    names = dict.fromkeys(("step", "samples", *wanted.columns))
    return Points(
        trial_id=trial_id,
        total=total,
        columns={name: _typed(name, _made(name, columns)[at]) for name in names},
        x=None if wanted.axis is None else _typed(_axis_name(wanted.axis), x[at]),
    )


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
