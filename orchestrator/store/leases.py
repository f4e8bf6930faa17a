"""Who drives a sweep. A lease's epoch fences writes; it expires by the database's clock.

A driver renews its lease well before it expires. Whoever finds it expired may take the sweep over
with the next epoch; from then on every write of the former driver is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, case, exists, func, or_, select, true, update
from sqlalchemy.engine import Row

from orchestrator.errors import LeaseLost
from orchestrator.store import sweeps as sweep_rows
from orchestrator.store import trials as trial_rows
from orchestrator.store.clock import after, now, seconds_since
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Claim, Claimable, Driver, Lease
from orchestrator.store.schema import commands, sweeps, trials
from winnow.types import SweepState, TrialState

_FREE = {"lease_expires": None, "holder": None}
_live = sweeps.c.lease_expires > now()
_free = or_(sweeps.c.lease_expires.is_(None), sweeps.c.lease_expires <= now())
_drivable = sweeps.c.state.in_((SweepState.QUEUED, SweepState.RUNNING))


def acquire(
    session: WriteSession, sweep_id: str, holder: str, seconds: float, *, attend: bool = False
) -> Lease | None:
    row = sweep_rows.locked(session, sweep_id)
    taken = session.execute(
        update(sweeps)
        .where(sweeps.c.id == sweep_id, _free, true() if attend else _drivable)
        .values(
            epoch=sweeps.c.epoch + 1,
            revision=sweeps.c.revision + 1,
            lease_expires=after(seconds),
            holder=holder,
        )
    )
    if taken.rowcount != 1:
        return None
    epoch = row.epoch + 1
    if row.holder is not None:
        session.emit(sweep_id, "driver.lost", {"epoch": row.epoch, "holder": row.holder})
    if row.state == SweepState.QUEUED and not attend:
        sweep_rows.move(session, row, SweepState.RUNNING, None)
    trial_rows.put_back_running(session, sweep_id, row.revision + 1)
    if not attend:
        session.emit(sweep_id, "driver.started", {"epoch": epoch, "holder": holder})
    return Lease(sweep_id=sweep_id, epoch=epoch)


def renew(session: WriteSession, lease: Lease, seconds: float) -> bool:
    """False if the lease has expired or passed on: too late is too late."""
    renewed = session.execute(
        update(sweeps).where(_held_by(lease)).values(lease_expires=after(seconds))
    )
    return renewed.rowcount == 1


def release(session: WriteSession, lease: Lease) -> bool:
    """Give the lease back. False if it had passed on already."""
    released = session.execute(
        update(sweeps)
        .where(sweeps.c.id == lease.sweep_id, sweeps.c.epoch == lease.epoch)
        .values(**_FREE)
    )
    return released.rowcount == 1


def expire(session: WriteSession, sweep_id: str, epoch: int) -> bool:
    """End a lease whose holder is proved dead. False if it is no longer the one of `epoch`."""
    row = sweep_rows.locked(session, sweep_id)
    if row.epoch != epoch or row.holder is None:
        return False
    session.execute(update(sweeps).where(sweeps.c.id == sweep_id).values(**_FREE))
    session.emit(sweep_id, "driver.lost", {"epoch": epoch, "holder": row.holder})
    return True


def cancel_queued(session: WriteSession, sweep_id: str) -> bool:
    """Cancel a sweep that has never had a driver. False if it isn't QUEUED any more."""
    row = sweep_rows.locked(session, sweep_id)
    if row.state != SweepState.QUEUED:
        return False
    sweep_rows.move(session, row, SweepState.CANCELED, "Canceled before it began.")
    return True


_RAISE_REVISION = (
    update(sweeps)
    .where(
        sweeps.c.id == bindparam("of"),
        sweeps.c.epoch == bindparam("held_epoch", type_=sweeps.c.epoch.type),
        _live,
    )
    .values(revision=sweeps.c.revision + 1)
    .returning(sweeps.c.revision)
)
"""Built once: every transaction of a driver begins with it."""


def guard(session: WriteSession, lease: Lease) -> int:
    """Make sure that `lease` still holds, and keep it from passing on until this transaction ends.

    Returns the sweep's new revision. Raises LeaseLost.
    """
    held = {"of": lease.sweep_id, "held_epoch": lease.epoch}
    revision = session.execute(_RAISE_REVISION, held).scalar()
    if revision is None:
        raise LeaseLost(lease.sweep_id, lease.epoch)
    return revision


def claimable(session: ReadSession) -> list[Claimable]:
    """Sweeps that wait for a driver, the oldest first."""
    query = select(sweeps).where(_drivable, _free).order_by(sweeps.c.created_at, sweeps.c.id)
    rows = session.rows(query)
    claims = _claims(session, rows)
    return [
        Claimable(row.id, SweepState(row.state), row.spec, row.epoch, row.holder, claims[row.id])
        for row in rows
    ]


def live_drivers(session: ReadSession) -> list[Driver]:
    """All leases that are held now."""
    left = func.coalesce(-seconds_since(sweeps.c.lease_expires), 0.0).label("seconds_left")
    query = select(sweeps, left).where(_live).order_by(sweeps.c.created_at, sweeps.c.id)
    rows = session.rows(query)
    claims = _claims(session, rows)
    return [
        Driver(row.id, row.spec, row.epoch, row.holder, row.seconds_left, claims[row.id])
        for row in rows
    ]


def unattended(session: ReadSession) -> list[str]:
    """Sweeps that nobody drives and that have commands waiting, by id."""
    waiting = exists().where(commands.c.sweep_id == sweeps.c.id, commands.c.finished_at.is_(None))
    query = select(sweeps.c.id).where(_free, waiting).order_by(sweeps.c.id)
    return [row.id for row in session.rows(query)]


def grant(session: WriteSession, grants: Mapping[str, tuple[int, str | None]]) -> None:
    """Say how many trials sweeps may run at once, and why not more. Not fenced: the last word of
    two orchestrators holds, and both reckon with the same rows."""
    statement = (
        update(sweeps)
        .where(sweeps.c.id == bindparam("of"))
        .values(slots=bindparam("granted"), why_pending=bindparam("because"))
    )
    rows = [
        {"of": sweep_id, "granted": slots, "because": why}
        for sweep_id, (slots, why) in sorted(grants.items())  # the same order in all who write
    ]
    if rows:
        session.execute(statement, rows)


def _claims(session: ReadSession, rows: Sequence[Row[Any]]) -> dict[str, Claim]:
    """What each sweep may ask of the cluster."""
    ended = trials.c.state.in_([s for s in TrialState if s.ended])
    running = trials.c.state == TrialState.RUNNING
    query = (
        select(
            trials.c.sweep_id,
            func.sum(case((trials.c.kind == "search", 1), else_=0)).label("proposed"),
            func.sum(case((ended, 0), else_=1)).label("open"),
            func.sum(case((running, 1), else_=0)).label("running"),
        )
        .where(trials.c.sweep_id.in_([row.id for row in rows]))
        .group_by(trials.c.sweep_id)
    )
    counts = {found.sweep_id: found for found in session.rows(query)} if rows else {}
    claims: dict[str, Claim] = {}
    for row in rows:
        found = counts.get(row.id)
        proposed, still_open = (int(found.proposed), int(found.open)) if found else (0, 0)
        claims[row.id] = Claim(
            project=row.project_id,
            priority=row.priority,
            weight=row.weight,
            max_concurrent=row.max_concurrent,
            open_trials=max(1, row.planned - proposed + still_open),
            running=int(found.running) if found else 0,
            slots=row.slots,
            created_at=row.created_at,
        )
    return claims


def _held_by(lease: Lease) -> Any:
    return and_(sweeps.c.id == lease.sweep_id, sweeps.c.epoch == lease.epoch, _live)
