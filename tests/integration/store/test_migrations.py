"""The schema's history: up, down, and equal to what the code expects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, inspect, text

from orchestrator.store import Store, migrate
from orchestrator.store.database import Database
from orchestrator.store.schema import metadata
from tests.integration.store.reports import begin, evaluation, step
from trainer.metrics import Batch

# Everything a database knows about its tables, in words of its own.
DEFINITIONS = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%'",
    "postgresql": """
        SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
            AND tablename <> 'alembic_version'
        UNION ALL
        SELECT 'constraint ' || conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE 'alembic%'
        UNION ALL
        SELECT 'column ' || table_name || '.' || column_name,
            concat_ws(' ', data_type, character_maximum_length, is_nullable, column_default)
            FROM information_schema.columns
            WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    """,
}


def tables(url: str) -> set[str]:
    database = Database(url)
    try:
        return set(inspect(database.engine).get_table_names())
    finally:
        database.close()


def definitions(database: Database) -> dict[str, list[list[str]]]:
    with database.engine.connect() as connection:
        found = connection.execute(text(DEFINITIONS[connection.dialect.name]))
        # In any order: constraints are not always named in the same one.
        return {
            name: sorted(part.split() for part in sql.strip(" )").split(","))
            for name, sql in found
            if sql
        }


def test_the_schema_goes_up_down_and_up_again(database_url: str):
    migrate(database_url)
    assert set(metadata.tables) <= tables(database_url)
    migrate(database_url, "base")
    assert tables(database_url) <= {"alembic_version"}
    migrate(database_url)
    store = Store(database_url)
    assert store.create_sweep({}, 1, "after a round trip").name == "after a round trip"
    store.close()


def test_migrating_again_keeps_what_is_stored(migrated_url: str, store: Store):
    sweep = store.create_sweep({}, 1, "kept")
    migrate(migrated_url)
    assert store.get_sweep(sweep.id).name == "kept"


def test_going_back_one_step_and_forth_keeps_what_both_know(migrated_url: str, store: Store):
    running = begin(store)
    trial, attempt = running.started()
    measured = (
        evaluation(2, 1.5),
        evaluation(2, 2.5, split="general", dataset="wiki"),
        evaluation(2, None, split="lm_eval", dataset="mmlu", scores={"acc": 0.5}),
    )
    store.record(running.lease, trial, attempt, Batch("running", (step(1), step(2)), measured))
    migrate(migrated_url, "0001")
    migrate(migrated_url)
    (curve,) = store.curves(running.sweep_id, details=True)
    assert (curve.step, curve.loss) == ([1, 2], [1.0, 0.5])
    assert curve.details is not None
    assert (curve.details["padding"], curve.details["mfu"]) == ([0.0, 0.0], [None, None])
    (kept,) = store.evaluations(running.sweep_id)
    assert (kept.split, kept.loss, kept.scores) == ("eval", 1.5, {})


def test_alembic_finds_nothing_to_change(migrated_url: str):
    database = Database(migrated_url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()


def test_migrations_build_exactly_the_tables_of_the_code(migrated_url: str):
    """Down to the WHERE of partial indexes, which Alembic doesn't compare."""
    database = Database(migrated_url)
    migrated = definitions(database)
    everything = MetaData()
    everything.reflect(database.engine)
    everything.drop_all(database.engine)
    metadata.create_all(database.engine)
    built = definitions(database)
    database.close()
    assert len(built) > 20
    assert migrated == built


def test_processes_that_start_together_may_all_migrate(database_url: str):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrate(database_url), range(4)))
    assert set(metadata.tables) <= tables(database_url)
