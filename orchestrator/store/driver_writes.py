"""What the holder of a lease writes: transactions of many writes, and each write alone in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from orchestrator.schedulers.base import Decision
from orchestrator.store.database import Database
from orchestrator.store.driver import DriverTransaction
from orchestrator.store.records import Lease
from orchestrator.store.writer import Writer
from trainer.metrics import Batch
from winnow.types import SweepState, TrialKind, TrialState

T = TypeVar("T")


class DriverWrites:
    """A part of `Store`. Each method raises LeaseLost, and has written nothing, if the lease is
    lost."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @contextmanager
    def guarded(self, lease: Lease) -> Iterator[DriverTransaction]:
        """One transaction of the driver that holds `lease`: all of its block, or nothing.

            with store.guarded(lease) as tx:
                tx.record(trial_id, attempt, batch)
                tx.decide(decision, acted=True)
                tx.end_attempt(trial_id, attempt, TrialState.PRUNED, "dynamics", decision.reason)

        Raises LeaseLost before the block if the lease is lost.
        """
        with self._db.write() as session:
            yield DriverTransaction(session, lease)

    def writer(self, lease: Lease, *, patience: float | None = None) -> Writer:
        """Writes that outlast the database's absence, each made exactly once. See `Writer`."""
        return Writer(self._db, lease, patience=patience)

    def write(self, lease: Lease, work: Callable[[DriverTransaction], T]) -> T:
        """`guarded` for a function, which runs again from its start where the database asks for
        that (a deadlock, say). So it must have no effect but on its transaction."""
        return self._db.transact(lambda s: work(DriverTransaction(s, lease)))

    def add_trial(
        self,
        lease: Lease,
        number: int,
        kind: TrialKind,
        params: dict[str, Any],
        config: dict[str, Any],
        total_samples: int,
        *,
        parent: str | None = None,
        fingerprint: str | None = None,
    ) -> str:
        """`DriverTransaction.add_trial`, alone in its transaction; so are the following."""
        return self.write(
            lease,
            lambda tx: tx.add_trial(
                number,
                kind,
                params,
                config,
                total_samples,
                parent=parent,
                fingerprint=fingerprint,
            ),
        )

    def start_attempt(self, lease: Lease, trial_id: str, resume: str | None = None) -> int:
        return self.write(lease, lambda tx: tx.start_attempt(trial_id, resume))

    def record(self, lease: Lease, trial_id: str, attempt: int, batch: Batch) -> None:
        self.write(lease, lambda tx: tx.record(trial_id, attempt, batch))

    def decide(self, lease: Lease, decision: Decision, acted: bool) -> int:
        return self.write(lease, lambda tx: tx.decide(decision, acted))

    def end_attempt(
        self,
        lease: Lease,
        trial_id: str,
        attempt: int,
        state: TrialState,
        reason: str | None = None,
        message: str | None = None,
        value: float | None = None,
        also: Mapping[str, float | None] | None = None,
    ) -> None:
        self.write(
            lease,
            lambda tx: tx.end_attempt(trial_id, attempt, state, reason, message, value, also),
        )

    def end_trial(
        self,
        lease: Lease,
        trial_id: str,
        state: TrialState,
        reason: str | None = None,
        message: str | None = None,
    ) -> None:
        self.write(lease, lambda tx: tx.end_trial(trial_id, state, reason, message))

    def end_sweep(self, lease: Lease, state: SweepState, message: str | None = None) -> None:
        self.write(lease, lambda tx: tx.end_sweep(state, message))

    def keep_prior(self, lease: Lease, prior: dict[str, Any]) -> None:
        self.write(lease, lambda tx: tx.keep_prior(prior))

    def keep_scheduler_summary(self, lease: Lease, summary: dict[str, Any]) -> None:
        self.write(lease, lambda tx: tx.keep_scheduler_summary(summary))
