"""Bring a database's schema up to date, from a checkout or from an installed wheel alike."""

from __future__ import annotations

import functools

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, column, func, select, table
from sqlalchemy.exc import DBAPIError

import migrations
from orchestrator.store.database import Database, ReadSession

_MIGRATION_LOCK = 0x6D696772617465  # "migrate"


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade (or, given an earlier revision or `base`, downgrade) to `revision`.

    One transaction: it is done entirely or not at all, and one process at a time does it.
    """
    database = Database(url)
    try:
        database.transact(lambda session: _run(session.connection, revision))
    finally:
        database.close()


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for an open connection, whose transaction it then uses."""
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0].replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@functools.cache
def newest_version() -> str:
    """The schema that this version of winnow needs."""
    config = Config()
    config.set_main_option("script_location", migrations.__path__[0].replace("%", "%%"))
    return ScriptDirectory.from_config(config).get_current_head() or ""


def version_of(session: ReadSession) -> str | None:
    """The schema that a database has; None if it was never migrated."""
    try:
        return session.scalar(select(column("version_num")).select_from(table("alembic_version")))
    except DBAPIError:
        return None


def _run(connection: Connection, revision: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    config = alembic_config(connection)
    if revision == "head":
        command.upgrade(config, "head")
    else:
        command.downgrade(config, revision)
