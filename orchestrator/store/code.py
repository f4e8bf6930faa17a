"""Models whose own code an admin has allowed to run, each at one revision."""

from __future__ import annotations

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Row

from orchestrator.errors import NotFound
from orchestrator.store.database import Database, ReadSession, WriteSession
from orchestrator.store.schema import allowed_code
from winnow.code import AllowedCode


class Code:
    """What `trust_remote_code` may run."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def listed(self) -> list[AllowedCode]:
        """All that is allowed, by model, then revision."""
        with self._db.read() as session:
            order = (allowed_code.c.model, allowed_code.c.revision)
            return [_entry(row) for row in session.rows(select(allowed_code).order_by(*order))]

    def revisions(self, model: str) -> frozenset[str]:
        """The revisions of a model whose code may run."""
        with self._db.read() as session:
            query = select(allowed_code.c.revision).where(allowed_code.c.model == model)
            return frozenset(row.revision for row in session.rows(query))

    def allow(self, model: str, revision: str, by: str) -> AllowedCode:
        """Allow it; what is allowed already stays as it is."""

        def write(session: WriteSession) -> AllowedCode:
            found = _find(session, model, revision)
            if found is None:
                values = {"model": model, "revision": revision, "allowed_by": by}
                session.execute(insert(allowed_code).values(**values))
                found = _find(session, model, revision)
            assert found is not None
            return _entry(found)

        return self._db.transact(write)

    def revoke(self, model: str, revision: str) -> None:
        """Raises NotFound."""

        def write(session: WriteSession) -> None:
            if _find(session, model, revision) is None:
                raise NotFound("allowed code", f"{model} at {revision}")
            session.execute(
                delete(allowed_code).where(
                    allowed_code.c.model == model, allowed_code.c.revision == revision
                )
            )

        self._db.transact(write)


def _find(session: ReadSession, model: str, revision: str) -> Row | None:
    return session.first(
        select(allowed_code).where(
            allowed_code.c.model == model, allowed_code.c.revision == revision
        )
    )


def _entry(row: Row) -> AllowedCode:
    return AllowedCode(
        model=row.model, revision=row.revision, allowed_by=row.allowed_by, created_at=row.created_at
    )
