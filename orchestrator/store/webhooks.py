"""Webhooks: who hears of what happens, and what became of each message.

This is what users ask for; `outbox` makes the messages and keeps them until they are sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row

from orchestrator.errors import Conflict, NotFound
from orchestrator.store import events as event_rows
from orchestrator.store import outbox, projects
from orchestrator.store.clock import after, now
from orchestrator.store.database import Database, Keeps, ReadSession, WriteSession
from orchestrator.store.schema import deliveries, webhooks
from orchestrator.webhooks.messages import message
from orchestrator.webhooks.signing import new_secret
from winnow.types import Page
from winnow.webhooks import PING, Delivery, Webhook, WebhookSecret

OVERLAP_SECONDS = 86400.0
"""How long a secret that was replaced signs as well."""
MOST_WEBHOOKS = 100
"""Of one project, and of all projects together."""


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
        webhook_id, secret = "wh_" + outbox.random_id(13), new_secret()

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
                outbox.give_up_pending(session, webhook_id, "the webhook was disabled")
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
            delivery_id = outbox.add(session, webhook_id, None, PING, body)
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
