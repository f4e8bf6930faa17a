"""Who drives a sweep. A lease's epoch fences writes; it expires by the database's clock.

A driver renews its lease well before it expires. Whoever finds it expired may take the sweep over
with the next epoch; from then on every write of the former driver is refused.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, func, or_, select, update

from orchestrator.errors import LeaseLost
from orchestrator.store import sweeps as sweep_rows
from orchestrator.store import trials as trial_rows
from orchestrator.store.clock import after, now, seconds_since
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Claimable, Driver, Lease
from orchestrator.store.schema import sweeps
from winnow.types import SweepState

_FREE = {"lease_expires": None, "holder": None}
_live = sweeps.c.lease_expires > now()
_free = or_(sweeps.c.lease_expires.is_(None), sweeps.c.lease_expires <= now())
_drivable = sweeps.c.state.in_((SweepState.QUEUED, SweepState.RUNNING))


def acquire(session: WriteSession, sweep_id: str, holder: str, seconds: float) -> Lease | None:
    row = sweep_rows.locked(session, sweep_id)
    taken = session.execute(
        update(sweeps)
        .where(sweeps.c.id == sweep_id, _drivable, _free)
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
    if row.state == SweepState.QUEUED:
        sweep_rows.move(session, row, SweepState.RUNNING, None)
    trial_rows.put_back_running(session, sweep_id, row.revision + 1)
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


def guard(session: WriteSession, lease: Lease) -> int:
    """Make sure that `lease` still holds, and keep it from passing on until this transaction ends.

    Returns the sweep's new revision. Raises LeaseLost.
    """
    revision = session.execute(
        update(sweeps)
        .where(_held_by(lease))
        .values(revision=sweeps.c.revision + 1)
        .returning(sweeps.c.revision)
    ).scalar()
    if revision is None:
        raise LeaseLost(lease.sweep_id, lease.epoch)
    return revision


def claimable(session: ReadSession) -> list[Claimable]:
    """Sweeps that wait for a driver, the oldest first."""
    query = select(sweeps).where(_drivable, _free).order_by(sweeps.c.created_at, sweeps.c.id)
    return [
        Claimable(row.id, SweepState(row.state), row.spec, row.epoch, row.holder)
        for row in session.rows(query)
    ]


def live_drivers(session: ReadSession) -> list[Driver]:
    """All leases that are held now."""
    left = func.coalesce(-seconds_since(sweeps.c.lease_expires), 0.0).label("seconds_left")
    query = select(sweeps, left).where(_live).order_by(sweeps.c.created_at, sweeps.c.id)
    return [
        Driver(row.id, row.spec, row.epoch, row.holder, row.seconds_left)
        for row in session.rows(query)
    ]


def _held_by(lease: Lease) -> Any:
    return and_(sweeps.c.id == lease.sweep_id, sweeps.c.epoch == lease.epoch, _live)
