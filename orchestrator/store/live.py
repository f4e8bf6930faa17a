"""What streams need: where trials stand, in few bytes each, and which events are still kept."""

from __future__ import annotations

from sqlalchemy import delete, func, select, update

from orchestrator.store import sweeps as sweep_rows
from orchestrator.store import trials as trial_rows
from orchestrator.store.clock import seconds_since
from orchestrator.store.database import Database, ReadSession, WriteSession
from orchestrator.store.schema import events, sweeps, trials, webhooks
from winnow.types import SweepState, Trial, TrialState

_OPEN = [state for state in TrialState if not state.ended]
_ENDED = [state for state in SweepState if state.ended]


class Live:
    """Part of `Store`. Raises NotFound for a sweep that isn't there."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def marks(self, sweep_id: str) -> tuple[dict[str, tuple[int, int]], int]:
        """By trial its attempt and step, and the version to ask `trials_changed_since` with."""
        with self._db.read() as session:
            sweep_rows.project_of(session, sweep_id)
            rows = session.rows(
                select(trials.c.id, trials.c.attempt, trials.c.step, trials.c.version).where(
                    trials.c.sweep_id == sweep_id
                )
            )
        marks = {row.id: (row.attempt, row.step) for row in rows}
        return marks, max((row.version for row in rows), default=0)

    def trials_to_open_with(self, sweep_id: str, most: int) -> list[Trial]:
        """All trials of a sweep by number; of one with more than `most`, those that haven't ended,
        again at most so many."""
        with self._db.read() as session:
            query = select(func.count()).where(trials.c.sweep_id == sweep_id)
            states = None if (session.scalar(query) or 0) <= most else _OPEN
            return trial_rows.page(session, sweep_id, states, None, most, None).items

    def trimmed(self, sweep_id: str | None = None) -> int:
        """Events of a sweep, or of any, up to this id may be gone. 0: all are there."""
        query = select(func.max(sweeps.c.trimmed_event_id))
        if sweep_id is not None:
            query = query.where(sweeps.c.id == sweep_id)
        with self._db.read() as session:
            return session.scalar(query) or 0

    def trim(self, days: float, keep: int) -> int:
        """Delete events of sweeps that ended more than `days` ago, but for each one's last `keep`
        (at least one) and those that a webhook is yet to hear of. Returns how many are gone.

        Sweeps, trials, decisions and metrics stay: an event only tells when each changed.
        """
        with self._db.read() as session:
            old = session.rows(
                select(sweeps.c.id)
                .where(
                    sweeps.c.state.in_(_ENDED), seconds_since(sweeps.c.ended_at) > days * 86400.0
                )
                .order_by(sweeps.c.id)
            )
        return sum(self._db.transact(lambda s, id=row.id: _trim(s, id, keep)) for row in old)


def _trim(session: WriteSession, sweep_id: str, keep: int) -> int:
    row = sweep_rows.locked(session, sweep_id)
    if SweepState(row.state) not in _ENDED:  # somebody has revived it
        return 0
    oldest_kept = session.scalar(
        select(events.c.id)
        .where(events.c.sweep_id == sweep_id)
        .order_by(events.c.id.desc())
        .offset(max(1, keep) - 1)
        .limit(1)
    )
    if oldest_kept is None:
        return 0
    up_to = min(oldest_kept - 1, _heard(session, oldest_kept))
    gone = session.execute(
        delete(events).where(events.c.sweep_id == sweep_id, events.c.id <= up_to)
    ).rowcount
    if gone:
        session.execute(
            update(sweeps).where(sweeps.c.id == sweep_id).values(trimmed_event_id=up_to)
        )
    return gone


def _heard(session: ReadSession, otherwise: int) -> int:
    """The last event that every enabled webhook has dealt with."""
    query = select(func.min(webhooks.c.last_event_id)).where(webhooks.c.enabled)
    heard = session.scalar(query)
    return otherwise if heard is None else heard
