"""Projects: sweeps that share a quota."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.engine import Row

from orchestrator.errors import Conflict, NotFound
from orchestrator.store.clock import seconds_since
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Usage
from orchestrator.store.schema import attempts, projects, sweeps, trials
from winnow.types import Project, Quota, TrialState


def row_of(session: ReadSession, project_id: str) -> Row[Any]:
    row = session.first(select(projects).where(projects.c.id == project_id))
    if row is None:
        raise NotFound("project", project_id)
    return row


def add(session: WriteSession, project_id: str, quota: Quota, weight: float) -> Project:
    """A new project. Conflict if there is one of that name."""
    if session.first(select(projects.c.id).where(projects.c.id == project_id)) is not None:
        raise Conflict(f"There is a project {project_id!r} already.")
    session.execute(
        insert(projects).values(id=project_id, name=project_id, quota=_limits(quota), weight=weight)
    )
    return _named(session, project_id)


def change(
    session: WriteSession,
    project_id: str,
    quota: Quota,
    weight: float,
    unchanged: Callable[[Project], None] | None = None,
) -> Project:
    row_of(session, project_id)
    if unchanged is not None:
        session.first(select(projects.c.id).where(projects.c.id == project_id).with_for_update())
        unchanged(_named(session, project_id))
    session.execute(
        update(projects)
        .where(projects.c.id == project_id)
        .values(quota=_limits(quota), weight=weight)
    )
    return _named(session, project_id)


def listed(session: ReadSession) -> list[Project]:
    """All projects by name, with what their sweeps have now and have had."""
    used = _used(session)
    return [
        Project(
            id=row.id,
            quota=Quota.model_validate(row.quota or {}),
            weight=row.weight,
            used=used.get(row.id, Quota(gpus=0, trials=0, gpu_hours=0.0)),
        )
        for row in session.rows(select(projects).order_by(projects.c.id))
    ]


def usage(session: ReadSession, sweep_id: str) -> Usage:
    """See `Store.usage`."""
    since = session.scalar(
        select(seconds_since(sweeps.c.started_at)).where(sweeps.c.id == sweep_id)
    )
    held = session.scalar(
        select(func.sum(held_seconds()))
        .join(trials, trials.c.id == attempts.c.trial_id)
        .where(trials.c.sweep_id == sweep_id)
    )
    return Usage(hours=max(0.0, since or 0.0) / 3600, held_hours=max(0.0, held or 0.0) / 3600)


def held_seconds() -> ColumnElement[float]:
    """Seconds that an attempt has held its workers, up to now if it is live."""
    return seconds_since(attempts.c.started_at) - func.coalesce(
        seconds_since(attempts.c.ended_at), 0.0
    )


def _named(session: ReadSession, project_id: str) -> Project:
    return next(project for project in listed(session) if project.id == project_id)


def _used(session: ReadSession) -> dict[str, Quota]:
    """GPUs and trials at work now, and GPU-hours of all attempts, ended or not."""
    running = (
        select(sweeps.c.id, func.count().label("running"))
        .join(trials, trials.c.sweep_id == sweeps.c.id)
        .where(trials.c.state == TrialState.RUNNING)
        .group_by(sweeps.c.id)
    )
    held = (
        select(sweeps.c.id, func.sum(held_seconds()).label("seconds"))
        .join(trials, trials.c.sweep_id == sweeps.c.id)
        .join(attempts, attempts.c.trial_id == trials.c.id)
        .group_by(sweeps.c.id)
    )
    at_work = {row.id: int(row.running) for row in session.rows(running)}
    seconds = {row.id: float(row.seconds or 0.0) for row in session.rows(held)}
    query = select(sweeps.c.id, sweeps.c.project_id, sweeps.c.spec).where(
        sweeps.c.id.in_(list(seconds))
    )
    found: dict[str, Quota] = {}
    for row in session.rows(query):
        gpus = int((row.spec.get("resources") or {}).get("gpus_per_trial", 0))
        before = found.get(row.project_id, Quota(gpus=0, trials=0, gpu_hours=0.0))
        running_now = at_work.get(row.id, 0)
        found[row.project_id] = Quota(
            gpus=(before.gpus or 0) + gpus * running_now,
            trials=(before.trials or 0) + running_now,
            gpu_hours=(before.gpu_hours or 0.0) + gpus * seconds[row.id] / 3600,
        )
    return found


def _limits(quota: Quota) -> dict[str, Any]:
    return quota.model_dump(exclude_none=True)
