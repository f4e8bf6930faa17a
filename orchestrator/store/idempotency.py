"""Answers that are kept by key, so that a request which is sent twice takes effect once.

A key is claimed before anything is done for it. The answer is written by the very transaction that
has the effect (`Database.transact(work, once)`): either both are there or neither. A claim whose
process has died runs out; whoever claims the key then gets another `fence`, so that the former
holder, should it wake up, can't have its effect any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.expression import ColumnElement

from orchestrator.errors import Conflict
from orchestrator.store.clock import after, now
from orchestrator.store.database import WriteSession
from orchestrator.store.schema import idempotency_keys as keys

CLAIM_SECONDS = 60.0
"""How long a process that may have died keeps others from its key."""
KEPT_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What was, or will be, answered. `body` is JSON."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass(frozen=True, slots=True)
class Once:
    """The right to take effect for one key. `answer` makes the answer of what the effect returned;
    of an effect without one, nothing can be replayed, and the key is refused for good."""

    principal: str
    key: str
    fence: datetime
    answer: Callable[[Any], Answer]

    def answering(self, answer: Callable[[Any], Answer]) -> Once:
        return replace(self, answer=answer)

    def keep(self, session: WriteSession, result: Any) -> None:
        """Write the answer, in the transaction of its effect. Conflict if the claim has run out
        and another request has taken the key: then nothing of the transaction stays."""
        answer = self.answer(result)
        kept = session.execute(
            update(keys)
            .where(_claimed(self))
            .values(
                status=answer.status,
                headers=answer.headers,
                body=answer.body,
                claimed_until=None,
            )
        )
        if kept.rowcount != 1:
            raise Conflict(
                "This request took too long: another one with the same Idempotency-Key has taken "
                "its place. Send it once more to have that one's answer."
            )


Refusal = Literal["in-flight", "different"]


def claim(
    session: WriteSession,
    principal: str,
    key: str,
    fingerprint: str,
    answer: Callable[[Any], Answer],
    seconds: float = CLAIM_SECONDS,
) -> Once | Answer | Refusal:
    """The right to take effect; or the answer of before; or why there is neither: the key stands
    for another request (`different`), or its request is being worked on (`in-flight`)."""
    mine = and_(keys.c.principal == principal, keys.c.key == key)
    dead = and_(keys.c.status.is_(None), keys.c.claimed_until < now())
    session.execute(delete(keys).where(mine, or_(dead, _old())))
    dialect = session.connection.dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    fence = session.scalar(
        insert(keys)
        .values(principal=principal, key=key, fingerprint=fingerprint, claimed_until=after(seconds))
        .on_conflict_do_nothing()
        .returning(keys.c.claimed_until)
    )
    if fence is not None:
        return Once(principal, key, fence, answer)
    row = session.first(select(keys).where(mine))
    if row is None:  # released between the two statements
        return "in-flight"
    if row.fingerprint != fingerprint:
        return "different"
    return "in-flight" if row.status is None else Answer(row.status, row.headers, row.body)


def release(session: WriteSession, once: Once) -> None:
    """Nothing came of it: the key is free again. Does nothing if an answer was kept."""
    session.execute(delete(keys).where(_claimed(once)))


def trim(session: WriteSession) -> int:
    """Forget the keys of more than a day ago. Returns how many."""
    return session.execute(delete(keys).where(_old())).rowcount


def _claimed(once: Once) -> ColumnElement[bool]:
    return and_(
        keys.c.principal == once.principal,
        keys.c.key == once.key,
        keys.c.status.is_(None),
        keys.c.claimed_until == once.fence,
    )


def _old() -> ColumnElement[bool]:
    return keys.c.created_at < after(-KEPT_SECONDS)
