"""The process of one sweep: holds its lease, runs its Tune loop, and ends when either does.

A driver that can't renew its lease within the lease's time has been replaced, or soon will be: it
ends itself at once, and Ray ends the workers that it owns.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import ray

from orchestrator.errors import LeaseLost, WinnowError
from orchestrator.launch import Holder
from orchestrator.raytune import tune_run
from orchestrator.raytune.assignment import Assignment, GroupShape
from orchestrator.raytune.workers import Control
from orchestrator.settings import Settings
from orchestrator.store import Lease, Store
from orchestrator.study import Study
from trainer.metrics import Batch

log = logging.getLogger(__name__)

EXIT_NO_LEASE = 3
"""Somebody else drives the sweep, or it has ended."""
EXIT_LEASE_LOST = 4


def drive(sweep_id: str, slots: int, settings: Settings) -> int:
    """Run a sweep to its end, or until told to stop by SIGTERM. Returns the exit code."""
    store = Store(settings.database_url)
    lease = store.acquire_lease(sweep_id, str(Holder.me(slots)), settings.lease_seconds)
    if lease is None:
        log.info("sweep %s is not free", sweep_id)
        return EXIT_NO_LEASE
    stopping = threading.Event()
    _Renewal(store, lease, settings.lease_seconds).start()
    try:
        study = Study(
            store, lease, Path(settings.home), checkpoint_seconds=settings.checkpoint_seconds
        )
        ray.init(
            address=settings.ray_address,
            namespace="winnow",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        # After ray.init, which installs a handler that ends the process; Tune would too.
        signal.signal(signal.SIGTERM, lambda *_: stopping.set())
        signal.signal(signal.SIGINT, lambda *_: stopping.set())
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        resources = study.spec.resources
        gpus = resources.gpus_per_trial > 0
        shape = GroupShape(
            ranks=resources.ranks,
            cpus_per_rank=resources.cpus_per_worker,
            gpus_per_rank=1 if gpus else 0,
            report_seconds=settings.report_seconds,
        )
        judge = study.spec.evaluation.judge
        environment = settings.environment.for_worker(judge.api_key_env if judge else None)
        tune_run.run(_Conductor(study, slots, stopping), shape, environment=environment)
    except LeaseLost as error:
        log.error("%s", error)
        return EXIT_LEASE_LOST
    store.release(lease)
    return 0


class _Conductor:
    """Lets Tune's loop talk to the study."""

    def __init__(self, study: Study, slots: int, stopping: threading.Event) -> None:
        self._study = study
        self._stopping = stopping
        self._told_to_stop = False
        self._last_commands = 0.0
        self.limit = max(1, slots)

    @property
    def finished(self) -> bool:
        return self._study.finished

    def next(self) -> Assignment | None:
        attempt = self._study.next()
        if attempt is None:
            return None
        return Assignment(
            attempt.id, attempt.trial_id, attempt.number, attempt.config, attempt.resume_from
        )

    def report(self, attempt_id: str, batch: Batch) -> Control:
        return self._study.report(attempt_id, batch)

    def lost(self, attempt_id: str, message: str) -> None:
        self._study.lost(attempt_id, message)

    def tick(self) -> list[tuple[str, Control]]:
        if self._stopping.is_set() and not self._told_to_stop:
            self._told_to_stop = True
            return self._study.shut_down()
        now = time.monotonic()
        if self._told_to_stop or now - self._last_commands < 0.2:
            return []
        self._last_commands = now
        return self._study.drain_commands()


class _Renewal(threading.Thread):
    """Renews the lease, and ends the process if that fails for as long as the lease is good."""

    def __init__(self, store: Store, lease: Lease, seconds: float) -> None:
        super().__init__(name="lease", daemon=True)
        self._store = store
        self._lease = lease
        self._seconds = seconds

    def run(self) -> None:
        good_until = time.monotonic() + self._seconds
        while True:
            time.sleep(self._seconds / 4)
            asked = time.monotonic()
            try:
                if not self._store.renew(self._lease, self._seconds):
                    self._end("the lease was taken over")
                good_until = asked + self._seconds
            except WinnowError as error:
                log.warning("could not renew the lease: %s", error)
            if time.monotonic() > good_until - self._seconds / 8:
                self._end("the lease could not be renewed in time")

    def _end(self, why: str) -> None:
        log.error("sweep %s: %s; ending this driver and its workers", self._lease.sweep_id, why)
        logging.shutdown()
        # No clean-up: the workers are owned by this process, so Ray ends them with it.
        os._exit(EXIT_LEASE_LOST)
