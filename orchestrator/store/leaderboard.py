"""Pages of a sweep's trials: filtered and sorted by the database, with the fields that are asked
for. What a page shows of 10,000 trials is fifty rows; no more are read."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, String, and_, case, func, literal, or_, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import JSONB

from orchestrator.errors import NotFound
from orchestrator.store import sweeps
from orchestrator.store.database import Database, ReadSession
from orchestrator.store.schema import trials
from winnow.types import Trial

Key = Literal[
    "number",
    "score",
    "value",
    "eval_loss",
    "exact_match",
    "loss",
    "grad_norm",
    "state",
    "progress",
    "samples",
    "seconds",
]
KEYS: tuple[str, ...] = get_args(Key)
FIELDS: tuple[str, ...] = tuple(Trial.model_fields)

_STATES = ("RUNNING", "PAUSED", "PENDING", "COMPLETED", "PRUNED", "FAILED", "CANCELED")


@dataclass(frozen=True, slots=True)
class Order:
    """What trials are sorted by: a `Key`, or a parameter as `params.NAME`. Trials without it come
    last either way, and equal ones by number.

    `score` is the objective, best first: `value`, and until that is measured the latest held-out
    figure where the objective is that; a trial that diverged has none.
    """

    by: str = "number"
    descending: bool = False


@dataclass(frozen=True, slots=True)
class TrialsPage:
    """Trials as mappings of fields of `winnow.types.Trial`, and the cursor of the next page."""

    items: list[dict[str, Any]]
    next: str | None


class Leaderboard:
    def __init__(self, database: Database) -> None:
        self._db = database

    def page(
        self,
        sweep_id: str,
        *,
        order: Order | None = None,
        fields: Sequence[str] = FIELDS,
        states: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        reasons: Sequence[str] | None = None,
        limit: int = 500,
        after: str | None = None,
    ) -> TrialsPage:
        """One page. `after` is the `next` of the previous one, of the same order. Raises NotFound
        for the sweep, and for a cursor that isn't one."""
        order = order or Order()
        where = [trials.c.sweep_id == sweep_id]
        for column, among in (
            (trials.c.state, states),
            (trials.c.kind, kinds),
            (trials.c.reason, reasons),
        ):
            if among is not None:
                where.append(column.in_(among))
        with self._db.read() as session:
            sweep = sweeps.row_of(session, sweep_id)
            by, descending = _sorted_by(session, order, sweep.spec.get("objective") or {})
            if after is not None:
                where.append(_beyond(by, descending, *_read_cursor(after, order)))
            direction = by.desc() if descending else by.asc()
            picked = session.rows(
                select(trials.c.id, trials.c.number, by.label("by"))
                .where(*where)
                .order_by(by.is_(None), direction, trials.c.number)
                .limit(limit + 1)
            )
            shown = picked[:limit]
            items = _rows(session, [row.id for row in shown], fields)
        last = shown[-1] if len(picked) > limit else None
        cursor = None if last is None else _cursor(order, last.by, last.number)
        return TrialsPage([items[row.id] for row in shown], cursor)


def _rows(
    session: ReadSession, ids: Sequence[str], fields: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By trial id: the fields, as the API sends them."""
    names = tuple(dict.fromkeys(("id", *fields)))
    query = select(*(trials.c[name] for name in names)).where(trials.c.id.in_(ids))
    found = {row[0]: dict(zip(names, row, strict=True)) for row in session.rows(query)}
    if "also" in names:
        for row in found.values():
            row["also"] = row["also"] or {}
    return found


# --- orders -----------------------------------------------------------------------------------


def _sorted_by(
    session: ReadSession, order: Order, objective: dict[str, Any]
) -> tuple[ColumnElement[Any], bool]:
    """The expression to sort by, and whether from the largest."""
    if order.by.startswith("params."):
        return _parameter(session, order.by.removeprefix("params.")), order.descending
    if order.by == "score":
        metric, mode = objective.get("metric", "eval/loss"), objective.get("mode", "min")
        running = {"eval/loss": trials.c.eval_loss, "eval/exact_match": trials.c.exact_match}
        value: ColumnElement[Any] = trials.c.value
        if metric in running:
            value = func.coalesce(value, running[metric])
        score = case((trials.c.reason == "diverged", None), else_=value)
        return score, order.descending != (mode == "max")
    if order.by == "state":
        return case({s: i for i, s in enumerate(_STATES)}, value=trials.c.state), order.descending
    if order.by == "progress":
        part = trials.c.samples * 1.0 / func.nullif(trials.c.total_samples, 0)
        return part, order.descending
    return trials.c[order.by], order.descending


def _parameter(session: ReadSession, name: str) -> ColumnElement[Any]:
    """A value of `params` that compares as what it is: a number, a text, or nothing."""
    if session.placeholder == "?":
        return func.json_extract(trials.c.params, f'$."{name}"')
    value = sql_cast(trials.c.params, JSONB)[name]
    return func.nullif(value, sql_cast(literal("null", String), JSONB), type_=JSONB())


def _beyond(
    by: ColumnElement[Any], descending: bool, value: Any, number: int
) -> ColumnElement[bool]:
    """What comes after the trial with this value and number."""
    later = trials.c.number > number
    if value is None:
        return and_(by.is_(None), later)
    against: Any = literal(value, JSONB()) if isinstance(by.type, JSONB) else value
    past = by < against if descending else by > against
    return or_(past, and_(by == against, later), by.is_(None))


# --- cursors ----------------------------------------------------------------------------------


def _cursor(order: Order, value: Any, number: int) -> str:
    if order == Order():
        return str(number)
    text = json.dumps([order.by, order.descending, value, number])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(text: str, order: Order) -> tuple[Any, int]:
    """The value and number of a page's last trial. Raises NotFound."""
    if order == Order():
        if text.isdecimal() and len(text) < 10:
            return int(text), int(text)
        raise NotFound("page of trials after", text)
    try:
        padded = text + "=" * (-len(text) % 4)
        by, descending, value, number = json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, TypeError, RecursionError):
        raise NotFound("page of trials after", text) from None
    of_this = (by, descending) == (order.by, order.descending)
    if of_this and _comparable(value, order) and _whole(number):
        return value, number
    raise NotFound("page of trials after", text)


def _comparable(value: Any, order: Order) -> bool:
    """Whether a database can compare with this. A cursor comes from outside."""
    if value is None or _whole(value):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    return order.by.startswith("params.") and isinstance(value, str) and "\x00" not in value


def _whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**62
