"""A sweep's trials as parameters and results: what an analysis of them needs, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import func, or_, select

from orchestrator.store import sweeps
from orchestrator.store.database import Database, ReadSession
from orchestrator.store.memory import Recent
from orchestrator.store.schema import evaluations, trials
from orchestrator.store.scores import combine
from winnow.types import Importance, TrialState

DIVERGED = "diverged"
_EARLY = {"eval/exact_match": "exact_match"}


@dataclass(frozen=True, slots=True)
class Results:
    """Search trials of a sweep: parameters, and the value of `metric`, None if it diverged.

    `samples`: where they were measured; None: at their ends. `logarithmic`: parameters that are
    drawn by order of magnitude. Equal `key`s mean equal results.
    """

    key: tuple[Any, ...]
    metric: str
    mode: str
    samples: int | None
    logarithmic: frozenset[str]
    trials: tuple[tuple[Mapping[str, Any], float | None], ...]


class ResultsReader:
    """Part of `Store`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._results: Recent[tuple[Any, ...], Results] = Recent(16)
        self._importance: Recent[tuple[Any, ...], Importance] = Recent(500)

    def of(self, sweep_id: str, samples: int | None = None) -> Results:
        """With `samples`: at the last count up to there that any trial was measured at. Raises
        NotFound."""
        with self._db.read() as session:
            sweep = sweeps.row_of(session, sweep_id)
            objective = sweep.spec.get("objective") or {}
            metric, mode = objective.get("metric", "eval/loss"), objective.get("mode", "min")
            at = None
            if samples is not None:
                at = _last_measured(session, sweep_id, samples)
                if metric not in _EARLY:
                    metric, mode = "eval/loss", "min"
            key = (sweep_id, samples, at, *_state(session, sweep_id, sweep.revision, at))
            known = self._results.get(key)
            if known is None:
                found = (
                    _ended(session, sweep_id)
                    if samples is None
                    else (_measured(session, sweep_id, at, metric))
                )
                known = Results(key, metric, mode, at, _logarithmic(sweep.spec), found)
                self._results.keep(key, known)
            return known

    def remembered(self, results: Results) -> Importance | None:
        return self._importance.get(results.key)

    def remember(self, results: Results, importance: Importance) -> None:
        self._importance.keep(results.key, importance)


_search = trials.c.kind == "search"
_counts = or_(trials.c.state == TrialState.COMPLETED, trials.c.reason == DIVERGED)


def _state(session: ReadSession, sweep_id: str, revision: int, at: int | None) -> tuple[Any, ...]:
    """What the results depend on: those at the end only on trials that have one."""
    if at is not None:
        return (revision,)
    row = session.first(
        select(func.count(), func.max(trials.c.version)).where(
            trials.c.sweep_id == sweep_id, _search, _counts
        )
    )
    return tuple(row or ())


def _ended(
    session: ReadSession, sweep_id: str
) -> tuple[tuple[Mapping[str, Any], float | None], ...]:
    query = (
        select(trials.c.params, trials.c.value, trials.c.reason)
        .where(trials.c.sweep_id == sweep_id, _search, _counts)
        .order_by(trials.c.number)
    )
    return tuple(
        (row.params, None if row.reason == DIVERGED else row.value)
        for row in session.rows(query)
        if row.value is not None or row.reason == DIVERGED
    )


def _last_measured(session: ReadSession, sweep_id: str, samples: int) -> int | None:
    query = (
        select(func.max(evaluations.c.samples))
        .join(trials, trials.c.id == evaluations.c.trial_id)
        .where(
            trials.c.sweep_id == sweep_id,
            _search,
            evaluations.c.split == "eval",
            evaluations.c.samples.between(1, samples),
            ~evaluations.c.superseded,
        )
    )
    return session.scalar(query)


def _measured(
    session: ReadSession, sweep_id: str, at: int | None, metric: str
) -> tuple[tuple[Mapping[str, Any], float | None], ...]:
    """At `at` samples; and those that had diverged by then."""
    if at is None:
        return ()
    query = (
        select(evaluations, trials.c.params)
        .join(trials, trials.c.id == evaluations.c.trial_id)
        .where(
            trials.c.sweep_id == sweep_id,
            _search,
            evaluations.c.split == "eval",
            evaluations.c.samples == at,
            ~evaluations.c.superseded,
        )
        .order_by(trials.c.number)
    )
    found: list[tuple[Mapping[str, Any], float | None]] = []
    for _, group in groupby(session.rows(query), key=lambda row: row.trial_id):
        sets = list(group)
        scores = combine(sets)  # type: ignore[arg-type]
        value = scores.exact_match if metric in _EARLY else scores.loss
        if value is not None or metric not in _EARLY:
            found.append((sets[0].params, value))
    gone = select(trials.c.params).where(
        trials.c.sweep_id == sweep_id,
        _search,
        trials.c.reason == DIVERGED,
        trials.c.samples < at,
    )
    found += [(row.params, None) for row in session.rows(gone.order_by(trials.c.number))]
    return tuple(found)


def _logarithmic(spec: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(
        name
        for name, domain in (spec.get("space") or {}).items()
        if isinstance(domain, dict) and (domain.get("log_uniform") or domain.get("log"))
    )
