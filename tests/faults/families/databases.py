"""The database goes away: restarted under load, cut off, or gone in the middle of a COMMIT."""

from __future__ import annotations

import functools
import os
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from orchestrator.store import Store
from tests.faults.context import Context
from tests.faults.isolate import Case, Scene
from tests.faults.servers import Postgres, Proxy
from tests.faults.simulated import (
    NO_LEASE,
    Driver,
    busy_spec,
    drive_to_the_end,
    free,
    has_ended,
    queued,
    retrying,
)
from tests.fixtures.studies import FACTS

FAMILY = "database away"


def plan(context: Context) -> Iterator[Case]:
    losses = 3 if context.quick else 40
    if "postgres" in context.databases:
        for number in range(losses):
            run = functools.partial(_lost_commit, several=number % 4 == 3)
            yield Case(FAMILY, f"a COMMIT without an answer {number + 1}", "postgres", run)
        for number in range(1 if context.quick else 5):
            yield Case(FAMILY, f"the network is gone {number + 1}", "postgres", _cut_off)
        if not context.quick:
            for number in range(3):
                yield Case(
                    FAMILY,
                    f"restarts every few seconds {number + 1}",
                    "postgres",
                    _restarts,
                    seconds=180,
                )
    if "sqlite" in context.databases:
        for number in range(1 if context.quick else 5):
            yield Case(FAMILY, f"another process holds the lock {number + 1}", "sqlite", _locked)


def _lost_commit(scene: Scene, *, several: bool) -> None:
    """The server commits, and its answer is lost with the connection. The driver can't know
    whether its transaction was made, and must neither lose it nor make it twice."""
    assert scene.databases.postgres is not None
    with tempfile.TemporaryDirectory(prefix="winnow-px-") as folder:
        proxy = Proxy(scene.databases.postgres.folder, Path(folder))
        sweep_id = queued(scene)
        first = scene.random.randint(2, 60)
        proxy.lose = {first, first + 1, first + 9} if several else {first}
        driver = Driver(
            proxy.url(scene.url), scene.folder, sweep_id, "driver-1", lease_seconds=20.0
        )
        code = scene.wait(scene.fork(driver.run, "driver-1"), 40)
        scene.facts |= {"lost": proxy.lost, "the driver went on": code == 0}
        # One that isn't told that it has the lease can't know that it has it, and ends.
        fine = (0, NO_LEASE)
        scene.expect(
            code in fine, f"the driver did not survive a lost answer: it ended with {code}"
        )
        proxy.close()
    if not has_ended(scene.url, sweep_id):
        free(scene.url, sweep_id)
        drive_to_the_end(scene, sweep_id)
    scene.judge()


def _cut_off(scene: Scene) -> None:
    """Nothing gets through for a while, less than a lease: trials train on, nobody is replaced."""
    assert scene.databases.postgres is not None
    with tempfile.TemporaryDirectory(prefix="winnow-px-") as folder:
        proxy = Proxy(scene.databases.postgres.folder, Path(folder))
        sweep_id = queued(scene)
        driver = Driver(
            proxy.url(scene.url),
            scene.folder,
            sweep_id,
            "driver-1",
            lease_seconds=15.0,
            pace=0.05,
        )
        pid = scene.fork(driver.run, "driver-1")
        for _ in range(2):
            time.sleep(scene.random.uniform(0.3, 1.0))
            proxy.cut()
            time.sleep(scene.random.uniform(0.2, 2.0))
            proxy.mend()
        code = scene.wait(pid, 50)
        scene.facts["the driver went on"] = code == 0
        scene.expect(code == 0, f"the driver ended with {code} when the network came back")
        proxy.close()
    if not has_ended(scene.url, sweep_id):
        free(scene.url, sweep_id)
        drive_to_the_end(scene, sweep_id)
    scene.judge()


def _restarts(scene: Scene) -> None:
    """Four sweeps train while the server crashes every few seconds; its own, which keeps its
    promises to the disk."""
    server = Postgres(durable=True)
    try:
        server.make_template()
        scene.url = server.database()
        store = Store(scene.url)
        ids = [store.create_sweep(busy_spec(), 6, f"sweep {n}", FACTS).id for n in range(4)]
        store.close()
        starts = dict.fromkeys(ids, 0)
        live: dict[int, str] = {}
        ended: list[str] = []
        restarts = 0
        codes: Counter[int] = Counter()
        next_restart = time.monotonic() + 1.5
        deadline = time.monotonic() + 150
        while len(ended) < len(ids) and time.monotonic() < deadline:
            for sweep_id in ids:
                if sweep_id in ended or sweep_id in live.values():
                    continue
                if retrying(lambda s=sweep_id: has_ended(scene.url, s)):
                    ended.append(sweep_id)
                    continue
                retrying(lambda s=sweep_id: free(scene.url, s))
                starts[sweep_id] += 1
                name = f"driver-{sweep_id}-{starts[sweep_id]}"
                driver = Driver(
                    scene.url, scene.folder, sweep_id, name, pace=0.25, lease_seconds=20.0
                )
                live[scene.fork(driver.run, name)] = sweep_id
            for pid in list(live):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    scene.children.pop(pid)
                    del live[pid]
                    codes[os.waitstatus_to_exitcode(status)] += 1
            if time.monotonic() > next_restart and len(ended) < len(ids):
                server.restart()
                restarts += 1
                next_restart = time.monotonic() + scene.random.uniform(2.0, 4.0)
            time.sleep(0.05)
        scene.expect(len(ended) == len(ids), f"{len(ended)} of {len(ids)} sweeps ended")
        scene.facts |= {"restarts": restarts, "drivers": sum(starts.values())}
        given_up = {code: n for code, n in codes.items() if code not in (0, NO_LEASE)}
        scene.expect(not given_up, f"drivers ended with {given_up} though the database came back")
        scene.judge()
    finally:
        server.close()


def _locked(scene: Scene) -> None:
    """Another program holds SQLite's write lock for most of a lease."""
    sweep_id = queued(scene)
    driver = Driver(scene.url, scene.folder, sweep_id, "driver-1", lease_seconds=10.0, pace=0.02)
    pid = scene.fork(driver.run, "driver-1")
    other = sqlite3.connect(scene.url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
    for _ in range(2):
        time.sleep(scene.random.uniform(0.1, 0.5))
        other.execute("BEGIN IMMEDIATE")
        time.sleep(scene.random.uniform(1.0, 3.0))
        other.execute("COMMIT")
    other.close()
    code = scene.wait(pid, 40)
    scene.expect(code == 0, f"the driver ended with {code}")
    scene.expect(threading.active_count() == 1, "threads are left")
    scene.judge()
