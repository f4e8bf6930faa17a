"""What became of trials and sweeps, for readers: attempts, checkpoints, the queue."""

from __future__ import annotations

from typing import Any

from sqlalchemy import case, func, or_, select, tuple_
from sqlalchemy.engine import Row

from orchestrator.store import sweeps as sweep_rows
from orchestrator.store import trials as trial_rows
from orchestrator.store.database import Database, ReadSession
from orchestrator.store.schema import attempts, checkpoints, events, sweeps, trials
from winnow.runs import Attempt, Checkpoint, CheckpointKind
from winnow.service import QueuedSweep
from winnow.types import Event, Page, SweepState, TrialState

_ENDED = [state for state in SweepState if state.ended]


class History:
    """Part of `Store`. Unknown ids raise NotFound."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def attempts(self, trial_id: str, after: int = 0, limit: int = 100) -> Page[Attempt]:
        """A trial's attempts by number, those above `after`."""
        with self._db.read() as session:
            trial_rows.row_of(session, trial_id)
            rows = session.rows(
                select(attempts)
                .where(attempts.c.trial_id == trial_id, attempts.c.attempt > after)
                .order_by(attempts.c.attempt)
                .limit(limit + 1)
            )
        items = [
            Attempt.model_validate(dict(row._mapping) | {"notes": row.notes or {}})
            for row in rows[:limit]
        ]
        following = str(items[-1].attempt) if len(rows) > limit else None
        return Page[Attempt](items=items, next=following)

    def checkpoints(
        self,
        trial_id: str,
        *,
        after: tuple[int, int, str] | None = None,
        limit: int = 100,
    ) -> Page[Checkpoint]:
        """A trial's checkpoints by attempt, step and kind, deleted ones too. `after`: those of the
        last one that was read; `next` is the same, with dashes between."""
        key = (checkpoints.c.attempt, checkpoints.c.step, checkpoints.c.kind)
        query = select(checkpoints).where(checkpoints.c.trial_id == trial_id)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*after))
        with self._db.read() as session:
            trial_rows.row_of(session, trial_id)
            rows = session.rows(query.order_by(*key).limit(limit + 1))
        items = [_checkpoint(row) for row in rows[:limit]]
        following = None
        if len(rows) > limit:
            following = "-".join(map(str, (items[-1].attempt, items[-1].step, items[-1].kind)))
        return Page[Checkpoint](items=items, next=following)

    def checkpoint_at(
        self,
        trial_id: str,
        step: int | None,
        kind: CheckpointKind | None,
        attempt: int | None = None,
    ) -> Checkpoint | None:
        """The checkpoint of a step, and kind; the latest of several, and one that is still there
        rather than one that isn't. `step` None: the newest."""
        query = select(checkpoints).where(checkpoints.c.trial_id == trial_id)
        for column, value in (("step", step), ("kind", kind), ("attempt", attempt)):
            if value is not None:
                query = query.where(checkpoints.c[column] == value)
        there = case((or_(checkpoints.c.deleted, checkpoints.c.damaged), 0), else_=1)
        order = (there.desc(), checkpoints.c.superseded, checkpoints.c.attempt.desc())
        with self._db.read() as session:
            trial_rows.row_of(session, trial_id)
            row = session.first(
                query.order_by(*order, checkpoints.c.step.desc(), checkpoints.c.kind).limit(1)
            )
        return None if row is None else _checkpoint(row)

    def events(self, project: str | None, after: int, limit: int) -> list[Event]:
        """Events of all sweeps of a project, or of all projects, with an id above `after`."""
        query = select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
        if project is not None:
            query = query.join(sweeps, sweeps.c.id == events.c.sweep_id).where(
                sweeps.c.project_id == project
            )
        with self._db.read() as session:
            return [Event.model_validate(dict(row._mapping)) for row in session.rows(query)]

    def queue(self, project: str | None = None) -> list[QueuedSweep]:
        """Sweeps that have not ended: those that run first, then by priority and age."""
        query = select(sweeps).where(sweeps.c.state.not_in(_ENDED))
        if project is not None:
            query = query.where(sweeps.c.project_id == project)
        running_first = case((sweeps.c.state == SweepState.RUNNING, 0), else_=1)
        with self._db.read() as session:
            rows = session.rows(
                query.order_by(
                    running_first, sweeps.c.priority.desc(), sweeps.c.created_at, sweeps.c.id
                ).limit(1000)
            )
            counts = _counts(session, [row.id for row in rows])
        return [_queued(row, counts.get(row.id, {})) for row in rows]

    def store_of(self, sweep_id: str) -> str | None:
        """Where a sweep's checkpoints are kept beside the folder that they are written in."""
        with self._db.read() as session:
            spec = sweep_rows.row_of(session, sweep_id).spec
        return (spec.get("checkpoints") or {}).get("store")


def _checkpoint(row: Row[Any]) -> Checkpoint:
    available = not (row.deleted or row.damaged)
    return Checkpoint.model_validate(dict(row._mapping) | {"available": available})


def _counts(session: ReadSession, ids: list[str]) -> dict[str, dict[str, int]]:
    """Search trials by sweep and state."""
    query = (
        select(trials.c.sweep_id, trials.c.state, func.count().label("trials"))
        .where(trials.c.sweep_id.in_(ids), trials.c.kind == "search")
        .group_by(trials.c.sweep_id, trials.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for row in session.rows(query):
        found.setdefault(row.sweep_id, {})[row.state] = row.trials
    return found


def _queued(row: Row[Any], counts: dict[str, int]) -> QueuedSweep:
    created = sum(counts.values())
    waiting = counts.get(TrialState.PENDING, 0) + counts.get(TrialState.PAUSED, 0)
    return QueuedSweep.model_validate(
        dict(row._mapping)
        | {
            "project": row.project_id,
            "running": counts.get(TrialState.RUNNING, 0),
            "pending": waiting + max(0, row.planned - created),
        }
    )
