"""The orchestrator's loop: share the cluster, keep drivers alive, expire dead leases.

It decides nothing about trials. Everything that it knows it reads from the database in each turn,
so it may be killed and started again at any time; drivers go on meanwhile and are found by their
leases. Two orchestrators may run: leases decide who drives a sweep, a second driver finds it taken
and ends, and both grant the same slots, because they reckon with the same rows.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Protocol

from orchestrator.errors import StoreUnavailable, WinnowError
from orchestrator.observe import traces
from orchestrator.observe.catalogue import (
    DRIVER_CRASHES,
    DRIVER_STARTS,
    TURN_SECONDS,
    WEBHOOK_ATTEMPTS,
)
from orchestrator.observe.reporting import Reporter
from orchestrator.observe.tally import Tally
from orchestrator.settings import Settings
from orchestrator.store import Claimable, Driver, Store
from orchestrator.supervision.attendant import Attendant
from orchestrator.supervision.cluster_watch import ClusterWatch
from orchestrator.supervision.formers import Formers
from orchestrator.supervision.grants import Grant, Grants
from orchestrator.supervision.launch import (
    EXIT_LEASE_LOST,
    EXIT_NO_CLUSTER,
    EXIT_NO_LEASE,
    Holder,
    Launcher,
    LaunchError,
    ProcessLauncher,
)
from orchestrator.supervision.placement import Node
from orchestrator.webhooks.courier import Courier
from orchestrator.webhooks.sending import Sender
from winnow.service import ClusterNode
from winnow.types import SweepState

log = logging.getLogger(__name__)

MAX_CRASHES = 5
"""Crashes of a sweep's driver in a row, with no sample trained between, before it has failed."""
NO_CRASH = (0, EXIT_NO_LEASE, EXIT_LEASE_LOST, EXIT_NO_CLUSTER)
CLUSTER_SECONDS = 3.0
"""After a driver found no cluster, how long until the next is started."""
STUCK_SECONDS = 60.0
"""How long a driver of ours may live without its sweep's lease."""
MAX_HOLD_BACK = 30.0
"""Seconds: a driver that crashes is started again after 1, 2, 4, … of them, so many at most."""

TRIM_EVERY_SECONDS = 3600.0


class Cluster(Protocol):
    """What there is to share."""

    def read(self) -> dict[str, float]: ...
    def nodes(self) -> list[Node]: ...
    def machines(self) -> list[ClusterNode]: ...
    def close(self) -> None: ...


class Orchestrator:
    """Runs until SIGTERM or SIGINT. Drivers that are processes of this machine stop with it, and
    checkpoint first; those that are Ray Jobs go on."""

    def __init__(
        self, settings: Settings, launcher: Launcher | None = None, cluster: Cluster | None = None
    ) -> None:
        self._settings = settings
        self._store = Store(settings.database_url)
        self._launcher = launcher or ProcessLauncher(settings.home)
        self._cluster = cluster or ClusterWatch()
        self._grants = Grants(self._store, settings.share_quantum_seconds)
        self._formers = Formers(self._launcher, settings.lease_seconds)
        self._attendant = Attendant(self._store, settings, self._formers)
        self._tally = Tally()
        self._reporter = Reporter(self._tally, lambda f: self._store.fleet.add("orchestrator", f))
        self._courier = Courier(
            self._store.outbox,
            Sender(settings.webhook_policy, proxy=settings.webhook_proxy),
            told=lambda _, outcome: self._tally.count(WEBHOOK_ATTEMPTS, outcome.result),
        )
        self._crashes: dict[str, tuple[int, int]] = {}
        """By sweep: crashes in a row, and samples trained at the last one."""
        self._not_before: dict[str, float] = {}
        """By sweep: when its next driver may be started, after a crash."""
        self._unled: dict[tuple[str, int], float] = {}
        """By sweep and epoch: since when a driver that was started here lives without a lease."""
        self._trim_after = 0.0
        self._stopping = threading.Event()

    def run(self) -> int:
        """Turn until told to stop; the exit code."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, lambda *_: self._stopping.set())
        log.info("orchestrator started")
        self._attendant.start()
        self._courier.start()
        self._reporter.start()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with traces.span("reconcile"):
                    self.turn()
                    self._trim()
                self._tally.observe(TURN_SECONDS, time.monotonic() - began)
            except StoreUnavailable as error:
                log.warning("%s Trying again.", error)
            except WinnowError:
                log.exception("a turn failed; going on")
            self._stopping.wait(self._settings.reconcile_seconds)
        self._attendant.stop()
        self._courier.stop()
        self._reporter.stop()
        if self._launcher.ends_with_orchestrator:
            self._launcher.end(self._holders(), self._settings.stop_seconds)
        self.close()
        log.info("orchestrator stopped")
        return 0

    def close(self) -> None:
        """Let go of the cluster and the database. Drivers go on."""
        self._cluster.close()
        self._store.close()

    def turn(self) -> None:
        """Look once at everything and do what is needed."""
        # First, and before anything is written: a stopped driver may hold the database's lock.
        self._formers.end(self._store.claimable())
        self._store.report_cluster(self._cluster.read(), self._cluster.machines())
        driven = self._without_the_dead(self._store.live_drivers())
        self._note_crashes()
        nodes = self._cluster.nodes()
        if not nodes:
            return  # nothing is known about the cluster: what was granted holds
        waiting = self._store.claimable()
        # One whose commands are being carried out has no driver, and keeps its slots meanwhile.
        attended = [d for d in driven if not _drives(d) and d.claim.slots is not None]
        driven = [d for d in driven if _drives(d)]
        grants = self._grants.turn(nodes, driven, [*waiting, *attended], time.monotonic())
        self._start_drivers(waiting, grants)

    def _trim(self) -> None:
        """Once an hour: events of sweeps that ended long ago go."""
        if time.monotonic() < self._trim_after:
            return
        self._trim_after = time.monotonic() + TRIM_EVERY_SECONDS
        gone = self._store.live.trim(self._settings.event_days, self._settings.events_kept)
        if gone:
            log.info("deleted %d events of sweeps that ended long ago", gone)

    # --- drivers -------------------------------------------------------------------------------

    def _without_the_dead(self, driven: list[Driver]) -> list[Driver]:
        """A driver that is proved gone can't renew: free its sweep now, not when its lease ends."""
        alive: list[Driver] = []
        for driver in driven:
            holder = Holder.parse(driver.holder)
            if holder is not None and self._launcher.dead(holder):
                log.warning("the driver of sweep %s is gone", driver.sweep_id)
                self._store.expire_lease(driver.sweep_id, driver.epoch)
            else:
                alive.append(driver)
        return alive

    def _start_drivers(self, waiting: list[Claimable], grants: dict[str, Grant]) -> None:
        """Start a driver for each sweep that has slots and no driver."""
        now = time.monotonic()
        there = {(sweep.id, sweep.epoch) for sweep in waiting}
        self._unled = {key: since for key, since in self._unled.items() if key in there}
        for sweep in waiting:
            slots = grants[sweep.id].slots
            try:
                if self._launcher.starting(sweep.id):
                    self._end_if_stuck(sweep, now)
                elif slots < 1 or self._not_before.get(sweep.id, 0.0) > now:
                    continue
                elif self._formers.gone(sweep) and self._launcher.start(
                    sweep.id, sweep.epoch + 1, slots
                ):
                    self._tally.count(DRIVER_STARTS)
                    log.info("started a driver for sweep %s with %d slots", sweep.id, slots)
            except LaunchError as error:
                log.warning("sweep %s: %s Trying again.", sweep.id, error)

    def _end_if_stuck(self, sweep: Claimable, now: float) -> None:
        """A driver that lives but has no lease for long hangs, at its start or at its end."""
        since = self._unled.setdefault((sweep.id, sweep.epoch), now)
        if now - since >= STUCK_SECONDS:
            log.warning("the driver of sweep %s hangs without a lease; ending it", sweep.id)
            self._launcher.abandon(sweep.id)
            del self._unled[sweep.id, sweep.epoch]

    def _note_crashes(self) -> None:
        """Give up on a sweep whose driver keeps ending in an error without getting anywhere."""
        try:
            ended = self._launcher.ended()
        except LaunchError as error:
            log.warning("%s", error)
            return
        for sweep_id, code in ended.items():
            if code in NO_CRASH:
                if code == 0:
                    self._crashes.pop(sweep_id, None)
                pause = CLUSTER_SECONDS if code == EXIT_NO_CLUSTER else 0.0
                self._not_before[sweep_id] = time.monotonic() + pause
                continue
            if not self._cluster.nodes():
                log.warning("the driver of sweep %s ended, and so did the cluster", sweep_id)
                continue
            self._tally.count(DRIVER_CRASHES)
            log.warning("the driver of sweep %s ended with exit code %s", sweep_id, code)
            trained = self._store.get_sweep(sweep_id).summary.samples_trained
            crashes, before = self._crashes.get(sweep_id, (0, trained))
            crashes = crashes + 1 if trained == before else 1
            self._crashes[sweep_id] = (crashes, trained)
            hold_back = min(MAX_HOLD_BACK, 2.0 ** (crashes - 2)) if crashes > 1 else 0.0
            self._not_before[sweep_id] = time.monotonic() + hold_back
            if crashes >= MAX_CRASHES:
                self._give_up(sweep_id)

    def _give_up(self, sweep_id: str) -> None:
        me = Holder.me(slots=0)
        lease = self._store.acquire_lease(sweep_id, me, self._settings.lease_seconds)
        if lease is None:
            return
        log.error("giving up on sweep %s", sweep_id)
        where = self._launcher.log(sweep_id)
        try:
            self._store.end_sweep(
                lease,
                SweepState.FAILED,
                f"its driver ended in an error {MAX_CRASHES} times in a row; see {where}",
            )
        finally:
            self._store.release(lease)
        self._crashes.pop(sweep_id, None)

    def _holders(self) -> list[Holder]:
        """Who drives now; nobody, if the database can't tell."""
        try:
            parsed = [Holder.parse(d.holder) for d in self._store.live_drivers()]
        except StoreUnavailable as error:
            log.warning("%s", error)
            return []
        return [holder for holder in parsed if holder is not None and holder.slots]


def _drives(driver: Driver) -> bool:
    """Whether a lease is a driver's: an orchestrator takes one with no slots, to carry out
    commands."""
    holder = Holder.parse(driver.holder)
    return holder is None or holder.slots > 0
