"""Webhooks and their deliveries: who hears of what, and what became of each message.

Deliveries are made from stored events. Each webhook has a cursor, `last_event_id`, that moves in
the transaction that makes the deliveries: so each event becomes one, whoever is killed when. A
sender claims a delivery for some time; what it says of one that somebody else has claimed since is
not heard.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row

from orchestrator.errors import Conflict, NotFound
from orchestrator.store import audit, projects, sweeps, trials
from orchestrator.store import events as event_rows
from orchestrator.store.clock import after, now, seconds_since
from orchestrator.store.database import Database, Keeps, ReadSession, WriteSession
from orchestrator.store.records import Audited
from orchestrator.store.schema import deliveries, events, webhooks
from orchestrator.store.schema import sweeps as sweeps_table
from orchestrator.webhooks.messages import TOLD, Told, message, told
from orchestrator.webhooks.signing import new_secret
from winnow.types import Page
from winnow.webhooks import PING, Delivery, Webhook, WebhookSecret

OVERLAP_SECONDS = 86400.0
"""How long a secret that was replaced signs as well."""
EVENTS_AT_ONCE = 5000
"""Ids of events that one transaction looks through."""
MOST_WEBHOOKS = 100
"""Of one project, and of all projects together."""
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


class Webhooks:
    """`store.webhooks`. Unknown ids raise NotFound; `project` None sees all projects."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # --- webhooks -----------------------------------------------------------------------------

    def create(
        self,
        url: str,
        kinds: Sequence[str],
        *,
        by: str,
        project: str | None = None,
        description: str | None = None,
        once: Keeps | None = None,
    ) -> WebhookSecret:
        """A new webhook, which hears of what happens from now on, with its secret."""
        webhook_id, secret = "wh_" + _random(13), new_secret()

        def make(session: WriteSession) -> WebhookSecret:
            if project is not None:
                projects.row_of(session, project)
            same = (
                webhooks.c.project_id.is_(None)
                if project is None
                else (webhooks.c.project_id == project)
            )
            if session.scalar(select(func.count()).where(same)) >= MOST_WEBHOOKS:
                raise Conflict(f"There are {MOST_WEBHOOKS} webhooks already; delete one first.")
            session.execute(
                insert(webhooks).values(
                    id=webhook_id,
                    project_id=project,
                    url=url,
                    secret=secret,
                    description=description,
                    events=list(kinds),
                    enabled=True,
                    created_by=by,
                    last_event_id=event_rows.last_id(session, None),
                )
            )
            return _with_secret(_row(session, webhook_id, None))

        return self._db.transact(make, once)

    def get(self, webhook_id: str, project: str | None = None) -> Webhook:
        with self._db.read() as session:
            return _webhook(_row(session, webhook_id, project))

    def listed(
        self, limit: int = 100, after: str | None = None, project: str | None = None
    ) -> Page[Webhook]:
        """Oldest first. `after` is the `next` of the previous page."""
        query = select(webhooks)
        if project is not None:
            query = query.where(webhooks.c.project_id == project)
        with self._db.read() as session:
            if after is not None:
                last = _row(session, after, project)
                query = query.where(
                    or_(
                        webhooks.c.created_at > last.created_at,
                        and_(webhooks.c.created_at == last.created_at, webhooks.c.id > last.id),
                    )
                )
            rows = session.rows(
                query.order_by(webhooks.c.created_at, webhooks.c.id).limit(limit + 1)
            )
        following = rows[limit - 1].id if len(rows) > limit else None
        return Page[Webhook](items=[_webhook(row) for row in rows[:limit]], next=following)

    def change(
        self, webhook_id: str, changes: Mapping[str, Any], project: str | None = None
    ) -> Webhook:
        """Set `url`, `events`, `description`, `enabled`: those that are named."""

        def set_them(session: WriteSession) -> Webhook:
            row = _row(session, webhook_id, project, lock=True)
            columns = dict(changes)
            if columns.get("enabled") and not row.enabled:
                columns |= {
                    "last_event_id": event_rows.last_id(session, None),
                    "failing_since": None,
                    "disabled_reason": None,
                }
            if columns:
                session.execute(
                    update(webhooks).where(webhooks.c.id == webhook_id).values(**columns)
                )
            if columns.get("enabled") is False:
                _give_up_pending(session, webhook_id, "the webhook was disabled")
            return _webhook(_row(session, webhook_id, project))

        return self._db.transact(set_them)

    def rotate(
        self, webhook_id: str, project: str | None = None, *, once: Keeps | None = None
    ) -> WebhookSecret:
        """A new secret. For a day messages are signed with the one before as well."""
        secret = new_secret()

        def replace(session: WriteSession) -> WebhookSecret:
            row = _row(session, webhook_id, project, lock=True)
            session.execute(
                update(webhooks)
                .where(webhooks.c.id == webhook_id)
                .values(
                    secret=secret, previous_secret=row.secret, previous_until=after(OVERLAP_SECONDS)
                )
            )
            return _with_secret(_row(session, webhook_id, project))

        return self._db.transact(replace, once)

    def delete(self, webhook_id: str, project: str | None = None) -> None:
        """Delete a webhook and its deliveries."""

        def remove(session: WriteSession) -> None:
            _row(session, webhook_id, project, lock=True)
            session.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
            session.execute(delete(webhooks).where(webhooks.c.id == webhook_id))

        self._db.transact(remove)

    # --- deliveries ---------------------------------------------------------------------------

    def ping(
        self,
        webhook_id: str,
        by: str,
        project: str | None = None,
        *,
        once: Keeps | None = None,
    ) -> Delivery:
        """Send a message that tells of nothing. It goes out like every other."""

        def add(session: WriteSession) -> Delivery:
            row = _row(session, webhook_id, project)
            if not row.enabled:
                raise Conflict("The webhook is disabled; enable it first.")
            moment = session.scalar(select(now()))
            body = message(PING, moment, {"webhook_id": webhook_id, "asked_by": by})
            delivery_id = _add(session, webhook_id, None, PING, body)
            return _delivery(_delivery_row(session, webhook_id, delivery_id))

        return self._db.transact(add, once)

    def deliveries(
        self,
        webhook_id: str,
        *,
        state: str | None = None,
        limit: int = 100,
        after: str | None = None,
        project: str | None = None,
    ) -> Page[Delivery]:
        """Newest first. `after` is the `next` of the previous page."""
        query = select(deliveries).where(deliveries.c.webhook_id == webhook_id)
        if state is not None:
            query = query.where(deliveries.c.state == state)
        with self._db.read() as session:
            _row(session, webhook_id, project)
            if after is not None:
                last = _delivery_row(session, webhook_id, after)
                query = query.where(
                    or_(
                        deliveries.c.created_at < last.created_at,
                        and_(deliveries.c.created_at == last.created_at, deliveries.c.id < last.id),
                    )
                )
            newest = query.order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc())
            rows = session.rows(newest.limit(limit + 1))
        following = rows[limit - 1].id if len(rows) > limit else None
        return Page[Delivery](items=[_delivery(row) for row in rows[:limit]], next=following)

    def redeliver(
        self,
        webhook_id: str,
        delivery_id: str,
        project: str | None = None,
        *,
        once: Keeps | None = None,
    ) -> Delivery:
        """Send a message again, at once: with the same id, so that a receiver that has it drops it.

        One that was given up gets one more attempt.
        """

        def again(session: WriteSession) -> Delivery:
            row = _row(session, webhook_id, project)
            if not row.enabled:
                raise Conflict("The webhook is disabled; enable it first.")
            _delivery_row(session, webhook_id, delivery_id)
            session.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery_id)
                .values(state="pending", next_at=now(), delivered_at=None)
            )
            return _delivery(_delivery_row(session, webhook_id, delivery_id))

        return self._db.transact(again, once)

    # --- what the courier does ----------------------------------------------------------------

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
            row = _row(session, due.webhook_id, None, lock=True)
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

        try:
            return self._db.transact(note)
        except NotFound:
            return None  # it was deleted meanwhile

    def tidy(self, days: float) -> int:
        """Delete deliveries that ended longer ago than so many days; how many."""
        old = delete(deliveries).where(
            deliveries.c.state != "pending", seconds_since(deliveries.c.created_at) > days * 86400
        )
        return self._db.transact(lambda s: s.execute(old).rowcount)


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
            _add(session, webhook_id, event.id, found.kind, body)
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


def _add(session: WriteSession, webhook_id: str, event_id: int | None, kind: str, body: str) -> str:
    delivery_id = "msg_" + _random(20)
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
    _give_up_pending(session, row.id, "the webhook was disabled")
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


def _give_up_pending(session: WriteSession, webhook_id: str, why: str) -> None:
    session.execute(
        update(deliveries)
        .where(deliveries.c.webhook_id == webhook_id, deliveries.c.state == "pending")
        .values(state="failed", next_at=None, last_error=why)
    )


def _row(
    session: ReadSession, webhook_id: str, project: str | None, *, lock: bool = False
) -> Row[Any]:
    query = select(webhooks).where(webhooks.c.id == webhook_id)
    row = session.first(query.with_for_update() if lock else query)
    if row is None or (project is not None and row.project_id != project):
        raise NotFound("webhook", webhook_id)
    return row


def _delivery_row(session: ReadSession, webhook_id: str, delivery_id: str) -> Row[Any]:
    row = session.first(
        select(deliveries).where(
            deliveries.c.id == delivery_id, deliveries.c.webhook_id == webhook_id
        )
    )
    if row is None:
        raise NotFound("delivery", delivery_id)
    return row


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook.model_validate(dict(row._mapping) | {"project": row.project_id})


def _with_secret(row: Row[Any]) -> WebhookSecret:
    return WebhookSecret.model_validate(dict(row._mapping) | {"project": row.project_id})


def _delivery(row: Row[Any]) -> Delivery:
    stored = dict(row._mapping)
    return Delivery.model_validate(stored | {"type": row.kind, "body": json.loads(row.body)})


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


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))
