"""Trials and their attempts: reading them, and moving them from state to state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import Row

from orchestrator.errors import Conflict, NotFound
from orchestrator.redaction import clean
from orchestrator.states import check_trial_move
from orchestrator.store.clock import now
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.schema import attempts, sweeps, trials
from winnow.types import Page, Trial, TrialKind, TrialState

# --- reading ----------------------------------------------------------------------------------

_SHOWN = [trials.c[name] for name in Trial.model_fields]
"""Without the configuration, which is as large as all the rest."""
_BY_ID = select(trials).where(trials.c.id == bindparam("of"))


def get(session: ReadSession, trial_id: str) -> Trial:
    return _trial(row_of(session, trial_id))


def page(
    session: ReadSession,
    sweep_id: str,
    states: Sequence[TrialState] | None,
    kinds: Sequence[TrialKind] | None,
    limit: int,
    after: str | None,
) -> Page[Trial]:
    """Trials by number. `after` is the previous page's `next`."""
    query = select(*_SHOWN).where(trials.c.sweep_id == sweep_id)
    if states is not None:
        query = query.where(trials.c.state.in_(states))
    if kinds is not None:
        query = query.where(trials.c.kind.in_(kinds))
    if after is not None:
        if not after.isdecimal():
            raise NotFound("page of trials after", after)
        query = query.where(trials.c.number > int(after))
    rows = session.rows(query.order_by(trials.c.number).limit(limit + 1))
    following = str(rows[limit - 1].number) if len(rows) > limit else None
    return Page[Trial](items=[_trial(row) for row in rows[:limit]], next=following)


def changed_since(session: ReadSession, sweep_id: str, version: int) -> tuple[list[Trial], int]:
    """Trials that changed after `version`, and the version to ask with next."""
    rows = session.rows(
        select(*_SHOWN, trials.c.version)
        .where(trials.c.sweep_id == sweep_id, trials.c.version > version)
        .order_by(trials.c.number)
    )
    return [_trial(row) for row in rows], max((row.version for row in rows), default=version)


def project_of(session: ReadSession, trial_id: str) -> str:
    query = select(sweeps.c.project_id).join(trials, trials.c.sweep_id == sweeps.c.id)
    project = session.scalar(query.where(trials.c.id == trial_id))
    if project is None:
        raise NotFound("trial", trial_id)
    return project


def row_of(session: ReadSession, trial_id: str, sweep_id: str | None = None) -> Row[Any]:
    """The stored row; NotFound also if the trial belongs to another sweep than `sweep_id`."""
    row = session.first(_BY_ID, {"of": trial_id})
    if row is None or (sweep_id is not None and row.sweep_id != sweep_id):
        raise NotFound("trial", trial_id)
    return row


def completed_twin(
    session: ReadSession, project: str, fingerprint: str, sweep_id: str
) -> str | None:
    """See `Store.completed_twin`. One that took its result over itself will do as well."""
    query = (
        select(trials.c.id)
        .join(sweeps, sweeps.c.id == trials.c.sweep_id)
        .where(
            trials.c.fingerprint == fingerprint,
            trials.c.state == TrialState.COMPLETED,
            trials.c.value.is_not(None),
            sweeps.c.project_id == project,
        )
        .order_by((trials.c.sweep_id == sweep_id).desc(), trials.c.ended_at.desc(), trials.c.id)
        .limit(1)
    )
    return session.scalar(query)


def reused(session: ReadSession, sweep_id: str) -> set[str]:
    """Trials of the sweep whose result another trial, of whatever sweep, has taken over."""
    other = trials.alias("other")
    query = (
        select(trials.c.id)
        .join(other, other.c.reused_from == trials.c.id)
        .where(trials.c.sweep_id == sweep_id)
        .distinct()
    )
    return {row.id for row in session.rows(query)}


def most_at_once(session: ReadSession, sweep_id: str) -> int:
    """The largest number of search trials' attempts that ran at one moment."""
    query = (
        select(attempts.c.started_at, attempts.c.ended_at)
        .join(trials, trials.c.id == attempts.c.trial_id)
        .where(
            trials.c.sweep_id == sweep_id,
            trials.c.kind == "search",
            attempts.c.ended_at.is_not(None),
        )
    )
    # An end comes before a start at the same moment: the slot was handed on.
    moves = sorted(
        move for row in session.rows(query) for move in ((row.started_at, 1), (row.ended_at, -1))
    )
    return max(accumulate(change for _, change in moves), default=0)


def _trial(row: Row[Any]) -> Trial:
    return Trial.model_validate(dict(row._mapping) | {"also": row.also or {}})


# --- moving (inside a driver's transaction) ---------------------------------------------------


def move(
    session: WriteSession,
    row: Row[Any],
    target: TrialState,
    revision: int,
    *,
    reason: str | None = None,
    message: str | None = None,
    columns: Mapping[str, Any] | None = None,
) -> None:
    """Take a trial from the state in `row` to `target`, with its event; set `columns` too.

    Raises InvalidTransition if that isn't legal, Conflict if the trial has moved meanwhile.
    """
    current = TrialState(row.state)
    check_trial_move(row.id, current, target)
    set_too = {"why_pending": None} | dict(columns or {})
    set_too["ended_at"] = now() if target.ended else None
    moved = session.execute(
        update(trials)
        .where(trials.c.id == row.id, trials.c.state == current)
        .values(
            state=target, version=revision, reason=reason, message=printable(message), **set_too
        )
    )
    if moved.rowcount != 1:
        raise Conflict(f"Trial {row.id} is no longer {current}.")
    session.emit(
        row.sweep_id,
        "trial.state",
        {
            "number": row.number,
            "kind": row.kind,
            "from": current,
            "to": target,
            "reason": reason,
            "message": printable(message),
            "value": set_too.get("value"),
        },
        row.id,
    )


def open_attempt(
    session: WriteSession, row: Row[Any], epoch: int, resumed_from: str | None, first_step: int
) -> int:
    """The next attempt of a trial, as RUNNING. Returns its number, from 1."""
    attempt = row.attempt + 1
    session.execute(
        insert(attempts).values(
            trial_id=row.id,
            attempt=attempt,
            id=f"{row.id}-a{attempt}",
            epoch=epoch,
            state=TrialState.RUNNING,
            resumed_from=resumed_from,
            first_step=first_step,
        )
    )
    return attempt


def close_attempt(
    session: WriteSession,
    row: Row[Any],
    target: TrialState,
    reason: str | None,
    message: str | None,
    *,
    attempt: int | None = None,
) -> None:
    """Close the live attempt of a trial: it ended by taking the trial to `target`."""
    session.execute(
        update(attempts)
        .where(
            attempts.c.trial_id == row.id,
            attempts.c.attempt == (row.attempt if attempt is None else attempt),
            attempts.c.ended_at.is_(None),
        )
        .values(state=target, reason=reason, message=printable(message), ended_at=now())
    )


def put_back_running(session: WriteSession, sweep_id: str, revision: int) -> None:
    """The driver is gone and its workers with it: running trials wait to be run again."""
    running = select(trials).where(
        trials.c.sweep_id == sweep_id, trials.c.state == TrialState.RUNNING
    )
    message = "Its driver was replaced; it goes on from its last checkpoint."
    for row in session.rows(running):
        close_attempt(session, row, TrialState.PENDING, "infrastructure", message)
        move(
            session,
            row,
            TrialState.PENDING,
            revision,
            reason="infrastructure",
            message=message,
        )


LONGEST = 20_000
"""Characters of a message or a traceback that are kept. A worker may hand over anything."""


def printable(text: str | None) -> str | None:
    """`text` without secrets, and without what a database refuses: NUL and lone surrogates. Of one
    that is too long, its end is kept: a traceback's last lines say what happened."""
    if text is None:
        return None
    if len(text) > LONGEST:
        # Cleaned before it is cut to its length, so that no half of a secret is left.
        text = "…" + clean(text[-2 * LONGEST :])[-LONGEST:]
    return clean(text).encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
