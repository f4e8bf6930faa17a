"""The database's clock: leases and timestamps go by it, so hosts need not agree on the time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Double, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """A moment, as an aware UTC datetime; `timestamptz` on PostgreSQL, sortable text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class now(FunctionElement[datetime]):
    """The moment this statement runs (not when its transaction began)."""

    type = UtcTime()
    inherit_cache = True


class _After(FunctionElement[datetime]):
    type = UtcTime()
    inherit_cache = True


class _SecondsSince(FunctionElement[float]):
    type = Double()
    inherit_cache = True


def after(seconds: float) -> ColumnElement[datetime]:
    """`seconds` from now."""
    return _After(literal(float(seconds), Double()))


def seconds_since(moment: ColumnElement[Any]) -> ColumnElement[float]:
    """Seconds from `moment` to now; negative if it is yet to come, NULL if it is NULL."""
    return _SecondsSince(moment)


# SQLAlchemy reads and writes SQLite times with six decimals; `%f` gives three.
_SQLITE_FORMAT = "'%Y-%m-%d %H:%M:%f000'"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **kw: Any) -> str:
    return f"strftime({_SQLITE_FORMAT}, 'now')"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return "clock_timestamp()"


@compiles(_After, "sqlite")
def _after_sqlite(element: _After, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime({_SQLITE_FORMAT}, 'now', {seconds} || ' seconds')"


@compiles(_After, "postgresql")
def _after_postgresql(element: _After, compiler: Any, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(clock_timestamp() + make_interval(secs => {seconds}))"


@compiles(_SecondsSince, "sqlite")
def _since_sqlite(element: _SecondsSince, compiler: Any, **kw: Any) -> str:
    moment = compiler.process(element.clauses, **kw)
    return f"((julianday('now') - julianday({moment})) * 86400.0)"


@compiles(_SecondsSince, "postgresql")
def _since_postgresql(element: _SecondsSince, compiler: Any, **kw: Any) -> str:
    moment = compiler.process(element.clauses, **kw)
    return f"CAST(extract(epoch FROM clock_timestamp() - {moment}) AS double precision)"
