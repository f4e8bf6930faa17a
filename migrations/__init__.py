"""The database schema's history (Alembic). `orchestrator.store.migrate(url)` applies it."""
