"""The scheduler's decisions: its memory, and the reasons that users read."""

from __future__ import annotations

from sqlalchemy import insert, select

from orchestrator.schedulers.base import Action, Decision
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import StoredDecision
from orchestrator.store.schema import decisions, trials
from winnow import types


def add(session: WriteSession, sweep_id: str, number: int, decision: Decision, acted: bool) -> int:
    """Store a decision about trial `number`, with its event. Returns its id."""
    id = session.execute(
        insert(decisions)
        .values(
            sweep_id=sweep_id,
            trial_id=decision.trial_id,
            action=decision.action,
            rule=decision.rule,
            reason=decision.reason,
            code=decision.code,
            samples=decision.samples,
            evidence=decision.evidence,
            acted=acted,
        )
        .returning(decisions.c.id)
    ).scalar_one()
    session.emit(
        sweep_id,
        "decision",
        {
            "id": id,
            "number": number,
            "action": decision.action,
            "rule": decision.rule,
            "reason": decision.reason,
            "code": decision.code,
            "samples": decision.samples,
            "acted": acted,
        },
        decision.trial_id,
    )
    return id


def listed(
    session: ReadSession, sweep_id: str, trial_id: str | None, after_id: int, limit: int
) -> list[types.Decision]:
    """Decisions in their order, those after `after_id`."""
    query = (
        select(decisions, trials.c.number.label("trial_number"))
        .join(trials, trials.c.id == decisions.c.trial_id)
        .where(decisions.c.sweep_id == sweep_id, decisions.c.id > after_id)
        .order_by(decisions.c.id)
        .limit(limit)
    )
    if trial_id is not None:
        query = query.where(decisions.c.trial_id == trial_id)
    return [types.Decision.model_validate(dict(row._mapping)) for row in session.rows(query)]


def load(session: ReadSession, sweep_id: str) -> tuple[StoredDecision, ...]:
    """All of a sweep's decisions in their order, as the scheduler made them."""
    query = select(decisions).where(decisions.c.sweep_id == sweep_id).order_by(decisions.c.id)
    return tuple(
        StoredDecision(
            id=row.id,
            decision=Decision(
                trial_id=row.trial_id,
                action=Action(row.action),
                rule=row.rule,
                reason=row.reason,
                code=row.code,
                samples=row.samples,
                evidence=row.evidence,
            ),
            acted=row.acted,
        )
        for row in session.rows(query)
    )
