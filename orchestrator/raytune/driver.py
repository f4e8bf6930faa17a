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
from collections.abc import Callable
from pathlib import Path

import ray
from ray import exceptions

from orchestrator.errors import LeaseLost, WinnowError
from orchestrator.observe.catalogue import RENEWALS
from orchestrator.observe.reporting import Reporter
from orchestrator.observe.tally import Tally
from orchestrator.raytune import tune_run
from orchestrator.raytune.assignment import GroupShape
from orchestrator.raytune.conductor import StudyConductor
from orchestrator.settings import Settings
from orchestrator.store import Lease, Store
from orchestrator.study import Study
from orchestrator.supervision.launch import EXIT_LEASE_LOST, EXIT_NO_CLUSTER, EXIT_NO_LEASE, Holder

log = logging.getLogger(__name__)

STALLED_SECONDS = 20.0
"""How long Tune's loop may stand still. It waits for a placement, a rank or the database for a
second at most."""


def drive(sweep_id: str, slots: int, settings: Settings, job: str | None = None) -> int:
    """Run a sweep to its end, or until told to stop by SIGTERM. Returns the exit code.

    `job`: the Ray Job that this process is, if it is one.
    """
    store = Store(settings.database_url)
    lease = store.acquire_lease(sweep_id, Holder.me(slots, job), settings.lease_seconds)
    if lease is None:
        log.info("sweep %s is not free", sweep_id)
        return EXIT_NO_LEASE
    log.info("driving the sweep with %d slots; epoch %d", slots, lease.epoch)
    stopping = threading.Event()
    tally = Tally()
    renewal = Renewal(store, lease, settings.lease_seconds, tally)
    reporter = Reporter(tally, lambda figures: store.fleet.add("driver", figures))
    renewal.start()
    reporter.start()
    try:
        study = Study(
            store,
            lease,
            Path(settings.home),
            checkpoint_seconds=settings.checkpoint_seconds,
            slots=slots,
            roots=settings.roots,
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
            lease_seconds=settings.lease_seconds,
        )
        judge = study.spec.evaluation.judge
        environment = settings.environment.for_worker(judge.api_key_env if judge else None)
        conductor = StudyConductor(study, slots, stopping, lease.epoch, tally)
        renewal.watch(lambda: conductor.turned)
        tune_run.run(conductor, shape, environment=environment, seconds_left=renewal.seconds_left)
        conductor.close()
        reporter.stop()
    except LeaseLost as error:
        log.error("%s", error)
        return EXIT_LEASE_LOST
    except (ConnectionError, exceptions.RaySystemError, exceptions.RpcError) as error:
        log.error("the Ray cluster is away: %s", error)
        store.release(lease)
        return EXIT_NO_CLUSTER
    store.release(lease)
    log.info("left the sweep: it is %s", store.get_sweep(sweep_id).state)
    return 0


class Renewal(threading.Thread):
    """Renews the lease, and ends the process before it is over if that fails.

    It also ends a driver whose Tune loop stands still: a Ray client can hang for a minute when its
    cluster goes away, holding the sweep from a successor that could go on.
    """

    def __init__(self, store: Store, lease: Lease, seconds: float, tally: Tally) -> None:
        super().__init__(name="lease", daemon=True)
        self._store = store
        self._lease = lease
        self._seconds = seconds
        self._tally = tally
        self._good_until = time.monotonic() + seconds
        self._turned: Callable[[], float] = lambda: 0.0

    def seconds_left(self) -> float:
        """For how long the lease is certainly good, without what it takes to end in time."""
        return self._good_until - self._seconds / 8 - time.monotonic()

    def watch(self, turned: Callable[[], float]) -> None:
        """`turned`: when the loop last came by; 0 before it first did."""
        self._turned = turned

    def run(self) -> None:
        threading.Thread(target=self._keep_time, name="lease-time", daemon=True).start()
        while True:
            time.sleep(self._seconds / 8)
            asked = time.monotonic()
            try:
                if not self._store.renew(self._lease, self._seconds):
                    self._end("the lease was taken over")
                self._good_until = asked + self._seconds
                self._tally.count(RENEWALS, "renewed")
            except WinnowError as error:
                self._tally.count(RENEWALS, "failed")
                log.warning("could not renew the lease: %s", error)

    def _keep_time(self) -> None:
        """In a thread of its own: a database that is stuck holds up whoever asks it."""
        while True:
            time.sleep(self._seconds / 32)
            if self.seconds_left() <= 0:
                self._end("the lease could not be renewed in time")
            turned = self._turned()
            if turned and time.monotonic() - turned > STALLED_SECONDS:
                self._end(f"Ray has not answered for {STALLED_SECONDS:g} s")

    def _end(self, why: str) -> None:
        log.error("sweep %s: %s; ending this driver and its workers", self._lease.sweep_id, why)
        logging.shutdown()
        # No clean-up: the workers are owned by this process, so Ray ends them with it.
        os._exit(EXIT_LEASE_LOST)
