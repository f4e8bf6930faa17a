"""A driver is stopped for longer than its lease, replaced, and wakes up again.

It counts as one on another machine: nobody can kill it there. What it writes after it has woken
must be refused, and it must end by itself.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterator

from orchestrator.store import Store
from tests.faults.context import Context
from tests.faults.hooks import Fate
from tests.faults.isolate import Case, Scene
from tests.faults.simulated import (
    LEASE_LOST,
    Driver,
    busy_spec,
    drive_to_the_end,
    free,
    has_ended,
    retrying,
)
from tests.fixtures.studies import FACTS

POINTS = (
    "add_trial/told",
    "start_attempt/told",
    "record/told",
    "record+decide/told",
    "record+end_attempt/told",
    "decide/told",
    "end_trial/told",
    "renew/told",
    "rename/before",
    "rename/after",
)


def plan(context: Context) -> Iterator[Case]:
    names = POINTS[:: 4 if context.quick else 1]
    for database in context.databases:
        for point in names:
            for count in (1, 2) if context.quick else (1, 2, 3):
                run = functools.partial(_stop, point=point, count=count)
                yield Case("stopped past the lease", f"{point} {count}", database, run)


def _stop(scene: Scene, *, point: str, count: int) -> None:
    store = Store(scene.url)
    sweep_id = store.create_sweep(busy_spec(), 6, "stopped", FACTS).id
    store.close()
    stop = Fate(point, count, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    first = Driver(scene.url, scene.folder, sweep_id, "driver-1", fate=stop)
    pid = scene.fork(first.run, "driver-1")
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        scene.children.pop(pid)
        scene.facts["stopped"] = False
        free(scene.url, sweep_id)
        drive_to_the_end(scene, sweep_id)
        scene.judge()
        return
    scene.facts["stopped"] = True
    store = Store(scene.url)
    expired = time.monotonic() + 10
    while retrying(store.claimable) == [] and time.monotonic() < expired:
        time.sleep(0.02)
    epoch = store.claimable()[0].epoch
    store.close()
    second = Driver(scene.url, scene.folder, sweep_id, "driver-2", pace=0.01, lease_seconds=60.0)
    successor = scene.fork(second.run, "driver-2")
    # Wake it when its successor has ended, and at any moment of its life.
    ended = scene.wait(successor) if count == 1 else None
    if ended is None:
        time.sleep(scene.random.uniform(0.0, 0.6))
    os.kill(pid, signal.SIGCONT)
    code = scene.wait(pid)
    took_over = (scene.wait(successor) if ended is None else ended) == 0
    if not has_ended(scene.url, sweep_id):
        free(scene.url, sweep_id)
        drive_to_the_end(scene, sweep_id)
    store = Store(scene.url)
    later = store.live_drivers(), store.sweep_rows(sweep_id)
    store.close()
    if took_over:
        scene.expect(code == LEASE_LOST, f"the driver that woke ended with {code}, not LEASE_LOST")
    scene.expect(has_ended(scene.url, sweep_id), f"{sweep_id} did not end")
    scene.expect(not later[0], "somebody holds a lease")
    scene.expect(epoch >= 1, "nobody had the lease")
    scene.judge()
