"""What users ask of running sweeps: rows that the sweep's driver drains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Row

from orchestrator.errors import Conflict, NotFound
from orchestrator.store import sweeps as sweep_rows
from orchestrator.store import trials as trial_rows
from orchestrator.store.clock import now
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.records import Command
from orchestrator.store.schema import commands
from winnow import types
from winnow.types import CommandKind, SweepState, TrialState

_OF_A_TRIAL = ("stop", "pause", "resume", "revive", "pin", "unpin", "clone")
_OF_A_SWEEP = ("cancel", "pause", "resume", "add", "extend", "narrow", "set")
_REPEATABLE = ("clone", "add", "extend", "narrow", "set")
"""Two equal requests of these are two wishes."""


def add(
    session: WriteSession,
    sweep_id: str,
    trial_id: str | None,
    kind: CommandKind,
    by: str,
    payload: Mapping[str, Any] | None = None,
) -> Command:
    """Ask for something. The same request that still waits is returned instead of a second one."""
    if kind not in (_OF_A_SWEEP if trial_id is None else _OF_A_TRIAL):
        raise ValueError(f"{kind} is not a command of a {'sweep' if trial_id is None else 'trial'}")
    sweep = sweep_rows.locked(session, sweep_id)
    if trial_id is None:
        _check_sweep(sweep_id, SweepState(sweep.state), kind)
    else:
        _check_trial(trial_rows.row_of(session, trial_id, sweep_id), kind)
    waiting = None
    if kind not in _REPEATABLE:
        waiting = session.first(
            select(commands).where(
                commands.c.sweep_id == sweep_id,
                commands.c.trial_id.is_(None)
                if trial_id is None
                else commands.c.trial_id == trial_id,
                commands.c.kind == kind,
                commands.c.finished_at.is_(None),
            )
        )
    if waiting is None:
        waiting = session.execute(
            insert(commands)
            .values(
                sweep_id=sweep_id,
                trial_id=trial_id,
                kind=kind,
                payload=None if payload is None else dict(payload),
                issued_by=by,
            )
            .returning(*commands.c)
        ).one()
        session.emit(sweep_id, "command", _told(waiting), trial_id)
    return _command(waiting)


def _check_sweep(sweep_id: str, state: SweepState, kind: CommandKind) -> None:
    """Raise Conflict if a sweep in this state can't do what is asked."""
    if kind == "resume" and state is not SweepState.PAUSED:
        raise Conflict(f"Sweep {sweep_id} is {state}, not PAUSED.")
    if kind in ("cancel", "pause") and state.ended:
        raise Conflict(f"Sweep {sweep_id} has ended: it is {state}.")
    if kind == "pause" and state is SweepState.PAUSED:
        raise Conflict(f"Sweep {sweep_id} is PAUSED already.")


def _check_trial(trial: Row[Any], kind: CommandKind) -> None:
    """Raise Conflict if a trial in this state can't do what is asked."""
    state = TrialState(trial.state)
    if trial.kind != "search" and kind != "stop":
        raise Conflict(f"Trial {trial.id} measures only ({trial.kind}); it can't {kind}.")
    if kind == "revive":
        if not state.ended or state is TrialState.COMPLETED:
            raise Conflict(
                f"Trial {trial.id} is {state}; one that was stopped, failed or canceled can be "
                "revived."
            )
    elif kind == "resume":
        if state is not TrialState.PAUSED:
            raise Conflict(f"Trial {trial.id} is {state}, not PAUSED.")
    elif kind in ("stop", "pause", "pin") and state.ended:
        raise Conflict(f"Trial {trial.id} has ended: it is {state}.")


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
        session.emit(row.sweep_id, "command", _told(row) | {"result": result}, row.trial_id)


def finish_all(session: WriteSession, sweep_id: str, result: str) -> None:
    """The sweep has ended: nothing is left to carry out."""
    for command in pending(session, sweep_id):
        finish(session, command.id, result)


def get(session: ReadSession, command_id: int) -> types.Command:
    """One command, as it stands."""
    row = session.first(select(commands).where(commands.c.id == command_id))
    if row is None:
        raise NotFound("command", command_id)
    return types.Command.model_validate(dict(row._mapping))


def listed(session: ReadSession, sweep_id: str, after_id: int, limit: int) -> list[types.Command]:
    """Commands in their order, those after `after_id`."""
    query = (
        select(commands)
        .where(commands.c.sweep_id == sweep_id, commands.c.id > after_id)
        .order_by(commands.c.id)
        .limit(limit)
    )
    return [types.Command.model_validate(dict(row._mapping)) for row in session.rows(query)]


def _told(row: Row[Any]) -> dict[str, Any]:
    """A command as its event tells it."""
    told = {"id": row.id, "kind": row.kind, "by": row.issued_by}
    return told if row.payload is None else told | {"payload": row.payload}


def _command(row: Row[Any]) -> Command:
    return Command(
        row.id,
        row.sweep_id,
        row.trial_id,
        row.kind,
        row.issued_by,
        row.created_at,
        row.payload or {},
    )
