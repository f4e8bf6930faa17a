"""Sessions, tokens, the cluster's report, and what happens when the database does not answer."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store, database
from orchestrator.store.database import Database, WriteSession, has_wal_reset_fix
from orchestrator.store.schema import projects


def test_a_database_that_can_not_be_reached_is_unavailable(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    store = Store(f"postgresql://postgres@/winnow?host={tmp_path / 'nowhere'}")
    assert not store.ping()
    with pytest.raises(StoreUnavailable, match="database is not available"):
        store.list_sweeps()


def test_a_database_that_answers_is_up(store: Store):
    assert store.ping()


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_an_unusable_url_is_refused_with_a_usable_one(url: str):
    with pytest.raises(ValueError, match=r"database URL: .*sqlite:///"):
        Store(url)


def test_sqlite_is_opened_for_durability(tmp_path: Path):
    opened = Database(f"sqlite:///{tmp_path}/new/folder/winnow.db")
    with opened.read() as session:
        settings = {
            name: session.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    opened.close()
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def test_a_write_on_sqlite_holds_the_lock_from_its_start_and_a_read_does_not(tmp_path: Path):
    """Else two writers could both read first, and one of them would have to give up."""
    path = tmp_path / "winnow.db"
    opened = Database(f"sqlite:///{path}")
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    with opened.read():
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    with opened.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()
    opened.close()


def test_a_reader_sees_one_moment(migrated_url: str):
    opened = Database(migrated_url)
    count = text("SELECT count(*) FROM projects")
    with opened.read() as session:
        before = session.scalar(count)
        opened.transact(lambda s: s.execute(insert(projects).values(id="p", name="p")))
        assert session.scalar(count) == before
    with opened.read() as session:
        assert session.scalar(count) == before + 1
    opened.close()


def test_a_transaction_that_the_database_breaks_off_runs_again_as_a_whole(migrated_url: str):
    """On SQLite the lock is taken by another writer; on PostgreSQL two wait for each other."""
    opened = Database(migrated_url)
    for id in ("a", "b"):
        opened.transact(lambda s, id=id: s.execute(insert(projects).values(id=id, name=id)))
    both_hold_one = threading.Barrier(2)
    runs: list[str] = []

    def rename(first: str, second: str):
        met = False

        def work(session: WriteSession) -> None:
            nonlocal met
            runs.append(first)
            for id in (first, second):
                session.execute(
                    text("UPDATE projects SET name = name || :by WHERE id = :id").bindparams(
                        by=first, id=id
                    )
                )
                if id == first and not met and opened.engine.dialect.name == "postgresql":
                    met = True
                    both_hold_one.wait(timeout=120)

        return lambda: opened.transact(work)

    threads = [threading.Thread(target=rename(*pair)) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    with opened.read() as session:
        names = session.rows(text("SELECT name FROM projects WHERE id IN ('a', 'b')"))
    opened.close()
    assert len(runs) == (3 if "postgresql" in migrated_url else 2)
    assert {"".join(sorted(row.name[1:])) for row in names} == {"ab"}, "each once on each"


def test_a_mistake_of_ours_is_not_called_an_outage(migrated_url: str):
    opened = Database(migrated_url)
    with pytest.raises(DBAPIError), opened.read() as session:
        session.scalar(text("SELECT nonsense FROM nowhere"))
    opened.close()


def test_a_sqlite_with_the_wal_reset_bug_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(database, "_warned", False)
    monkeypatch.setattr(database.sqlite3, "sqlite_version_info", (3, 40, 1))
    with caplog.at_level(logging.WARNING):
        for n in range(2):
            Database(f"sqlite:///{tmp_path}/{n}.db").close()
    assert [r.message for r in caplog.records if "WAL-reset" in r.message] == [
        "SQLite 3.40.1 has the WAL-reset bug, which can, very rarely, corrupt a database that "
        "several processes write to. Use SQLite 3.51.3 or later, or PostgreSQL."
    ]
    assert [has_wal_reset_fix(v) for v in [(3, 51, 2), (3, 51, 3), (3, 52, 0), (3, 53, 0)]] == [
        False,
        True,
        False,
        True,
    ]


def test_a_token_is_known_by_its_text_which_is_stored_nowhere(store: Store, migrated_url: str):
    token = store.create_token("laptop")
    assert token.startswith("wnw_")
    known = store.verify_token(token)
    assert known is not None
    assert known.name == "laptop"
    assert store.verify_token(token + "x") is None
    assert store.verify_token("") is None
    opened = Database(migrated_url)
    with opened.read() as session:
        assert token not in str(session.rows(text("SELECT * FROM tokens")))
    opened.close()


def test_the_clusters_report_is_also_a_heartbeat(store: Store):
    assert store.cluster() == ({}, None)
    store.report_cluster({"CPU": 2.0, "GPU": 0.0})
    resources, seconds = store.cluster()
    assert resources == {"CPU": 2.0, "GPU": 0.0}
    assert seconds is not None
    assert 0 <= seconds < 30
