"""What a sweep takes over from earlier ones: found and learned once, when its first driver starts.

Earlier sweeps count if they are of the same *family*: same base model, same training data, same
method (full, LoRA, QLoRA), same objective. What was learned of them is stored with the sweep, so
every later driver starts from the same, whatever has finished meanwhile: a scheduler's decisions
must not depend on how often its driver was restarted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from orchestrator.hindsight.recorded import stored_trials
from orchestrator.objectives import Objectives
from orchestrator.schedulers.simulate import Recorded
from orchestrator.schedulers.transfer import Prior, learn
from orchestrator.store import Lease, Store, SweepRows
from winnow.spec import SCHEDULER_FIELDS, SchedulerSpec, SweepSpec

log = logging.getLogger(__name__)

MOST_SWEEPS = 20
LEAST_COMPLETED = 2
"""Trials that an earlier sweep must have completed: one alone says nothing about ranks."""

Learned = dict[str, Any]
"""As stored: `sweeps`, the ids that it was learned from, newest first; `learned`, the prior's JSON,
or None where there was nothing to learn from."""

_NOTHING: Learned = {"sweeps": [], "learned": None}


def settle_prior(store: Store, lease: Lease, rows: SweepRows, spec: SweepSpec) -> Prior | None:
    """The prior of this sweep's scheduler: as stored, or learned now and stored.

    None if the scheduler takes none, or if there is nothing to learn from.
    """
    if not _takes_prior(spec.scheduler):
        return None
    kept = rows.prior
    if kept is None:
        # With trials there was a driver before, which knew nothing of earlier sweeps.
        kept = _NOTHING if rows.trials else learn_earlier(store, rows.sweep_id, spec, rows.facts)
        store.keep_prior(lease, kept)
    return _of_json(kept)


def prior_for_replay(store: Store, rows: SweepRows, scheduler: SchedulerSpec) -> Prior | None:
    """The prior that `scheduler` would have had, had it driven this sweep."""
    if not _takes_prior(scheduler):
        return None
    spec = SweepSpec.model_validate(rows.spec)
    kept = rows.prior or learn_earlier(store, rows.sweep_id, spec, rows.facts)
    return _of_json(kept)


def learn_earlier(
    store: Store, sweep_id: str, spec: SweepSpec, facts: Mapping[str, Any]
) -> Learned:
    """Learn from the project's sweeps of the same family that had completed when this one began.

    A prior is a help, not a condition: if it can't be learned, the sweep starts without.
    """
    found = earlier_sweeps(store, sweep_id, spec, facts)
    if not found:
        return _NOTHING
    try:
        prior = learn(list(found.values()))
        # Through JSON now, as every later driver gets it.
        learned = json.loads(json.dumps(prior.to_json(), allow_nan=False))
    except Exception:
        log.exception("sweep %s starts without what earlier ones showed", sweep_id)
        return _NOTHING
    return {"sweeps": list(found), "learned": learned}


def earlier_sweeps(
    store: Store, sweep_id: str, spec: SweepSpec, facts: Mapping[str, Any]
) -> dict[str, Sequence[Recorded]]:
    """The trials of earlier sweeps of the same family, newest sweep first.

    Each trial is given as far as it went: one that was ended early has records, but no value.
    """
    ours = family(spec, facts)
    objectives = Objectives(spec.objective)
    found: dict[str, Sequence[Recorded]] = {}
    for sweep in store.finished_before(sweep_id):
        if len(found) == MOST_SWEEPS:
            break
        try:
            theirs = family(SweepSpec.model_validate(sweep.spec), sweep.facts)
        except ValidationError:
            continue  # Of a version that knew other fields.
        if theirs != ours:
            continue
        rows = store.sweep_rows(sweep.id)
        trials = [t.recorded for t in stored_trials(rows, objectives)]
        if sum(t.value is not None for t in trials) >= LEAST_COMPLETED:
            found[sweep.id] = trials
    return found


def family(spec: SweepSpec, facts: Mapping[str, Any]) -> tuple[object, ...]:
    """What two sweeps must share for one to say something about the other.

    A file may have been replaced under its name; then the counts that the check of the data and
    the model found have changed, most likely, and they are part of the key.
    """
    files = sorted(
        tuple(sorted(f.model_dump(mode="json", exclude={"phase", "weight"}).items(), key=str))
        for f in spec.data.train
    )
    counts = tuple(facts.get(name) for name in ("parameters", "train_tokens", "train_targets"))
    sizes = tuple(sorted(facts.get("train_sets") or ()))
    return (
        spec.model.rstrip("/"),
        str(files),
        spec.training.method,
        spec.objective.metric,
        spec.objective.mode,
        counts,
        sizes,
    )


def _takes_prior(scheduler: SchedulerSpec) -> bool:
    return scheduler.transfer and "transfer" in SCHEDULER_FIELDS[scheduler.name]


def _of_json(kept: Learned) -> Prior | None:
    return None if kept["learned"] is None else Prior.of_json(kept["learned"])
