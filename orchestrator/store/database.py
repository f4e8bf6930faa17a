"""Engine, sessions and retries: how the store talks to SQLite and PostgreSQL.

A `ReadSession` sees one unchanging snapshot and can't write. A `WriteSession` is one transaction:
on SQLite it holds the only write lock from its start (BEGIN IMMEDIATE), on PostgreSQL the rows it
touches. Rows are always locked in the order sweep, trial, events, so writers can't deadlock.
"""

from __future__ import annotations

import json
import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson
import psycopg
from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    Executable,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.engine import URL, Row, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from orchestrator.errors import Conflict, StoreUnavailable
from orchestrator.observe import traces
from orchestrator.store.schema import events

T = TypeVar("T")
log = logging.getLogger(__name__)

BUSY_SECONDS = 30
"""How long a write waits for another one to finish."""
_ATTEMPTS = 5
_EVENTS_LOCK = 0x77696E6E6F77  # "winnow": the key of PostgreSQL's advisory lock on event ids
_TRANSIENT_SQLSTATES = {"40001", "40P01", "55P03"}  # serialization, deadlock, lock timeout


class ReadSession:
    """One consistent view of the database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, statement: Executable) -> Sequence[Row[Any]]:
        return self._connection.execute(statement).all()

    def first(
        self, statement: Executable, values: Mapping[str, Any] | None = None
    ) -> Row[Any] | None:
        """`values`: of its parameters, for a statement that is built once."""
        return self._connection.execute(statement, values).first()

    def scalar(self, statement: Executable) -> Any:
        return self._connection.execute(statement).scalar()

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """A cursor of the driver below SQLAlchemy, for many rows of plain numbers. Its parameters
        are written as `placeholder`; on PostgreSQL it takes numbers as binary. Its errors are
        raised as SQLAlchemy's are."""
        raw: Any = self._connection.connection
        cursor = raw.cursor(binary=True) if self.placeholder == "%s" else raw.cursor()
        try:
            yield cursor
        except (sqlite3.Error, psycopg.Error) as error:
            raise DBAPIError.instance(
                None,
                None,
                error,
                (sqlite3.Error, psycopg.Error),  # type: ignore[arg-type]
                dialect=self._connection.dialect,
            ) from error
        finally:
            cursor.close()

    @property
    def engine(self) -> Engine:
        return self._connection.engine

    @property
    def placeholder(self) -> str:
        return "?" if self._connection.dialect.name == "sqlite" else "%s"


class WriteSession(ReadSession):
    """One transaction. It commits when its block ends, and writes nothing if that raises."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._events: list[dict[str, Any]] = []

    def execute(
        self,
        statement: Executable,
        rows: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    ) -> CursorResult[Any]:
        return self._connection.execute(statement, rows)

    def insert_rows(
        self, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Insert rows of plain numbers and texts, below SQLAlchemy: what it does for each value of
        each row costs more than storing it. PostgreSQL takes them all as one value, which costs
        less than half of a statement a row. Defaults are the database's."""
        names = ", ".join(columns)
        if self._connection.dialect.name == "sqlite":
            marks = ", ".join("?" * len(columns))
            statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
            self._connection.exec_driver_sql(statement, list(rows))
            return
        dialect = self._connection.dialect
        types = ", ".join(f"{n} {table.c[n].type.compile(dialect)}" for n in columns)
        self._connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) "
            f"SELECT * FROM json_to_recordset(CAST(%s AS json)) AS given ({types})",
            (orjson.dumps([dict(zip(columns, row, strict=True)) for row in rows]).decode(),),
        )

    def emit(
        self, sweep_id: str, type: str, data: Mapping[str, Any], trial_id: str | None = None
    ) -> None:
        """Tell what happened. The event becomes visible together with this transaction's effect."""
        self._events.append(
            {"sweep_id": sweep_id, "trial_id": trial_id, "type": type, "data": dict(data)}
        )

    @property
    def connection(self) -> Connection:
        """The connection itself, for migrations."""
        return self._connection

    def flush_events(self) -> None:
        """Number and insert the events. The lock on ids is the last one taken, held until commit:
        ids then have no gaps, and nobody ever sees one appear below an id already read."""
        if not self._events:
            return
        if self._connection.dialect.name == "postgresql":
            self._connection.execute(select(func.pg_advisory_xact_lock(_EVENTS_LOCK)))
        last = self.scalar(select(func.max(events.c.id))) or 0
        for id, row in enumerate(self._events, start=last + 1):
            row["id"] = id
        self.execute(insert(events), self._events)
        self._events = []


class Keeps(Protocol):
    """Writes down what a transaction came to, as a part of it."""

    def keep(self, session: WriteSession, result: Any) -> None: ...


class Database:
    """A pool of connections to one database, used from any number of threads."""

    def __init__(self, url: str) -> None:
        self.url = _normalised(url)
        self.engine = _sqlite(self.url) if _is_sqlite(self.url) else _postgresql(self.url)

    @contextmanager
    def read(self) -> Iterator[ReadSession]:
        with _translated(), self._begin(write=False) as connection:
            yield ReadSession(connection)

    @contextmanager
    def write(self) -> Iterator[WriteSession]:
        """One transaction around a block. The start waits and retries; the block runs once."""
        with _translated(), self._begin(write=True) as connection:
            session = WriteSession(connection)
            yield session
            session.flush_events()

    def transact(self, work: Callable[[WriteSession], T], once: Keeps | None = None) -> T:
        """Run `work` in one transaction, again from the start where the database asks for that.

        `once` keeps what `work` returned, in that transaction (see `store.idempotency`).
        """
        with _translated():
            began = time.monotonic()
            for attempt in range(_ATTEMPTS):
                try:
                    with self._begin(write=True) as connection:
                        session = WriteSession(connection)
                        result = work(session)
                        if once is not None:
                            once.keep(session, result)
                        session.flush_events()
                    return result
                except DBAPIError as error:
                    if attempt == _ATTEMPTS - 1 or not _worth_another(error, began):
                        raise
                    _back_off(attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _begin(self, *, write: bool) -> Iterator[Connection]:
        with (
            traces.span("db.write" if write else "db.read"),
            self._connect(write=write) as connection,
        ):
            transaction = connection.get_transaction()
            assert transaction is not None
            with transaction:
                yield connection

    def _connect(self, *, write: bool) -> Connection:
        """A connection with its transaction begun; a lock that is taken is waited for."""
        began = time.monotonic()
        for attempt in range(_ATTEMPTS):
            connection = None
            try:
                connection = self.engine.connect()
                if _is_sqlite(self.url):
                    connection.execution_options(immediate=write)
                elif not write:
                    connection.execution_options(
                        isolation_level="REPEATABLE READ", postgresql_readonly=True
                    )
                connection.begin()
                return connection
            except DBAPIError as error:
                if connection is not None:
                    connection.close()
                if attempt == _ATTEMPTS - 1 or not _worth_another(error, began):
                    raise
                _back_off(attempt)
        raise AssertionError("unreachable")


def _normalised(url: str) -> URL:
    """SQLAlchemy's URL; `postgresql://` and `postgres://` mean the psycopg driver."""
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ValueError(
            f"database URL: {parsed.drivername!r} is not supported; "
            "use sqlite:///path/to/file or postgresql://user:password@host/name"
        )
    if _is_sqlite(parsed) and parsed.database in (None, "", ":memory:"):
        raise ValueError("database URL: name a file, as in sqlite:////var/lib/winnow/winnow.db")
    return parsed


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _dump_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _sqlite(url: URL) -> Engine:
    _warn_of_wal_reset_bug(sqlite3.sqlite_version_info)
    Path(str(url.database)).expanduser().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        json_serializer=_dump_json,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say so, below
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    return create_engine(
        url,
        json_serializer=_dump_json,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        connect_args={
            "connect_timeout": 10,
            "application_name": "winnow",
            # A stopped process must not hold its sweep's row for ever.
            "options": f"-c lock_timeout={BUSY_SECONDS}s"
            " -c idle_in_transaction_session_timeout=60s",
        },
    )


_warned = False


def _warn_of_wal_reset_bug(version: tuple[int, ...]) -> None:
    """Say once if this SQLite can, very rarely, corrupt a WAL database with several writers."""
    global _warned
    if not _warned and not has_wal_reset_fix(version):
        _warned = True
        log.warning(
            "SQLite %s has the WAL-reset bug, which can, very rarely, corrupt a database that "
            "several processes write to. Use SQLite 3.51.3 or later, or PostgreSQL.",
            ".".join(map(str, version)),
        )


def has_wal_reset_fix(version: tuple[int, ...]) -> bool:
    """Fixed in 3.51.3 and in 3.53.0."""
    return version >= (3, 53, 0) or (3, 51, 3) <= version < (3, 52, 0)


def _worth_another(error: DBAPIError, began: float) -> bool:
    """Whether to try again at once. Not when a lock was waited for in vain: whoever asked has to
    look at something else first, perhaps at who holds it."""
    return _transient(error) and time.monotonic() - began < BUSY_SECONDS


def _transient(error: DBAPIError) -> bool:
    """Whether the same transaction may well succeed if it is simply run again."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(error.orig, "sqlstate", None) in _TRANSIENT_SQLSTATES


def _back_off(attempt: int) -> None:
    time.sleep(random.uniform(0.5, 1.0) * 0.02 * 2**attempt)


@contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors as ours, for readers who don't know SQL."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"This contradicts what is stored: {error.orig}") from error
    except (OperationalError, InterfaceError) as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            raise  # SQLite's word for a wrong statement: our fault, not the database's
        raise StoreUnavailable(f"The database is not available: {error.orig}") from error
