"""All that a driver needs to start a sweep, or to go on where another one was."""

from __future__ import annotations

from sqlalchemy import select

from orchestrator.store import decisions, metrics, sweeps
from orchestrator.store.database import ReadSession
from orchestrator.store.records import SweepRows, TrialRow
from orchestrator.store.schema import trials
from winnow.types import SweepState, TrialState


def rows(session: ReadSession, sweep_id: str) -> SweepRows:
    """A sweep as its driver finds it. Raises NotFound."""
    sweep = sweeps.row_of(session, sweep_id)
    steps = metrics.load_steps(session, sweep_id)
    evaluations = metrics.load_evaluations(session, sweep_id)
    checkpoints = metrics.load_checkpoints(session, sweep_id)
    attempts = metrics.load_attempts(session, sweep_id)
    found = session.rows(
        select(trials).where(trials.c.sweep_id == sweep_id).order_by(trials.c.number)
    )
    return SweepRows(
        sweep_id=sweep.id,
        name=sweep.name,
        state=SweepState(sweep.state),
        spec=sweep.spec,
        facts=sweep.facts,
        planned=sweep.planned,
        prior=sweep.prior,
        project=sweep.project_id,
        space=sweep.space,
        budget=sweep.budget,
        max_concurrent=sweep.max_concurrent,
        slots=sweep.slots,
        started_at=sweep.started_at,
        trials=tuple(
            TrialRow(
                id=row.id,
                number=row.number,
                kind=row.kind,
                state=TrialState(row.state),
                reason=row.reason,
                message=row.message,
                params=row.params,
                config=row.config,
                attempt=row.attempt,
                step=row.step,
                samples=row.samples,
                total_samples=row.total_samples,
                value=row.value,
                also=row.also or {},
                seconds=row.seconds,
                ended_at=row.ended_at,
                checkpoints=checkpoints.get(row.id, ()),
                steps=steps.get(row.id, ()),
                evaluations=evaluations.get(row.id, ()),
                pinned=row.pinned,
                parent=row.parent,
                reused_from=row.reused_from,
                fingerprint=row.fingerprint,
                attempts=attempts.get(row.id, ()),
            )
            for row in found
        ),
        decisions=decisions.load(session, sweep_id),
    )
