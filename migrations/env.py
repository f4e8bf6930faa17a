"""Alembic's entry: run migrations on the connection, and in the transaction, that it was given."""

from alembic import context

from orchestrator.store.schema import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("Call orchestrator.store.migrate(url): it opens the database as winnow does.")
context.configure(
    connection=connection,
    target_metadata=metadata,
    transactional_ddl=True,
    compare_type=True,
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
