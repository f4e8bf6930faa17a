"""The database as the oracle reads it: plain SQL, through the database's own client."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]

_JSON = {"data", "params", "config", "spec", "result", "payload", "notes", "budget"}


class Tables(Protocol):
    """Reads of one database."""

    def freeze(self) -> None:
        """All later reads see the database as it is now."""
        ...

    def rows(self, query: str) -> list[Row]: ...

    def problems(self) -> list[str]:
        """What the database's own check of itself finds."""
        ...


@contextlib.contextmanager
def opened(url: str) -> Iterator[Tables]:
    """The database of a `sqlite:///…` or `postgresql://…` URL."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)) as c:
            c.row_factory = sqlite3.Row
            c.isolation_level = None
            yield _Sqlite(c)
    else:
        with connected(url) as connection:
            yield _Postgres(connection)


def unsettled(url: str) -> int:
    """Sweeps that have not ended, or that somebody still holds: in one look, as what moves between
    two could be missed by both."""
    ended = "('COMPLETED', 'FAILED', 'CANCELED')"
    with opened(url) as tables:
        query = f"SELECT count(*) AS n FROM sweeps WHERE state NOT IN {ended} OR holder IS NOT NULL"
        return tables.rows(query)[0]["n"]


def connected(url: str, database: str | None = None) -> psycopg.Connection[Row]:
    """A connection of our own to the PostgreSQL database of `url`, in autocommit."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    return psycopg.Connection[Row].connect(
        host=unquote(host),
        port=parts.port,
        user=parts.username or "postgres",
        dbname=database or parts.path.lstrip("/"),
        autocommit=True,
        row_factory=dict_row,  # type: ignore[arg-type]
        connect_timeout=10,
    )


class _Sqlite:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def freeze(self) -> None:
        self._connection.execute("BEGIN")

    def rows(self, query: str) -> list[Row]:
        return [
            {k: _plain(k, row[k]) for k in row.keys()}  # noqa: SIM118 (no mapping)
            for row in self._connection.execute(query)
        ]

    def problems(self) -> list[str]:
        found = [
            str(row[0])
            for row in self._connection.execute("PRAGMA integrity_check")
            if row[0] != "ok"
        ]
        return found + [
            f"{row[0]}: row {row[1]} refers to a missing row of {row[2]}"
            for row in self._connection.execute("PRAGMA foreign_key_check")
        ]


class _Postgres:
    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def freeze(self) -> None:
        self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")

    def rows(self, query: str) -> list[Row]:
        return self._connection.execute(query).fetchall()  # type: ignore[arg-type]

    def problems(self) -> list[str]:
        """Every index against its table (amcheck), and every foreign key checked anew."""
        found: list[str] = []
        try:
            self._connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
            checks = self.rows(
                "SELECT c.oid::int AS oid, c.relname AS name FROM pg_index i "
                "JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
                "JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE a.amname = 'btree' AND n.nspname = 'public'"
            )
        except psycopg.errors.FeatureNotSupported:  # a server without contrib modules
            checks = []
        for index in checks:
            try:
                self.rows(f"SELECT bt_index_check({index['oid']}, true)")
            except psycopg.Error as error:
                found.append(f"index {index['name']}: {error}")
        for child, columns, parent, keys in _REFERENCES:
            join = " AND ".join(f"p.{k} = c.{c}" for c, k in zip(columns, keys, strict=True))
            lost = self.rows(
                f"SELECT count(*) AS n FROM {child} c LEFT JOIN {parent} p ON {join} "
                f"WHERE p.{keys[0]} IS NULL"
            )[0]["n"]
            if lost:
                found.append(f"{lost} rows of {child} refer to missing rows of {parent}")
        return found


_REFERENCES = (
    ("trials", ("sweep_id",), "sweeps", ("id",)),
    ("attempts", ("trial_id",), "trials", ("id",)),
    ("metrics", ("trial_id", "attempt"), "attempts", ("trial_id", "attempt")),
    ("evaluations", ("trial_id", "attempt"), "attempts", ("trial_id", "attempt")),
    ("checkpoints", ("trial_id", "attempt"), "attempts", ("trial_id", "attempt")),
    ("events", ("sweep_id",), "sweeps", ("id",)),
    ("decisions", ("trial_id",), "trials", ("id",)),
)


def _plain(name: str, value: Any) -> Any:
    if name in _JSON and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value
