"""Steps, evaluations and checkpoints: written in batches, read as curves.

Each point belongs to the attempt that computed it. Where a later attempt computes a point again,
the earlier one stays but is marked superseded, and counts nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Table,
    and_,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from orchestrator.errors import Conflict
from orchestrator.store import pieces
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import AttemptRow, CheckpointRow
from orchestrator.store.schema import attempts, checkpoints, evaluations, metrics, trials
from orchestrator.store.scores import combine
from trainer.metrics import CheckpointRecord, Evaluation, StepRecord
from winnow.types import EvaluationPoint, Scores, TrialState

# --- writing (inside a driver's transaction) --------------------------------------------------


def insert_steps(
    session: WriteSession, trial_id: str, attempt: int, steps: Sequence[StepRecord]
) -> None:
    if not steps:
        return
    rows = [(trial_id, attempt, *_cells(s)) for s in steps]
    try:
        session.insert_rows(metrics, _STORED, rows)
    except IntegrityError as error:
        raise Conflict(
            f"Trial {trial_id}: a step between {steps[0].step} and {steps[-1].step} "
            f"is already stored; attempt {attempt} must not report it again."
        ) from error


STEP = tuple(field.name for field in fields(StepRecord))
"""Columns of a step, as the trainer names them."""
_STORED = ("trial_id", "attempt", *STEP)
_cells_of = attrgetter(*STEP)
_MEASURED = tuple(STEP.index(n) for n in ("loss", "grad_norm", "mfu", "grad_sq", "noise"))
"""What may not be finite."""


def _cells(step: StepRecord) -> tuple[Any, ...]:
    cells = _cells_of(step)
    if all(cells[at] is None or math.isfinite(cells[at]) for at in _MEASURED):
        return cells
    return tuple(finite_or_none(v) if at in _MEASURED else v for at, v in enumerate(cells))


def insert_evaluations(
    session: WriteSession, trial_id: str, attempt: int, measured: Sequence[Evaluation]
) -> None:
    """Store evaluations. One that an earlier attempt made at the same step is superseded: a run
    that resumes exactly at a rung may measure it again."""
    if not measured:
        return
    supersede(
        session, evaluations, trial_id, attempt, evaluations.c.step.in_({e.step for e in measured})
    )
    rows = [
        {
            "trial_id": trial_id,
            "attempt": attempt,
            "step": e.step,
            "samples": e.samples,
            "split": e.split,
            "dataset": e.dataset,
            "loss": finite_or_none(e.loss),
            "tokens": e.tokens,
            "exact_match": finite_or_none(e.exact_match),
            "generated": e.generated,
            "seconds": e.seconds,
            "scores": {name: v for name, v in e.scores.items() if math.isfinite(v)},
        }
        for e in measured
    ]
    try:
        session.execute(insert(evaluations), rows)
    except IntegrityError as error:
        raise Conflict(
            f"Trial {trial_id}: attempt {attempt} has already reported one of these evaluations."
        ) from error


def insert_checkpoints(
    session: WriteSession, trial_id: str, attempt: int, written: Sequence[CheckpointRecord]
) -> None:
    if not written:
        return
    rows = [{"trial_id": trial_id, "attempt": attempt, **c.asdict()} for c in written]
    try:
        session.execute(insert(checkpoints), rows)
    except IntegrityError as error:
        raise Conflict(
            f"Trial {trial_id}: attempt {attempt} has already reported one of these checkpoints."
        ) from error


def copy(session: WriteSession, source_id: str, trial_id: str) -> None:
    """Give attempt 1 of a trial the points that count of another one."""
    for table in (metrics, evaluations):
        names = [c.name for c in table.columns if c.name not in ("trial_id", "attempt")]
        taken = select(literal(trial_id), literal(1), *(table.c[name] for name in names)).where(
            table.c.trial_id == source_id, ~table.c.superseded
        )
        session.execute(insert(table).from_select(["trial_id", "attempt", *names], taken))
    pieces.seal(session, trial_id, done=True)


def supersede(
    session: WriteSession, table: Table, trial_id: str, attempt: int, which: ColumnElement[bool]
) -> None:
    """Mark rows of attempts before `attempt` as computed again."""
    if attempt == 1:
        return
    session.execute(
        update(table)
        .where(
            table.c.trial_id == trial_id,
            table.c.attempt < attempt,
            ~table.c.superseded,
            which,
        )
        .values(superseded=True)
    )


def supersede_beyond(session: WriteSession, trial_id: str, attempt: int, step: int) -> None:
    """Attempt `attempt` goes on after `step`: what earlier ones did beyond it no longer counts."""
    pieces.cut(session, trial_id, step)
    for table in (metrics, evaluations, checkpoints):
        supersede(session, table, trial_id, attempt, table.c.step > step)


# --- reading ----------------------------------------------------------------------------------


def latest_scores(session: ReadSession, trial_id: str) -> Scores:
    """The last evaluation on the eval sets, combined over them."""
    live = (
        evaluations.c.trial_id == trial_id,
        evaluations.c.split == "eval",
        ~evaluations.c.superseded,
    )
    last = select(func.max(evaluations.c.step)).where(*live).scalar_subquery()
    return combine(session.rows(select(evaluations).where(*live, evaluations.c.step == last)))  # type: ignore[arg-type]


def evaluation_rows(session: ReadSession, trial_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Evaluations that count of some trials, by trial number, then step, with the fields of
    `winnow.types.EvaluationPoint`."""
    names = tuple(EvaluationPoint.model_fields)
    query = (
        select(*(evaluations.c[name] for name in names))
        .join(trials, trials.c.id == evaluations.c.trial_id)
        .where(evaluations.c.trial_id.in_(trial_ids), ~evaluations.c.superseded)
        .order_by(trials.c.number, evaluations.c.step, evaluations.c.split, evaluations.c.dataset)
    )
    return [dict(zip(names, row, strict=True)) for row in session.rows(query)]


def load_steps(
    session: ReadSession, sweep_id: str, trial_id: str | None = None
) -> dict[str, tuple[StepRecord, ...]]:
    """All steps that count, by trial, as the trainer reported them."""
    names = list(StepRecord.__dataclass_fields__)
    query = _live(metrics, names, sweep_id, trial_id).order_by(metrics.c.trial_id, metrics.c.step)
    return _by_trial(session, query, StepRecord)


def load_evaluations(
    session: ReadSession, sweep_id: str, trial_id: str | None = None
) -> dict[str, tuple[Evaluation, ...]]:
    """All evaluations that count, by trial, by rising step."""
    names = list(Evaluation.__dataclass_fields__)
    query = _live(evaluations, names, sweep_id, trial_id).order_by(
        evaluations.c.trial_id, evaluations.c.step, evaluations.c.split, evaluations.c.dataset
    )
    return _by_trial(session, query, Evaluation)


def load_checkpoints(
    session: ReadSession, sweep_id: str
) -> dict[str, tuple[CheckpointRecord, ...]]:
    """The checkpoints that can be resumed from, by trial, newest first."""
    names = list(CheckpointRecord.__dataclass_fields__)
    query = (
        _live(checkpoints, names, sweep_id)
        .where(checkpoints.c.kind == "state", ~checkpoints.c.damaged, ~checkpoints.c.deleted)
        .order_by(checkpoints.c.trial_id, checkpoints.c.step.desc(), checkpoints.c.attempt.desc())
    )
    return _by_trial(session, query, CheckpointRecord)


def checkpoint_rows(session: ReadSession, sweep_id: str) -> list[CheckpointRow]:
    """All checkpoints of a sweep, by trial and attempt."""
    names = ("attempt", "step", "kind", "path", "superseded", "damaged", "deleted")
    query = (
        select(checkpoints.c.trial_id, *(checkpoints.c[name] for name in names))
        .join(trials, trials.c.id == checkpoints.c.trial_id)
        .where(trials.c.sweep_id == sweep_id)
        .order_by(checkpoints.c.trial_id, checkpoints.c.attempt, checkpoints.c.step)
    )
    return [CheckpointRow(*row) for row in session.rows(query)]


def load_attempts(session: ReadSession, sweep_id: str) -> dict[str, tuple[AttemptRow, ...]]:
    """All attempts by trial, oldest first, with how far each came."""
    reached = (
        select(metrics.c.trial_id, metrics.c.attempt, func.max(metrics.c.step).label("step"))
        .join(trials, trials.c.id == metrics.c.trial_id)
        .where(trials.c.sweep_id == sweep_id)
        .group_by(metrics.c.trial_id, metrics.c.attempt)
        .subquery()
    )
    query = (
        select(attempts, func.coalesce(reached.c.step, attempts.c.first_step - 1).label("step"))
        .join(trials, trials.c.id == attempts.c.trial_id)
        .outerjoin(
            reached,
            and_(
                reached.c.trial_id == attempts.c.trial_id,
                reached.c.attempt == attempts.c.attempt,
            ),
        )
        .where(trials.c.sweep_id == sweep_id)
        .order_by(attempts.c.trial_id, attempts.c.attempt)
    )
    return {
        trial_id: tuple(
            AttemptRow(
                attempt=row.attempt,
                state=TrialState(row.state),
                reason=row.reason,
                first_step=row.first_step,
                step=row.step,
                resumed_from=row.resumed_from,
                notes=row.notes or {},
                started_at=row.started_at,
                ended_at=row.ended_at,
            )
            for row in group
        )
        for trial_id, group in groupby(session.rows(query), key=lambda row: row.trial_id)
    }


def _live(table: Table, names: Sequence[str], sweep_id: str, trial_id: str | None = None) -> Any:
    query = (
        select(table.c.trial_id, *(table.c[name] for name in names))
        .join(trials, trials.c.id == table.c.trial_id)
        .where(and_(trials.c.sweep_id == sweep_id, ~table.c.superseded))
    )
    return query if trial_id is None else query.where(table.c.trial_id == trial_id)


def _by_trial(session: ReadSession, query: Any, kind: type) -> dict[str, tuple[Any, ...]]:
    return {
        trial_id: tuple(kind(*row[1:]) for row in group)
        for trial_id, group in groupby(session.rows(query), key=lambda row: row[0])
    }


def finite_or_none(value: float | None) -> float | None:
    """PostgreSQL would store a NaN, and JSON can't carry it."""
    return value if value is not None and math.isfinite(value) else None
