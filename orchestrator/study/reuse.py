"""Identical trials are trained once: a later one takes over the result of the one before."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from orchestrator.fingerprint import fingerprint
from orchestrator.live_trial import LiveTrial
from orchestrator.study.ledger import Change, Ledger
from winnow import __version__
from winnow.types import TrialState


class Reuse:
    """Looks for a completed trial of the project that is the same as a new one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        device = "gpu" if ledger.spec.resources.gpus_per_trial else "cpu"
        self._code = f"{code_identity()} on {device}"

    def take_over(self, trial: LiveTrial) -> bool:
        """Give a new trial its fingerprint and, if there is a twin, add it as completed."""
        ledger = self._ledger
        trial.fingerprint = fingerprint(trial.config, ledger.facts, self._code)
        mark = trial.fingerprint
        if mark is None or not ledger.spec.search.reuse:
            return False
        store, project, sweep = ledger.store, ledger.rows.project, ledger.lease.sweep_id
        twin = ledger.writer.read(lambda: store.completed_twin(project, mark, sweep))
        if twin is None:
            return False
        _, evaluations = ledger.writer.read(lambda: store.records_of(twin))
        trial.note(evaluations)
        value, also = ledger.objectives.value(trial), ledger.objectives.also(trial)
        if value is None:
            return False

        def remember() -> None:
            trial.state, trial.reason, trial.attempt = TrialState.COMPLETED, "reused", 1
            trial.value, trial.also, trial.reused_from = value, also, twin

        ledger.commit(
            ledger.adding(trial),
            Change(lambda tx: tx.reuse(trial.id, twin, value, also), remember),
        )
        return True


@cache
def code_identity() -> str:
    """What trains: winnow's version and a digest of the trainer's sources."""
    found = find_spec("trainer")
    digest = hashlib.sha256()
    for folder in (found.submodule_search_locations or ()) if found else ():
        for source in sorted(Path(folder).rglob("*.py")):
            digest.update(source.relative_to(folder).as_posix().encode())
            digest.update(source.read_bytes())
    return f"{__version__} {digest.hexdigest()}"
