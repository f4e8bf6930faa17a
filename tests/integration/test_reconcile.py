"""The orchestrator's loop on a real database: who gets slots and drivers, and what ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings import Settings
from orchestrator.store import Lease, Store
from orchestrator.supervision.attendant import Attendant
from orchestrator.supervision.formers import Formers
from orchestrator.supervision.grants import IDLE_SECONDS, Grants
from orchestrator.supervision.launch import EXIT_NO_LEASE, Holder
from orchestrator.supervision.placement import Node
from orchestrator.supervision.reconcile import MAX_CRASHES, Orchestrator
from tests.fixtures.studies import Studies
from winnow.service import ClusterNode
from winnow.types import Quota, SweepState, TrialState

ELSEWHERE = Holder("another-machine", 1, 1, slots=1)


@dataclass
class Launched:
    """A launcher that starts nothing: a test takes the leases itself."""

    ends_with_orchestrator: bool = True
    started: list[tuple[str, int]] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    codes: dict[str, int] = field(default_factory=dict)
    killed: list[Holder] = field(default_factory=list)

    def start(self, sweep_id: str, epoch: int, slots: int) -> bool:
        self.started.append((sweep_id, slots))
        return True

    def starting(self, sweep_id: str) -> bool:
        return sweep_id in self.alive

    def abandon(self, sweep_id: str) -> None:
        self.alive.discard(sweep_id)

    def ended(self) -> dict[str, int]:
        codes, self.codes = self.codes, {}
        return codes

    def dead(self, holder: Holder) -> bool:
        return holder.here and not holder.alive

    def kill(self, holder: Holder) -> None:
        self.killed.append(holder)
        if holder.here and holder.alive:
            os.kill(holder.pid, signal.SIGKILL)

    def end(self, holders: Iterable[Holder], grace: float) -> None:
        pass

    def log(self, sweep_id: str) -> str:
        return f"the log of {sweep_id}"


@dataclass
class Machines:
    """A cluster that has what a test says."""

    here: list[Node]

    def read(self) -> dict[str, float]:
        return {"CPU": sum(n.cpus for n in self.here), "GPU": sum(n.gpus for n in self.here)}

    def nodes(self) -> list[Node]:
        return self.here

    def machines(self) -> list[ClusterNode]:
        return []

    def close(self) -> None:
        pass


@dataclass
class Office:
    """An orchestrator with what it works on."""

    orchestrator: Orchestrator
    launched: Launched
    machines: Machines
    store: Store
    studies: Studies

    def turn(self) -> None:
        self.orchestrator.turn()

    def slots(self, *sweeps: str) -> list[int | None]:
        return [self.store.get_sweep(sweep_id).slots for sweep_id in sweeps]

    def why(self, sweep_id: str) -> str | None:
        return self.store.get_sweep(sweep_id).why_pending

    def drive(self, sweep_id: str, running: int = 0, holder: Holder = ELSEWHERE) -> Lease:
        """Take the sweep as a driver elsewhere would, and have trials run."""
        lease = self.store.acquire_lease(sweep_id, holder, 60)
        assert lease is not None
        for number in range(running):
            trial = self.store.add_trial(lease, number, "search", {}, {}, 100)
            self.store.start_attempt(lease, trial)
        return lease

    def let_go(self, lease: Lease) -> None:
        """The driver's trials yield, and it gives its lease back."""
        for trial in self.store.list_trials(lease.sweep_id, states=[TrialState.RUNNING]).items:
            self.store.end_attempt(lease, trial.id, 1, TrialState.PENDING, "preempted", "")
        self.store.release(lease)


@pytest.fixture
def settings(migrated_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=migrated_url, lease_seconds=6.0)


@pytest.fixture
def office(settings: Settings, store: Store, tmp_path: Path) -> Iterator[Office]:
    launched, machines = Launched(), Machines([Node(4, 0)])
    made = Orchestrator(settings, launched, machines)
    yield Office(made, launched, machines, store, Studies(store, tmp_path))
    made.close()


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds} s")


# --- slots -------------------------------------------------------------------------------------


def test_a_waiting_sweep_gets_its_slots_and_a_driver(office: Office) -> None:
    sweep_id = office.studies.queued()
    office.turn()
    assert office.launched.started == [(sweep_id, 4)]
    assert office.slots(sweep_id) == [4]
    assert office.why(sweep_id) == "the cluster holds 4 trials of this size at once"


def test_two_sweeps_share_and_the_second_waits_until_trials_have_left(office: Office) -> None:
    first = office.studies.queued()
    office.turn()
    lease = office.drive(first, running=4)
    second = office.studies.queued()
    office.turn()
    assert office.slots(first, second) == [2, 0]
    assert office.why(second) == "2 slots more when other sweeps' trials have left"
    for trial in office.store.list_trials(first, states=[TrialState.RUNNING]).items[:2]:
        office.store.end_attempt(lease, trial.id, 1, TrialState.PENDING, "preempted", "")
    office.turn()
    assert office.slots(first, second) == [2, 2]
    assert office.launched.started[-1] == (second, 2)
    assert office.why(second) == "fair share: 2 of 4 slots with weight 1 of 2"


def test_a_higher_priority_takes_the_cluster_and_gives_it_back(office: Office) -> None:
    low = office.studies.queued()
    office.turn()
    lease = office.drive(low, running=4)
    high = office.studies.queued(sharing={"priority": 10})
    office.turn()
    assert office.slots(low, high) == [0, 0]
    assert office.why(low) == "priority: 1 sweep with higher priority comes first"
    office.let_go(lease)
    office.turn()
    assert office.slots(low, high) == [0, 4]
    assert office.launched.started[-1] == (high, 4)
    assert (low, 0) not in office.launched.started
    top = office.drive(high)
    office.store.end_sweep(top, SweepState.COMPLETED)
    office.store.release(top)
    office.turn()
    assert office.slots(low) == [4]
    assert office.launched.started[-1] == (low, 4)


def test_a_quota_bounds_a_projects_sweeps_together(office: Office) -> None:
    office.machines.here = [Node(8, 8)]
    office.store.add_project("lab", Quota(gpus=3))
    gpus = {"resources": {"gpus_per_trial": 2}, "project": "lab"}
    first, second = office.studies.queued(**gpus), office.studies.queued(**gpus)
    office.turn()
    assert sorted(office.slots(first, second), key=lambda n: n or 0) == [0, 1]
    waiting = second if office.slots(second) == [0] else first
    assert office.why(waiting) == "quota of project lab reached: 2 of 3 GPUs"


def test_no_more_trials_are_granted_than_there_are_gpus(office: Office) -> None:
    office.machines.here = [Node(16, 4)]
    one = office.studies.queued(resources={"gpus_per_trial": 1})
    three = office.studies.queued(resources={"gpus_per_trial": 3})
    office.turn()
    given = office.slots(one, three)
    assert (given[0] or 0) + 3 * (given[1] or 0) <= 4
    assert given == [1, 1]


def test_what_the_user_sets_while_it_runs_is_followed(office: Office) -> None:
    sweep_id = office.studies.queued()
    office.turn()
    lease = office.drive(sweep_id)
    office.store.write(lease, lambda tx: tx.set_plan(max_concurrent=2))
    office.turn()
    assert office.slots(sweep_id) == [2]
    assert office.why(sweep_id) == "max_concurrent: 2 trials at once, as the sweep asks"


def test_nothing_changes_while_nothing_is_known_of_the_cluster(office: Office) -> None:
    sweep_id = office.studies.queued()
    office.turn()
    office.machines.here = []
    office.turn()
    assert office.slots(sweep_id) == [4]


def test_slots_that_a_sweep_leaves_idle_serve_another(store: Store, tmp_path: Path) -> None:
    studies = Studies(store, tmp_path)
    idle, busy = studies.queued(), studies.queued()
    grants, now = Grants(store, quantum=60.0), 0.0

    def turn(running_of_idle: int) -> dict[str, int]:
        nonlocal now
        now += 1.0
        found = grants.turn([Node(6)], store.live_drivers(), store.claimable(), now)
        return {sweep_id: grant.slots for sweep_id, grant in found.items()}

    for sweep_id, count in ((idle, 1), (busy, 3)):
        turn(0)
        lease = store.acquire_lease(sweep_id, "a driver", 60)
        assert lease is not None
        for number in range(count):
            store.start_attempt(lease, store.add_trial(lease, number, "search", {}, {}, 100))
    assert turn(1) == {idle: 3, busy: 3}
    for _ in range(int(IDLE_SECONDS) + 1):
        turn(1)
    assert turn(1) == {idle: 1, busy: 5}


# --- drivers -----------------------------------------------------------------------------------


def test_a_driver_that_is_dead_is_followed_at_once(office: Office) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    gone = Holder(Holder.me(1).host, child.pid, 1, slots=1)
    child.wait()
    sweep_id = office.studies.queued()
    office.drive(sweep_id, holder=gone)
    office.turn()
    assert [s for s, _ in office.launched.started] == [sweep_id]


def test_a_driver_that_hangs_is_killed_before_its_successor_starts(
    office: Office, settings: Settings
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        sweep_id = office.studies.queued()
        hanging = _holder_of(child)
        lease = office.store.acquire_lease(sweep_id, hanging, 0.2)
        assert lease is not None
        wait_for(lambda: office.store.claimable())
        office.turn()
        assert office.launched.killed == [hanging]
        child.wait(120)
        if not office.launched.started:
            office.turn()
        assert [s for s, _ in office.launched.started] == [sweep_id]
    finally:
        child.kill()


def test_the_workers_of_a_driver_elsewhere_have_time_to_end(
    office: Office, settings: Settings
) -> None:
    sweep_id = office.studies.queued()
    office.store.acquire_lease(sweep_id, ELSEWHERE, 0.2)
    wait_for(lambda: office.store.claimable())
    office.turn()
    assert office.launched.started == []
    began = time.monotonic()
    while not office.launched.started:
        office.turn()
        assert time.monotonic() - began < 20
    assert time.monotonic() - began >= 0.9 * settings.lease_seconds / 4


def test_an_orchestrator_that_attended_to_a_sweep_is_not_killed_for_it(office: Office) -> None:
    sweep_id = office.studies.queued()
    office.store.acquire_lease(sweep_id, Holder.me(slots=0), 0.2)
    wait_for(lambda: office.store.claimable())
    office.turn()
    assert office.launched.killed == []
    assert [s for s, _ in office.launched.started] == [sweep_id]


def test_a_driver_that_keeps_crashing_fails_its_sweep_and_one_that_came_late_does_not(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = office.studies.queued()
    for code in [EXIT_NO_LEASE] * (2 * MAX_CRASHES) + [1] * (MAX_CRASHES - 1):
        office.launched.codes = {sweep_id: code}
        office.turn()
    assert not office.store.get_sweep(sweep_id).state.ended
    office.launched.codes = {sweep_id: 1}
    office.turn()
    ended = office.store.get_sweep(sweep_id)
    assert ended.state is SweepState.FAILED
    assert ended.message == (
        f"its driver ended in an error {MAX_CRASHES} times in a row; see the log of {sweep_id}"
    )


def test_two_orchestrators_grant_the_same_and_start_one_driver(
    office: Office, settings: Settings
) -> None:
    other = Orchestrator(settings, twin := Launched(), office.machines)
    first, second = office.studies.queued(), office.studies.queued()
    office.turn()
    office.drive(first, running=2)
    office.drive(second, running=2)
    for _ in range(3):
        other.turn()
        assert office.slots(first, second) == [2, 2]
        office.turn()
        assert office.slots(first, second) == [2, 2]
    assert twin.started == []
    other.close()


# --- commands ----------------------------------------------------------------------------------


def test_a_command_to_a_sweep_without_a_driver_takes_effect_while_the_loop_is_busy(
    office: Office, settings: Settings
) -> None:
    office.machines.here = []
    sweep_id = office.studies.queued()
    formers = Formers(office.launched, settings.lease_seconds)
    attendant = Attendant(office.store, settings, formers)
    attendant.start()
    try:
        office.store.add_command(sweep_id, None, "pause", "ann")
        wait_for(lambda: office.store.get_sweep(sweep_id).state is SweepState.PAUSED)
        office.store.add_command(sweep_id, None, "resume", "ann")
        wait_for(lambda: office.store.get_sweep(sweep_id).state is SweepState.QUEUED)
        office.store.add_command(sweep_id, None, "cancel", "ann")
        wait_for(lambda: office.store.get_sweep(sweep_id).state is SweepState.CANCELED)
    finally:
        attendant.stop()
    assert not attendant.is_alive()
    assert [c.issued_by for c in office.store.commands(sweep_id)] == ["ann"] * 3
    assert all(c.finished_at for c in office.store.commands(sweep_id))


def test_commands_wait_until_the_former_driver_is_gone(office: Office, settings: Settings) -> None:
    sweep_id = office.studies.queued()
    lease = office.store.acquire_lease(sweep_id, ELSEWHERE, 0.2)
    assert lease is not None
    office.store.add_command(sweep_id, None, "cancel", "ann")
    wait_for(lambda: office.store.claimable())
    now = 0.0
    formers = Formers(office.launched, settings.lease_seconds, clock=lambda: now)
    attendant = Attendant(office.store, settings, formers)
    attendant.look()
    assert office.store.get_sweep(sweep_id).state is SweepState.RUNNING
    now = settings.lease_seconds / 4
    attendant.look()
    assert office.store.get_sweep(sweep_id).state is SweepState.CANCELED


def _holder_of(child: subprocess.Popen[bytes]) -> Holder:
    fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return Holder(Holder.me(1).host, child.pid, int(fields[19]), slots=1)
