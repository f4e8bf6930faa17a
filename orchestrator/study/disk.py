"""Housekeeping: deletes the checkpoints that nothing needs any more.

A row is marked before its files go, so nobody is ever told of a checkpoint that isn't there. Files
whose deletion a crash cut short are found by their marks at the next start.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from orchestrator.errors import StoreUnavailable
from orchestrator.housekeeping import Kept, Saved, to_delete
from orchestrator.live_trial import LiveTrial
from orchestrator.store import CheckpointRow, DriverTransaction
from orchestrator.study.ledger import Change, Ledger
from trainer import storage
from trainer.errors import TrainerError
from winnow.types import TrialState

log = logging.getLogger(__name__)

TIDY_SECONDS = 5.0


class Disk:
    """The checkpoints of a ledger's sweep."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._tidied = 0.0
        self._ended = -1

    def tidy(self, *, now: bool = False, everything: bool = False) -> None:
        """Delete what isn't needed, some seconds after trials have ended or at once; `everything`:
        also what a crash has left."""
        ledger = self._ledger
        ended = sum(t.state.ended for t in ledger.trials.values())
        if not now and (ended == self._ended or time.monotonic() - self._tidied < TIDY_SECONDS):
            return
        self._ended, self._tidied = ended, time.monotonic()
        try:
            rows, needed = ledger.store.checkpoint_rows(ledger.lease.sweep_id)
        except StoreUnavailable:
            return  # the next end of a trial will do
        by_trial: dict[str, list[CheckpointRow]] = {}
        for row in rows:
            by_trial.setdefault(row.trial_id, []).append(row)
        measured = {
            str(t.params.get("trial"))
            for t in ledger.trials.values()
            if t.kind == "report" and not t.state.ended
        }
        kept = [
            self._kept(trial, by_trial.get(trial.id, []), trial.id in needed | measured)
            for trial in ledger.trials.values()
            if trial.kind == "search"
        ]
        gone: dict[str, list[str]] = {}
        for trial_id, path in to_delete(kept, ledger.spec.checkpoints):
            gone.setdefault(trial_id, []).append(path)
        if gone:
            ledger.commit(Change(lambda tx: _mark(tx, gone), lambda: self._forget(gone)))
        marked = [row.path for row in rows if row.deleted] if everything else []
        for path in [*marked, *(path for paths in gone.values() for path in paths)]:
            self._remove(path)

    def _kept(self, trial: LiveTrial, rows: list[CheckpointRow], needed: bool) -> Kept:
        value = None if trial.value is None else self._ledger.objectives.sign * trial.value
        # What the live attempt writes is its own to clean up: it may be about to go on from it.
        live = trial.attempt if trial.state is TrialState.RUNNING else None
        return Kept(
            trial_id=trial.id,
            number=trial.number,
            state=trial.state,
            saved=tuple(
                Saved(row.path, row.kind, row.attempt, row.step, row.damaged or row.superseded)
                for row in rows
                if not row.deleted and row.attempt != live
            ),
            value=value,
            pinned=trial.pinned,
            needed=needed,
        )

    def _forget(self, gone: dict[str, list[str]]) -> None:
        for trial_id, paths in gone.items():
            trial = self._ledger.trials[trial_id]
            trial.checkpoints = [path for path in trial.checkpoints if path not in paths]

    def _remove(self, path: str) -> None:
        """Delete one checkpoint; never anything outside the sweep's own places."""
        store = self._ledger.store_address
        inside = Path(path).is_relative_to(self._ledger.folder)
        if not inside and (store is None or not path.startswith(f"{store}/")):
            return
        try:
            storage.remove(path)
        except (OSError, TrainerError) as error:
            log.warning("%s could not be deleted: %s; it is tried again later", path, error)


def _mark(tx: DriverTransaction, gone: dict[str, list[str]]) -> None:
    for trial_id, paths in gone.items():
        tx.note_deleted(trial_id, paths)
