"""How fast earlier trials trained, for estimates of new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from orchestrator.store.database import Database, ReadSession
from orchestrator.store.schema import sweeps, trials

SWEEPS_READ = 300
"""Newest sweeps that are looked through."""
SWEEPS_USED = 20
TRIALS_USED = 1000
FEWEST_STEPS = 3
"""Shorter trials are mostly their start."""


@dataclass(frozen=True, slots=True)
class TrialPace:
    """What one trial trained in how much worker time (seconds), evaluations included."""

    sweep_id: str
    sweep_name: str
    tokens: float
    seconds: float


class Pace:
    """Reads what trials took."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def like(
        self,
        *,
        parameters: int,
        method: str,
        resources: Mapping[str, int],
        project: str | None = None,
    ) -> list[TrialPace]:
        """Trials of a model with as many weights, trained by the same method on the same workers;
        of one project or of all. Newest sweeps first.

        Args:
            parameters: weights of the model.
            method: full, lora or qlora.
            resources: gpus_per_trial, workers_per_trial and cpus_per_worker of the sweep.
        """
        with self._db.read() as session:
            lengths = {
                row.id: (row.name, float(row.facts["mean_length"]))
                for row in _recent(session, project)
                if _alike(row.spec, row.facts, parameters, method, resources)
            }
            chosen = list(lengths)[:SWEEPS_USED]
            rows = session.rows(
                select(trials.c.sweep_id, trials.c.samples, trials.c.seconds)
                .where(trials.c.sweep_id.in_(chosen))
                .where(trials.c.kind == "search", trials.c.reused_from.is_(None))
                .where(trials.c.step >= FEWEST_STEPS, trials.c.seconds > 0)
                .order_by(trials.c.sweep_id, trials.c.number)
                .limit(TRIALS_USED)
            )
        return [
            TrialPace(r.sweep_id, name, r.samples * length, r.seconds)
            for r in rows
            for name, length in (lengths[r.sweep_id],)
        ]


def _recent(session: ReadSession, project: str | None) -> Any:
    query = select(sweeps.c.id, sweeps.c.name, sweeps.c.spec, sweeps.c.facts)
    if project is not None:
        query = query.where(sweeps.c.project_id == project)
    begun = sweeps.c.started_at.is_not(None)
    newest = (sweeps.c.created_at.desc(), sweeps.c.id.desc())
    return session.rows(query.where(begun).order_by(*newest).limit(SWEEPS_READ))


def _alike(
    spec: Mapping[str, Any],
    facts: Mapping[str, Any],
    parameters: int,
    method: str,
    resources: Mapping[str, int],
) -> bool:
    theirs = spec.get("resources") or {}
    return (
        facts.get("parameters") == parameters
        and bool(facts.get("mean_length"))
        and ((spec.get("training") or {}).get("method") or "full") == method
        and all(theirs.get(name) == value for name, value in resources.items())
    )
