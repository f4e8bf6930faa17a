"""Sweeps: creating, reading with their summaries, and moving from state to state."""

from __future__ import annotations

import secrets
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, and_, func, insert, or_, select, update
from sqlalchemy.engine import Row

from orchestrator.analysis import pareto_front
from orchestrator.errors import Conflict, NotFound
from orchestrator.states import check_sweep_move
from orchestrator.store import projects
from orchestrator.store.clock import now
from orchestrator.store.database import ReadSession, WriteSession
from orchestrator.store.memory import Recent
from orchestrator.store.records import FinishedSweep
from orchestrator.store.schema import DEFAULT_PROJECT, evaluations, sweeps, trials
from orchestrator.store.scores import combine
from orchestrator.store.trials import printable
from winnow.types import Page, Scores, Sweep, SweepState, SweepSummary, TrialState

_ID_LENGTH = 10


def new_id() -> str:
    """10 random characters of [a-z0-9], the first a letter (51 bits)."""
    rest = string.ascii_lowercase + string.digits
    return secrets.choice(string.ascii_lowercase) + "".join(
        secrets.choice(rest) for _ in range(_ID_LENGTH - 1)
    )


def create(
    session: WriteSession,
    sweep_id: str,
    name: str,
    spec: dict[str, Any],
    planned: int,
    facts: dict[str, Any],
) -> None:
    project = spec.get("project") or DEFAULT_PROJECT
    projects.row_of(session, project)
    sharing, resources = spec.get("sharing") or {}, spec.get("resources") or {}
    session.execute(
        insert(sweeps).values(
            id=sweep_id,
            project_id=project,
            name=name,
            spec=spec,
            facts=facts,
            planned=planned,
            state=SweepState.QUEUED,
            revision=0,
            epoch=0,
            priority=sharing.get("priority", 0),
            weight=sharing.get("weight", 1.0),
            max_concurrent=resources.get("max_concurrent"),
            budget={k: v for k, v in (spec.get("budget") or {}).items() if v is not None} or None,
        )
    )
    session.emit(sweep_id, "sweep.created", {"name": name, "planned": planned})


def current_spec(session: ReadSession, sweep_id: str) -> dict[str, Any]:
    """See `Store.current_spec`."""
    row = row_of(session, sweep_id)
    spec = dict(row.spec)
    spec["resources"] = (spec.get("resources") or {}) | {"max_concurrent": row.max_concurrent}
    spec["sharing"] = {"priority": row.priority, "weight": row.weight}
    spec["budget"] = row.budget or {}
    if row.space is not None:
        spec["space"] = (spec.get("space") or {}) | row.space
    return spec


def get(session: ReadSession, sweep_id: str) -> Sweep:
    return _with_summaries(session, [row_of(session, sweep_id)])[0]


def project_of(session: ReadSession, sweep_id: str) -> str:
    project = session.scalar(select(sweeps.c.project_id).where(sweeps.c.id == sweep_id))
    if project is None:
        raise NotFound("sweep", sweep_id)
    return project


@dataclass(frozen=True, slots=True)
class Listing:
    """Which sweeps, and in what order. None: all."""

    project: str | None = None
    states: Sequence[SweepState] | None = None
    name: str | None = None
    """A part of it, in any case."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    sort: Literal["-created_at", "created_at", "name", "-name"] = "-created_at"


def page(session: ReadSession, limit: int, after: str | None, wanted: Listing) -> Page[Sweep]:
    """`after` is the previous page's `next`: the sweep that the page begins after."""
    query = select(sweeps)
    if wanted.project is not None:
        query = query.where(sweeps.c.project_id == wanted.project)
    if wanted.states is not None:
        query = query.where(sweeps.c.state.in_(wanted.states))
    if wanted.name is not None:
        query = query.where(
            func.lower(sweeps.c.name).contains(wanted.name.lower(), autoescape=True)
        )
    if wanted.created_after is not None:
        query = query.where(sweeps.c.created_at >= wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(sweeps.c.created_at < wanted.created_before)
    by = sweeps.c.name if wanted.sort.endswith("name") else sweeps.c.created_at
    falling = wanted.sort.startswith("-")
    if after is not None:
        last = session.first(
            select(by.label("key"), sweeps.c.id, sweeps.c.project_id).where(sweeps.c.id == after)
        )
        if last is None or wanted.project not in (None, last.project_id):
            raise NotFound("page of sweeps after", after)
        beyond = by < last.key if falling else by > last.key
        further = sweeps.c.id < last.id if falling else sweeps.c.id > last.id
        query = query.where(or_(beyond, and_(by == last.key, further)))
    order = (by.desc(), sweeps.c.id.desc()) if falling else (by, sweeps.c.id)
    rows = session.rows(query.order_by(*order).limit(limit + 1))
    following = rows[limit - 1].id if len(rows) > limit else None
    return Page[Sweep](items=_with_summaries(session, rows[:limit]), next=following)


def row_of(session: ReadSession, sweep_id: str) -> Row[Any]:
    row = session.first(select(sweeps).where(sweeps.c.id == sweep_id))
    if row is None:
        raise NotFound("sweep", sweep_id)
    return row


def locked(session: WriteSession, sweep_id: str) -> Row[Any]:
    """The sweep's row, which no other transaction can change until this one ends."""
    row = session.first(
        select(sweeps).where(sweeps.c.id == sweep_id).with_for_update(key_share=True)
    )
    if row is None:
        raise NotFound("sweep", sweep_id)
    return row


def move(session: WriteSession, row: Row[Any], target: SweepState, message: str | None) -> None:
    """Take a sweep from the state in `row` to `target`, with its event.

    Raises InvalidTransition if that isn't legal, Conflict if the sweep has moved meanwhile.
    """
    current = SweepState(row.state)
    check_sweep_move(row.id, current, target)
    message = printable(message)
    columns: dict[str, Any] = {"state": target, "message": message}
    if target is SweepState.RUNNING and row.started_at is None:
        columns["started_at"] = now()
    columns["ended_at"] = now() if target.ended else None
    if target is not SweepState.RUNNING:
        columns |= {"slots": None, "why_pending": None}
    moved = session.execute(
        update(sweeps).where(sweeps.c.id == row.id, sweeps.c.state == current).values(**columns)
    )
    if moved.rowcount != 1:
        raise Conflict(f"Sweep {row.id} is no longer {current}.")
    session.emit(row.id, "sweep.state", {"from": current, "to": target, "message": message})


def keep(session: WriteSession, sweep_id: str, **columns: Any) -> None:
    """Set columns that no state hangs on."""
    session.execute(update(sweeps).where(sweeps.c.id == sweep_id).values(**columns))


def finished_before(session: ReadSession, sweep_id: str, limit: int) -> list[FinishedSweep]:
    """See `Store.finished_before`."""
    this = row_of(session, sweep_id)
    query = select(sweeps.c.id, sweeps.c.spec, sweeps.c.facts).where(
        sweeps.c.project_id == this.project_id,
        sweeps.c.state == SweepState.COMPLETED,
        sweeps.c.id != sweep_id,
    )
    if this.started_at is not None:
        query = query.where(sweeps.c.ended_at <= this.started_at)
    newest_first = query.order_by(sweeps.c.ended_at.desc(), sweeps.c.id.desc()).limit(limit)
    return [FinishedSweep(row.id, row.spec, row.facts) for row in session.rows(newest_first)]


# --- summaries --------------------------------------------------------------------------------


_remembered: WeakKeyDictionary[Engine, Recent[tuple[str, int], SweepSummary]] = WeakKeyDictionary()
"""By sweep and revision. Whatever a summary is made of is written together with a new revision,
but for `planned`."""


def _with_summaries(session: ReadSession, rows: Sequence[Row[Any]]) -> list[Sweep]:
    """The sweeps with where they stand."""
    summaries = _summed_up(session, rows)
    return [
        Sweep.model_validate(
            dict(row._mapping)
            | {
                "project": row.project_id,
                "budget": (row.account or {}).get("spending", []),
                "summary": summaries[row.id].model_copy(update={"planned": row.planned}),
            }
        )
        for row in rows
    ]


def _summed_up(session: ReadSession, rows: Sequence[Row[Any]]) -> dict[str, SweepSummary]:
    """Summaries by sweep: five queries, however many sweeps, for those that moved on."""
    recent = _remembered.setdefault(session.engine, Recent(2000))
    known = {row.id: recent.get((row.id, row.revision)) for row in rows}
    found = {sweep_id: summary for sweep_id, summary in known.items() if summary is not None}
    rows = [row for row in rows if row.id not in found]
    if not rows:
        return found
    ids = [row.id for row in rows]
    counts = _counts(session, ids)
    best = {row.id: None for row in rows} | _best(session, rows)
    judged = _judging_trials(session, ids)
    wanted = {b.id for b in best.values() if b is not None} | {
        t.id for ts in judged.values() for t in ts
    }
    measured = _final_evaluations(session, wanted)
    fronts = _fronts(session, rows)
    for row in rows:
        front = fronts.get(row.id, [])
        found[row.id] = _summary(row, counts[row.id], best[row.id], judged[row.id], measured, front)
        if not isinstance(session, WriteSession):  # what that one sees may never be committed
            recent.keep((row.id, row.revision), found[row.id])
    return found


def _summary(
    row: Row[Any],
    counts: Sequence[Row[Any]],
    best: Row[Any] | None,
    judged: Sequence[Row[Any]],
    measured: dict[str, dict[str, list[Row[Any]]]],
    front: list[str],
) -> SweepSummary:
    search = [c for c in counts if c.kind == "search"]
    baseline: dict[str, Scores] = {}
    reported: dict[str, Scores] = {}
    for trial in judged:
        if trial.kind == "baseline":
            baseline |= _scores(measured, trial.id)
        elif best is not None and trial.params.get("trial", best.id) == best.id:
            reported |= _scores(measured, trial.id)
    winner = {} if best is None else reported | _scores(measured, best.id)
    return SweepSummary(
        trials=sum(c.trials for c in search),
        planned=row.planned,
        by_state={c.state: c.trials for c in search},
        samples_trained=sum(int(c.samples) for c in search),
        samples_full=sum(int(c.total_samples) for c in search),
        seconds=sum(c.seconds for c in counts),
        best_trial=None if best is None else best.id,
        best_value=None if best is None else best.value,
        front=front,
        baseline=baseline,
        winner=winner,
    )


def _scores(measured: dict[str, dict[str, list[Row[Any]]]], trial_id: str) -> dict[str, Scores]:
    return {split: combine(rows) for split, rows in measured.get(trial_id, {}).items()}  # type: ignore[arg-type]


def _counts(session: ReadSession, ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """Per sweep: trials, samples and seconds by kind and state."""
    query = (
        select(
            trials.c.sweep_id,
            trials.c.kind,
            trials.c.state,
            func.count().label("trials"),
            func.sum(trials.c.samples).label("samples"),
            func.sum(trials.c.total_samples).label("total_samples"),
            func.sum(trials.c.seconds).label("seconds"),
        )
        .where(trials.c.sweep_id.in_(ids))
        .group_by(trials.c.sweep_id, trials.c.kind, trials.c.state)
        .order_by(trials.c.state)
    )
    return _grouped(session.rows(query))


def _best(session: ReadSession, rows: Sequence[Row[Any]]) -> dict[str, Row[Any]]:
    """Per sweep: its best completed search trial, the first of equal ones."""
    found: dict[str, Row[Any]] = {}
    for mode in ("min", "max"):
        ids = [r.id for r in rows if (r.spec.get("objective") or {}).get("mode", "min") == mode]
        if not ids:
            continue
        order = trials.c.value.asc() if mode == "min" else trials.c.value.desc()
        rank = func.row_number().over(
            partition_by=trials.c.sweep_id, order_by=[order, trials.c.number]
        )
        ranked = (
            select(trials.c.sweep_id, trials.c.id, trials.c.value, rank.label("rank"))
            .where(
                trials.c.sweep_id.in_(ids),
                trials.c.kind == "search",
                trials.c.state == TrialState.COMPLETED,
                trials.c.value.is_not(None),
            )
            .subquery()
        )
        for best in session.rows(select(ranked).where(ranked.c.rank == 1)):
            found[best.sweep_id] = best
    return found


def _fronts(session: ReadSession, rows: Sequence[Row[Any]]) -> dict[str, list[str]]:
    """Per sweep with several objectives: its completed search trials that none beats in all."""
    several = {
        row.id: row.spec["objective"]
        for row in rows
        if (row.spec.get("objective") or {}).get("also")
    }
    if not several:
        return {}
    query = (
        select(trials.c.sweep_id, trials.c.id, trials.c.value, trials.c.also)
        .where(
            trials.c.sweep_id.in_(several),
            trials.c.kind == "search",
            trials.c.state == TrialState.COMPLETED,
        )
        .order_by(trials.c.number)
    )
    found: dict[str, list[str]] = {}
    for sweep_id, completed in _grouped(session.rows(query)).items():
        objective = several[sweep_id]
        names = [further["metric"] for further in objective["also"]]
        signs = [
            -1.0 if which.get("mode") == "max" else 1.0 for which in (objective, *objective["also"])
        ]
        found[sweep_id] = pareto_front(
            {t.id: (t.value, *((t.also or {}).get(name) for name in names)) for t in completed},
            signs,
        )
    return found


def _judging_trials(session: ReadSession, ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """Per sweep: its completed baseline and report trials."""
    query = (
        select(trials.c.sweep_id, trials.c.id, trials.c.kind, trials.c.params)
        .where(
            trials.c.sweep_id.in_(ids),
            trials.c.kind.in_(("baseline", "report")),
            trials.c.state == TrialState.COMPLETED,
        )
        .order_by(trials.c.number)
    )
    return _grouped(session.rows(query))


def _final_evaluations(
    session: ReadSession, trial_ids: set[str]
) -> dict[str, dict[str, list[Row[Any]]]]:
    """Per trial and split: the evaluations at the last step at which that split was measured."""
    if not trial_ids:
        return {}
    rank = func.rank().over(
        partition_by=[evaluations.c.trial_id, evaluations.c.split],
        order_by=evaluations.c.step.desc(),
    )
    ranked = (
        select(evaluations, rank.label("rank"))
        .where(evaluations.c.trial_id.in_(trial_ids), ~evaluations.c.superseded)
        .subquery()
    )
    found: dict[str, dict[str, list[Row[Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in session.rows(select(ranked).where(ranked.c.rank == 1)):
        found[row.trial_id][row.split].append(row)
    return found


def _grouped(rows: Sequence[Row[Any]]) -> dict[str, list[Row[Any]]]:
    grouped: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        grouped[row.sweep_id].append(row)
    return grouped
