"""The outbox of webhooks: messages made of stored events, and what became of each.

Each webhook has a cursor, `last_event_id`, that moves in the transaction that makes its deliveries:
so each event becomes one, whoever is killed when. A sender claims a delivery for some time; what it
says of one that somebody else has claimed since is not heard.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row

from orchestrator.store import audit, sweeps, trials
from orchestrator.store import events as event_rows
from orchestrator.store.clock import after, now, seconds_since
from orchestrator.store.database import Database, ReadSession, WriteSession
from orchestrator.store.records import Audited
from orchestrator.store.schema import deliveries, events, webhooks
from orchestrator.store.schema import sweeps as sweeps_table
from orchestrator.webhooks.messages import TOLD, Told, message, told

EVENTS_AT_ONCE = 5000
"""Ids of events that one transaction looks through."""
_LETTERS = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A message that its claimer is to send now, for the `attempts`-th time. `keys`: the secrets
    that sign it, the newest first."""

    id: str
    webhook_id: str
    url: str
    keys: tuple[str, ...] = field(repr=False)
    kind: str
    body: str
    attempts: int


class Outbox:
    """`store.outbox`: what a courier asks of the database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def behind(self) -> bool:
        """Whether there are events that an enabled webhook has not looked at."""
        with self._db.read() as session:
            least = session.scalar(
                select(func.min(webhooks.c.last_event_id)).where(webhooks.c.enabled)
            )
            return least is not None and least < event_rows.last_id(session, None)

    def make_deliveries(self) -> int:
        """Make deliveries of the next events; how many."""
        with self._db.read() as session:
            last = event_rows.last_id(session, None)
            waiting = session.rows(
                select(webhooks.c.id).where(webhooks.c.enabled, webhooks.c.last_event_id < last)
            )
        return sum(
            self._db.transact(lambda s, i=row.id: _deliver_events(s, i, last)) for row in waiting
        )

    def claim(self, most: int, seconds: float, busy: Sequence[str] = ()) -> list[DueDelivery]:
        """Up to `most` deliveries that are due, for this caller alone for so many `seconds`; none
        of the webhooks in `busy`."""

        def take(session: WriteSession) -> list[DueDelivery]:
            due = (
                select(deliveries, webhooks.c.url, *_KEYS)
                .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
                .where(
                    deliveries.c.state == "pending",
                    deliveries.c.next_at <= now(),
                    webhooks.c.enabled,
                    webhooks.c.id.not_in(busy),
                    _unclaimed(),
                )
                .order_by(deliveries.c.next_at, deliveries.c.id)
                .limit(most)
                .with_for_update(of=deliveries, skip_locked=True)
            )
            rows = session.rows(due)
            for row in rows:
                session.execute(
                    update(deliveries)
                    .where(deliveries.c.id == row.id)
                    .values(attempts=row.attempts + 1, claimed_until=after(seconds), last_at=now())
                )
            return [_due(row) for row in rows]

        with self._db.read() as session:
            waits = session.first(
                select(deliveries.c.id)
                .where(deliveries.c.state == "pending", deliveries.c.next_at <= now(), _unclaimed())
                .limit(1)
            )
        return [] if waits is None or most < 1 else self._db.transact(take)

    def delivered(self, due: DueDelivery, status: int) -> bool:
        """A delivery was taken. False if somebody else has claimed it since."""

        def note(session: WriteSession) -> bool:
            done = _finish(
                session,
                due,
                state="delivered",
                last_status=status,
                last_error=None,
                next_at=None,
                delivered_at=now(),
            )
            if done:
                session.execute(
                    update(webhooks)
                    .where(webhooks.c.id == due.webhook_id, webhooks.c.failing_since.is_not(None))
                    .values(failing_since=None)
                )
            return done

        return self._db.transact(note)

    def failed(
        self,
        due: DueDelivery,
        error: str,
        *,
        status: int | None = None,
        again_in: float | None,
        disable_after: float,
    ) -> str | None:
        """A delivery was not taken; it is due again in so many seconds, or given up (None).

        A webhook of which everything has failed for `disable_after` seconds is disabled. Returns
        why, if it was.
        """

        def note(session: WriteSession) -> str | None:
            row = session.first(
                select(webhooks).where(webhooks.c.id == due.webhook_id).with_for_update()
            )
            if row is None:
                return None  # it was deleted meanwhile
            over: dict[str, Any] = {"state": "failed", "next_at": None}
            ends = over if again_in is None else {"next_at": after(again_in)}
            said = {"last_status": status, "last_error": trials.printable(error)}
            if not _finish(session, due, deliveries.c.state == "pending", **said, **ends):
                return None
            failing = session.scalar(
                select(seconds_since(webhooks.c.failing_since)).where(webhooks.c.id == row.id)
            )
            if failing is None:
                session.execute(
                    update(webhooks).where(webhooks.c.id == row.id).values(failing_since=now())
                )
                failing = 0.0
            if row.enabled and failing >= disable_after:
                for_days = f"nothing could be delivered for {failing / 86400:.1f} days; at last: "
                why = error if disable_after <= 0 else for_days + error
                _disable(session, row, why)
                return why
            return None

        return self._db.transact(note)

    def tidy(self, days: float) -> int:
        """Delete deliveries that ended longer ago than so many days; how many."""
        old = delete(deliveries).where(
            deliveries.c.state != "pending", seconds_since(deliveries.c.created_at) > days * 86400
        )
        return self._db.transact(lambda s: s.execute(old).rowcount)


def add(session: WriteSession, webhook_id: str, event_id: int | None, kind: str, body: str) -> str:
    """Put a message into the outbox, due at once; its id."""
    delivery_id = "msg_" + random_id(20)
    session.execute(
        insert(deliveries).values(
            id=delivery_id,
            webhook_id=webhook_id,
            event_id=event_id,
            kind=kind,
            body=body,
            state="pending",
            attempts=0,
            next_at=now(),
        )
    )
    return delivery_id


def give_up_pending(session: WriteSession, webhook_id: str, why: str) -> None:
    """End what a webhook was still to be told."""
    session.execute(
        update(deliveries)
        .where(deliveries.c.webhook_id == webhook_id, deliveries.c.state == "pending")
        .values(state="failed", next_at=None, last_error=why)
    )


def random_id(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


_KEYS = (
    webhooks.c.secret,
    webhooks.c.previous_secret,
    (webhooks.c.previous_until > now()).label("previous_counts"),
)


def _unclaimed() -> Any:
    return or_(deliveries.c.claimed_until.is_(None), deliveries.c.claimed_until <= now())


def _deliver_events(session: WriteSession, webhook_id: str, last: int) -> int:
    """Make deliveries of one webhook's next events, and move its cursor."""
    row = session.first(
        select(webhooks).where(webhooks.c.id == webhook_id, webhooks.c.enabled).with_for_update()
    )
    if row is None or row.last_event_id >= last:
        return 0
    reached = min(last, row.last_event_id + EVENTS_AT_ONCE)
    query = (
        select(events)
        .where(events.c.id > row.last_event_id, events.c.id <= reached, events.c.type.in_(TOLD))
        .order_by(events.c.id)
    )
    if row.project_id is not None:
        query = query.join(sweeps_table, sweeps_table.c.id == events.c.sweep_id).where(
            sweeps_table.c.project_id == row.project_id
        )
    made = 0
    for event in session.rows(query):
        found = told(event.type, event.data)
        if found is not None and found.kind in row.events:
            data = _data(session, event, found)
            body = message(found.kind, event.created_at, data)
            add(session, webhook_id, event.id, found.kind, body)
            made += 1
    session.execute(
        update(webhooks).where(webhooks.c.id == webhook_id).values(last_event_id=reached)
    )
    return made


def _data(session: ReadSession, event: Row[Any], found: Told) -> dict[str, Any]:
    """What a message tells: the event's own facts, and the sweep and the trial as they are now."""
    row = sweeps.row_of(session, event.sweep_id)
    data: dict[str, Any] = {
        "event_id": event.id,
        "sweep": {
            "id": row.id,
            "name": row.name,
            "project": row.project_id,
            "model": row.spec.get("model"),
        },
        **found.data,
    }
    if event.trial_id is not None:
        trial = trials.get(session, event.trial_id)
        data["trial"] = {
            "id": trial.id,
            "number": trial.number,
            "params": trial.params,
            "samples": trial.samples,
            "total_samples": trial.total_samples,
        }
    if found.with_result:
        sweep = sweeps.get(session, event.sweep_id)
        summary = sweep.summary
        best = None if summary.best_trial is None else trials.get(session, summary.best_trial)
        data["result"] = {
            "trials": summary.trials,
            "by_state": summary.by_state,
            "samples_trained": summary.samples_trained,
            "samples_full": summary.samples_full,
            "worker_seconds": summary.seconds,
            "spending": [one.model_dump(mode="json") for one in sweep.budget],
            "best": None
            if best is None
            else {
                "trial": best.id,
                "number": best.number,
                "value": best.value,
                "params": best.params,
                "checkpoint": best.checkpoint,
            },
        }
    return data


def _finish(
    session: WriteSession, due: DueDelivery, *where: ColumnElement[bool], **columns: Any
) -> bool:
    """Set what became of a delivery, if nobody else has claimed it since."""
    done = session.execute(
        update(deliveries)
        .where(deliveries.c.id == due.id, deliveries.c.attempts == due.attempts, *where)
        .values(claimed_until=None, **columns)
    )
    return done.rowcount == 1


def _disable(session: WriteSession, row: Row[Any], why: str) -> None:
    session.execute(
        update(webhooks)
        .where(webhooks.c.id == row.id)
        .values(enabled=False, disabled_reason=trials.printable(why))
    )
    give_up_pending(session, row.id, "the webhook was disabled")
    entry = Audited(
        actor="winnow",
        token_id=None,
        action="webhooks.disable",
        target=f"/v1/webhooks/{row.id}",
        project=row.project_id,
        status=200,
        request_id=None,
        address=None,
        detail={"reason": trials.printable(why)},
    )
    audit.add(session, [entry])


def _due(row: Row[Any]) -> DueDelivery:
    keys = (row.secret, row.previous_secret) if row.previous_counts else (row.secret,)
    return DueDelivery(
        id=row.id,
        webhook_id=row.webhook_id,
        url=row.url,
        keys=keys,
        kind=row.kind,
        body=row.body,
        attempts=row.attempts + 1,
    )
