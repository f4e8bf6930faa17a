"""What users ask of running sweeps: rows that the sweep's driver drains."""

from __future__ import annotations

from typing import get_args

from sqlalchemy import insert, select, update

from orchestrator.errors import Conflict, NotFound
from orchestrator.store import sweeps as sweep_rows
from orchestrator.store import trials as trial_rows
from orchestrator.store.clock import now
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Command, CommandKind
from orchestrator.store.schema import commands
from winnow.types import SweepState, TrialState


def add(
    session: WriteSession, sweep_id: str, trial_id: str | None, kind: CommandKind, by: str
) -> Command:
    """Ask for something. The same request that still waits is returned instead of a second one."""
    if kind not in get_args(CommandKind) or (kind == "stop") != (trial_id is not None):
        raise ValueError("a trial can be stopped and a sweep canceled")
    sweep = sweep_rows.locked(session, sweep_id)
    if SweepState(sweep.state).ended:
        raise Conflict(f"Sweep {sweep_id} has ended: it is {sweep.state}.")
    if trial_id is not None:
        trial = trial_rows.row_of(session, trial_id, sweep_id)
        if TrialState(trial.state).ended:
            raise Conflict(f"Trial {trial_id} has ended: it is {trial.state}.")
    waiting = session.first(
        select(commands).where(
            commands.c.sweep_id == sweep_id,
            commands.c.trial_id.is_(None) if trial_id is None else commands.c.trial_id == trial_id,
            commands.c.kind == kind,
            commands.c.finished_at.is_(None),
        )
    )
    if waiting is None:
        waiting = session.execute(
            insert(commands)
            .values(sweep_id=sweep_id, trial_id=trial_id, kind=kind, issued_by=by)
            .returning(*commands.c)
        ).one()
        session.emit(sweep_id, "command", {"id": waiting.id, "kind": kind, "by": by}, trial_id)
    return _command(waiting)


def pending(session: ReadSession, sweep_id: str) -> list[Command]:
    """Commands that wait to be carried out, the oldest first."""
    query = (
        select(commands)
        .where(commands.c.sweep_id == sweep_id, commands.c.finished_at.is_(None))
        .order_by(commands.c.id)
    )
    return [_command(row) for row in session.rows(query)]


def finish(session: WriteSession, command_id: int, result: str) -> None:
    """Say what became of a command. A finished one keeps its first result."""
    row = session.first(select(commands).where(commands.c.id == command_id))
    if row is None:
        raise NotFound("command", command_id)
    finished = session.execute(
        update(commands)
        .where(commands.c.id == command_id, commands.c.finished_at.is_(None))
        .values(result=result, finished_at=now())
    )
    if finished.rowcount == 1:
        session.emit(
            row.sweep_id,
            "command",
            {"id": row.id, "kind": row.kind, "by": row.issued_by, "result": result},
            row.trial_id,
        )


def finish_all(session: WriteSession, sweep_id: str, result: str) -> None:
    """The sweep has ended: nothing is left to carry out."""
    for command in pending(session, sweep_id):
        finish(session, command.id, result)


def _command(row) -> Command:
    return Command(row.id, row.sweep_id, row.trial_id, row.kind, row.issued_by, row.created_at)
