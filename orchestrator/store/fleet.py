"""How all sweeps stand, as numbers for Prometheus; and what drivers and orchestrators count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Float, and_, case, cast, func, select, update

from orchestrator.observe.tally import Figures, added
from orchestrator.store import migrations
from orchestrator.store.clock import now, seconds_since
from orchestrator.store.database import Database, ReadSession, WriteSession
from orchestrator.store.projects import held_seconds
from orchestrator.store.schema import (
    attempts,
    cluster,
    decisions,
    deliveries,
    events,
    sweeps,
    telemetry,
    trials,
    webhooks,
)
from winnow.types import SweepState, TrialState

MOST_VALUES = 50
"""Values of a label that are told apart; the rarest beyond are `other`."""

_ENDED = [state for state in TrialState if state.ended]


@dataclass(frozen=True)
class Fleet:
    """Counts by their labels' values; see the catalogue for what each is."""

    sweeps: dict[tuple[str, ...], float]
    trials: dict[tuple[str, ...], float]
    ends: dict[tuple[str, ...], float]
    stops: dict[tuple[str, ...], float]
    audited: dict[tuple[str, ...], float]
    interrupted: dict[tuple[str, ...], float]
    gpu_hours: dict[tuple[str, ...], float]
    worker_hours: dict[tuple[str, ...], float]
    cost: dict[tuple[str, ...], float]
    queue: int
    queue_oldest: float
    drivers: int
    slots: int
    resources: dict[str, float]
    heartbeat_age: float | None
    last_event: int
    deliveries: dict[tuple[str, ...], float]
    delivery_oldest: float
    webhooks: dict[tuple[str, ...], float]
    telemetry: dict[str, Figures] = field(default_factory=dict)


class FleetReader:
    """`store.fleet`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, process: str, figures: Figures) -> None:
        """Add what a process has counted to what all of its kind have."""
        self._db.transact(lambda s: _add(s, process, figures))

    def schema_version(self) -> tuple[str | None, str]:
        """The schema that the database has, and the one that this version of winnow needs."""
        with self._db.read() as session:
            return migrations.version_of(session), migrations.newest_version()

    def look(self) -> Fleet:
        """One consistent view. Reads each table once: to be asked every few seconds at most."""
        with self._db.read() as session:
            queued = session.first(
                select(
                    func.count().label("many"),
                    func.max(seconds_since(sweeps.c.created_at)).label("oldest"),
                ).where(sweeps.c.state == SweepState.QUEUED)
            )
            beat = session.first(
                select(cluster.c.resources, seconds_since(cluster.c.heartbeat).label("age"))
            )
            held, gpu, cost = _used(session)
            driven = sweeps.c.lease_expires > now()
            return Fleet(
                sweeps=_bounded(_counted(session, sweeps.c.project_id, sweeps.c.state)),
                trials=_bounded(_trials(session)),
                ends=_bounded(_ends(session)),
                stops=_bounded(
                    _counted(
                        session,
                        decisions.c.rule,
                        case((decisions.c.acted, "true"), else_="false"),
                        where=decisions.c.action == "stop",
                    )
                ),
                audited=_audited(session),
                interrupted=_bounded(
                    _counted(
                        session,
                        func.coalesce(attempts.c.reason, "none"),
                        where=and_(
                            attempts.c.ended_at.is_not(None), attempts.c.state.not_in(_ENDED)
                        ),
                    )
                ),
                gpu_hours=_bounded(gpu),
                worker_hours=_bounded(held),
                cost=_bounded(cost),
                queue=queued.many if queued is not None else 0,
                queue_oldest=max(0.0, (queued.oldest if queued is not None else None) or 0.0),
                drivers=session.scalar(select(func.count()).select_from(sweeps).where(driven)),
                slots=session.scalar(select(func.sum(sweeps.c.slots))) or 0,
                resources=dict(beat.resources) if beat is not None else {},
                heartbeat_age=None if beat is None else beat.age,
                last_event=session.scalar(select(func.max(events.c.id))) or 0,
                deliveries=_counted(session, deliveries.c.state),
                delivery_oldest=max(
                    0.0,
                    session.scalar(
                        select(func.max(seconds_since(deliveries.c.next_at))).where(
                            deliveries.c.state == "pending"
                        )
                    )
                    or 0.0,
                ),
                webhooks=_counted(session, case((webhooks.c.enabled, "enabled"), else_="disabled")),
                telemetry={row.process: row.figures for row in session.rows(select(telemetry))},
            )


def _add(session: WriteSession, process: str, figures: Figures) -> None:
    this = telemetry.c.process == process
    known = session.scalar(select(telemetry.c.figures).where(this).with_for_update())
    session.execute(update(telemetry).where(this).values(figures=added(known or {}, figures)))


def _counted(session: ReadSession, *labels: Any, where: Any = None) -> dict[tuple[str, ...], float]:
    named = [label.label(f"l{i}") for i, label in enumerate(labels)]
    query = select(*named, func.count().label("n")).group_by(*named)
    if where is not None:
        query = query.where(where)
    return {tuple(map(str, row[:-1])): row[-1] for row in session.rows(query)}


def _trials(session: ReadSession) -> dict[tuple[str, ...], float]:
    a_sweep = (
        select(trials.c.sweep_id, trials.c.state, func.count().label("n"))
        .group_by(trials.c.sweep_id, trials.c.state)
        .subquery()
    )
    query = (
        select(sweeps.c.project_id, a_sweep.c.state, func.sum(a_sweep.c.n))
        .join(sweeps, sweeps.c.id == a_sweep.c.sweep_id)
        .group_by(sweeps.c.project_id, a_sweep.c.state)
    )
    return {(p, state): float(many) for p, state, many in map(tuple, session.rows(query))}


def _ends(session: ReadSession) -> dict[tuple[str, ...], float]:
    reason = func.coalesce(trials.c.reason, "none")
    return _counted(session, trials.c.state, reason, where=trials.c.state.in_(_ENDED))


def _audited(session: ReadSession) -> dict[tuple[str, ...], float]:
    """What the schedulers' accounts say of their audits, all sweeps together."""
    found = sweeps.c.scheduler_summary["audit"]
    query = select(found.label("audit")).where(sweeps.c.scheduler_summary.is_not(None))
    agreed = false = undecided = 0
    for row in session.rows(query):
        audit = row.audit if isinstance(row.audit, Mapping) else {}
        stops = int(audit.get("audited_stops") or 0)
        if audit.get("false_stops") is None:
            undecided += stops
        else:
            false += int(audit["false_stops"])
            agreed += stops - int(audit["false_stops"])
    return {("agreed",): agreed, ("false_stop",): false, ("undecided",): undecided}


def _used(session: ReadSession) -> tuple[dict[tuple[str, ...], float], ...]:
    """By project: hours that attempts held workers, GPU-hours, and their cost."""
    held = (
        select(trials.c.sweep_id, func.sum(held_seconds()).label("seconds"))
        .join(attempts, attempts.c.trial_id == trials.c.id)
        .group_by(trials.c.sweep_id)
        .subquery()
    )
    gpus = func.coalesce(sweeps.c.spec["resources"]["gpus_per_trial"].as_integer(), 0)
    price = func.coalesce(cast(sweeps.c.budget["cost_per_gpu_hour"].as_float(), Float), 0.0)
    query = (
        select(
            sweeps.c.project_id,
            func.sum(held.c.seconds),
            func.sum(held.c.seconds * gpus),
            func.sum(held.c.seconds * gpus * price),
        )
        .join(held, held.c.sweep_id == sweeps.c.id)
        .group_by(sweeps.c.project_id)
    )
    rows = session.rows(query)
    hours = ({(row[0],): max(0.0, float(row[i] or 0)) / 3600 for row in rows} for i in (1, 2, 3))
    return tuple(hours)


def _bounded(counts: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """With so many values of the open label (a project, a reason, a rule) that are told apart; the
    rest is `other`."""
    width = len(next(iter(counts), ()))
    at = next((i for i in range(width) if len({k[i] for k in counts}) > MOST_VALUES), None)
    if at is None:
        return counts
    sizes: Counter[str] = Counter()
    for labels, count in counts.items():
        sizes[labels[at]] += int(count * 1000) + 1
    kept = {value for value, _ in sizes.most_common(MOST_VALUES)}
    found: dict[tuple[str, ...], float] = {}
    for labels, count in counts.items():
        value = labels[at] if labels[at] in kept else "other"
        key = (*labels[:at], value, *labels[at + 1 :])
        found[key] = found.get(key, 0) + count
    return found
