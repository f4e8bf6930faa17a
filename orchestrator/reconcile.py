"""The orchestrator's loop: claim queued sweeps, keep their drivers alive, expire dead leases.

It decides nothing about trials. Everything that it knows it reads from the database in each turn,
so it may be killed and started again at any time; drivers go on meanwhile and are found by their
leases.
"""

from __future__ import annotations

import logging
import signal
import threading

from orchestrator.cluster_watch import ClusterWatch
from orchestrator.errors import StoreUnavailable, WinnowError
from orchestrator.launch import Drivers, Holder, kill
from orchestrator.settings import Settings
from orchestrator.store import Claimable, Driver, Store
from winnow.spec import Resources, SweepSpec
from winnow.types import SweepState

log = logging.getLogger(__name__)

MAX_CRASHES = 5
"""Crashes of a sweep's driver in a row, with no sample trained between, before it has failed."""


class Orchestrator:
    """Runs until SIGTERM or SIGINT; then stops the drivers of this machine, which checkpoint."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.database_url)
        self._drivers = Drivers(settings.home / "logs")
        self._cluster = ClusterWatch()
        self._slots: dict[str, int] = {}
        self._crashes: dict[str, tuple[int, int]] = {}
        """By sweep: crashes in a row, and samples trained at the last one."""
        self._stopping = threading.Event()

    def run(self) -> int:
        """Turn until told to stop; the exit code."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, lambda *_: self._stopping.set())
        log.info("orchestrator started")
        while not self._stopping.is_set():
            try:
                self.turn()
            except StoreUnavailable as error:
                log.warning("%s Trying again.", error)
            except WinnowError:
                log.exception("a turn failed; going on")
            self._stopping.wait(self._settings.reconcile_seconds)
        self._drivers.end([holder for _, holder in self._held()], self._settings.stop_seconds)
        self._cluster.close()
        log.info("orchestrator stopped")
        return 0

    def turn(self) -> None:
        """Look once at everything and do what is needed."""
        resources = self._cluster.read()
        self._store.report_cluster(resources)
        self._expire_dead()
        self._note_crashes()
        self._cancel_queued()
        if resources:
            self._launch(resources)

    def _expire_dead(self) -> None:
        """A driver of this machine that is gone can't renew: free its sweep now, not at expiry."""
        for driver, holder in self._held():
            if holder.here and not holder.alive:
                log.warning("the driver of sweep %s is gone", driver.sweep_id)
                self._store.expire_lease(driver.sweep_id, driver.epoch)

    def _note_crashes(self) -> None:
        """Give up on a sweep whose driver keeps ending in an error without getting anywhere."""
        for sweep_id, code in self._drivers.ended().items():
            if code == 0:
                self._crashes.pop(sweep_id, None)
                continue
            log.warning("the driver of sweep %s ended with exit code %s", sweep_id, code)
            trained = self._store.get_sweep(sweep_id).summary.samples_trained
            crashes, before = self._crashes.get(sweep_id, (0, trained))
            crashes = crashes + 1 if trained == before else 1
            self._crashes[sweep_id] = (crashes, trained)
            if crashes >= MAX_CRASHES:
                self._give_up(sweep_id)

    def _give_up(self, sweep_id: str) -> None:
        lease = self._store.acquire_lease(
            sweep_id, str(Holder.me(slots=0)), self._settings.lease_seconds
        )
        if lease is None:
            return
        log.error("giving up on sweep %s", sweep_id)
        where = self._drivers.log(sweep_id)
        self._store.end_sweep(
            lease,
            SweepState.FAILED,
            f"its driver ended in an error {MAX_CRASHES} times in a row; see {where}",
        )
        self._store.release(lease)

    def _cancel_queued(self) -> None:
        """Cancel waiting sweeps that were asked to be: no driver will do it."""
        for sweep in self._store.claimable():
            if sweep.state is SweepState.QUEUED and any(
                c.kind == "cancel" for c in self._store.pending_commands(sweep.id)
            ):
                self._store.cancel_queued(sweep.id)

    def _launch(self, resources: dict[str, float]) -> None:
        """Start drivers for waiting sweeps, oldest first, while the cluster has room for them.

        First come, first served: a sweep that doesn't fit yet holds those behind it back.
        """
        free = dict(resources)
        for driver, holder in self._held():
            _take(free, _needs(driver), holder.slots)
        waiting = self._store.claimable()
        for sweep in waiting:
            if self._drivers.starting(sweep.id):
                _take(free, _needs(sweep), self._slots.get(sweep.id, 1))
        for sweep in waiting:
            if self._drivers.starting(sweep.id):
                continue
            slots = slots_that_fit(_needs(sweep), free)
            if slots < 1:
                break
            if (former := Holder.parse(sweep.holder)) is not None:
                kill(former)  # it lost its lease, but its workers live as long as it does
            log.info("starting a driver for sweep %s with %d slots", sweep.id, slots)
            self._drivers.start(sweep.id, slots)
            self._slots[sweep.id] = slots
            _take(free, _needs(sweep), slots)

    def _held(self) -> list[tuple[Driver, Holder]]:
        """The leases that are held now, and by whom."""
        return [
            (driver, holder)
            for driver in self._store.live_drivers()
            if (holder := Holder.parse(driver.holder)) is not None
        ]


def slots_that_fit(needs: Resources, free: dict[str, float]) -> int:
    """How many trials with these needs fit into the free resources, `max_concurrent` at most."""
    fits = int(free.get("CPU", 0) // (needs.ranks * needs.cpus_per_worker))
    if needs.gpus_per_trial:
        fits = min(fits, int(free.get("GPU", 0) // needs.gpus_per_trial))
    return min(fits, needs.max_concurrent) if needs.max_concurrent else fits


def _needs(sweep: Driver | Claimable) -> Resources:
    return SweepSpec.model_validate(sweep.spec).resources


def _take(free: dict[str, float], needs: Resources, slots: int) -> None:
    free["CPU"] = free.get("CPU", 0) - slots * needs.ranks * needs.cpus_per_worker
    free["GPU"] = free.get("GPU", 0) - slots * needs.gpus_per_trial
