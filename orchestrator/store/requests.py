"""What clients ask for, each request with effect once: keys, and commands to sweeps and trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from orchestrator.store import commands, idempotency, leases
from orchestrator.store import sweeps as sweep_rows
from orchestrator.store import trials as trial_rows
from orchestrator.store.database import Database, WriteSession
from orchestrator.store.idempotency import Answer, Once, Refusal
from winnow import types
from winnow.types import CommandKind

TRIM_SECONDS = 600.0


Unchanged = Callable[[BaseModel], None]
"""Raises if the sweep or trial that it is given isn't as whoever asks knew it."""


class Requests:
    """Part of `Store`. Methods with `once` keep their answer together with their effect."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._trimmed = float("-inf")

    # --- keys ---------------------------------------------------------------------------------

    def claim(
        self, principal: str, key: str, fingerprint: str, answer: Callable[[Any], Answer]
    ) -> Once | Answer | Refusal:
        """See `idempotency.claim`. Keys that are too old are forgotten now and then."""

        def work(session: WriteSession) -> Once | Answer | Refusal:
            if trimming:
                idempotency.trim(session)
            return idempotency.claim(session, principal, key, fingerprint, answer)

        trimming = time.monotonic() - self._trimmed > TRIM_SECONDS
        found = self._db.transact(work)
        if trimming:
            self._trimmed = time.monotonic()
        return found

    def release(self, once: Once) -> None:
        """Free a key whose request had no effect."""
        self._db.transact(lambda s: idempotency.release(s, once))

    # --- commands -----------------------------------------------------------------------------

    def ask(
        self,
        sweep_id: str,
        trial_id: str | None,
        kind: CommandKind,
        by: str,
        payload: Mapping[str, Any] | None = None,
        *,
        once: Once | None = None,
        unchanged: Unchanged | None = None,
    ) -> types.Command:
        """Ask for something to happen to a trial, or to the sweep (`trial_id` None). See
        `Store.add_command`."""

        def work(session: WriteSession) -> types.Command:
            _check(session, sweep_id, trial_id, unchanged)
            added = commands.add(session, sweep_id, trial_id, kind, by, payload)
            return commands.get(session, added.id)

        return self._db.transact(work, once)

    def ask_all(
        self,
        sweep_id: str,
        kind: CommandKind,
        by: str,
        payloads: Sequence[Mapping[str, Any]],
        *,
        once: Once | None = None,
        unchanged: Unchanged | None = None,
    ) -> types.Page[types.Command]:
        """One command a payload, in their order; all of them, or none."""

        def work(session: WriteSession) -> types.Page[types.Command]:
            _check(session, sweep_id, None, unchanged)
            added = [commands.add(session, sweep_id, None, kind, by, p) for p in payloads]
            return types.Page[types.Command](items=[commands.get(session, a.id) for a in added])

        return self._db.transact(work, once)

    def cancel(
        self,
        sweep_id: str,
        by: str,
        *,
        once: Once | None = None,
        unchanged: Unchanged | None = None,
    ) -> types.Command:
        """Ask for a sweep to end; one that nobody has begun ends at once."""

        def work(session: WriteSession) -> types.Command:
            _check(session, sweep_id, None, unchanged)
            added = commands.add(session, sweep_id, None, "cancel", by)
            if leases.cancel_queued(session, sweep_id):
                commands.finish(session, added.id, "canceled before it began")
            return commands.get(session, added.id)

        return self._db.transact(work, once)


def _check(
    session: WriteSession, sweep_id: str, trial_id: str | None, unchanged: Unchanged | None
) -> None:
    """Ask `unchanged`, and keep the sweep as it is until this transaction ends."""
    if unchanged is None:
        return
    sweep_rows.locked(session, sweep_id)
    unchanged(
        sweep_rows.get(session, sweep_id) if trial_id is None else trial_rows.get(session, trial_id)
    )
