"""Two who want the same thing at the same moment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import Conflict
from orchestrator.store import Store
from orchestrator.store.driver import DriverTransaction
from orchestrator.supervision.launch import Holder
from tests.faults.context import Context
from tests.faults.hooks import Hooks
from tests.faults.isolate import Case, Scene, die_with_parent
from tests.faults.orchestrating import orchestrate
from tests.faults.simulated import Driver
from tests.faults.tables import unsettled
from tests.fixtures.studies import FACTS, spec
from trainer.metrics import Batch
from winnow.types import SweepState, TrialState


def plan(context: Context) -> Iterator[Case]:
    sweeps, cancels = (60, 40) if context.quick else (1000, 200)
    for database in context.databases:
        yield Case(
            "races",
            f"two orchestrators, {sweeps} sweeps",
            database,
            lambda scene: _orchestrators(scene, sweeps),
            seconds=400,
            alone=True,
        )
        yield Case(
            "races",
            f"cancel against completion, {cancels} times",
            database,
            lambda scene: _cancel(scene, cancels),
            seconds=300,
        )


# --- two orchestrators ------------------------------------------------------------------------


def _orchestrators(scene: Scene, count: int) -> None:
    store = Store(scene.url)
    document = spec(resources={"max_concurrent": 1})
    for n in range(count):
        store.create_sweep(document, 1, f"race {n}", FACTS)
    store.close()
    pids = [
        scene.fork(
            lambda name=name: orchestrate(
                scene.url, scene.folder, name, cpus=8, drive=_tiny_driver, pause=0.005
            ),
            name,
        )
        for name in ("orchestrator-1", "orchestrator-2")
    ]
    deadline = time.monotonic() + 380
    while unsettled(scene.url) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in pids:
        os.kill(pid, 15)
    for pid in pids:
        scene.wait(pid)
    refused = len(list(scene.folder.glob("refused-*")))
    scene.facts |= {"sweeps": count, "drivers that came too late": refused}
    scene.judge()


def _tiny_driver(url: str, folder: Path, sweep_id: str, slots: int) -> int:
    """A sweep of one trial with one report: what matters is who drives it."""
    Hooks(f"driver-{sweep_id}-{os.getpid()}", folder / f"d-{os.getpid()}.journal").install()
    store = Store(url)
    lease = store.acquire_lease(sweep_id, Holder.me(slots), 10)
    if lease is None:
        (folder / f"refused-{os.getpid()}").touch()
        return 3
    trial = store.add_trial(lease, 0, "search", {}, {}, 10)

    def whole_life(tx: DriverTransaction) -> None:
        attempt = tx.start_attempt(trial, None)
        tx.record(trial, attempt, Batch(status="completed"))
        tx.end_attempt(trial, attempt, TrialState.COMPLETED)
        tx.end_sweep(SweepState.COMPLETED)

    store.write(lease, whole_life)
    store.release(lease)
    store.close()
    return 0


# --- cancel against completion ----------------------------------------------------------------


def _cancel(scene: Scene, count: int) -> None:
    store = Store(scene.url)
    document = spec(
        space={"learning_rate": {"choice": [1e-3]}, "effective_batch_size": 200},
        scheduler={"name": "none"},
    )
    ids = [store.create_sweep(document, 1, f"cancel {n}", FACTS).id for n in range(count)]
    store.close()

    def drive_all() -> int:
        Hooks("driver", scene.folder / "driver.journal").install()
        for sweep_id in ids:
            driver = Driver(scene.url, scene.folder, sweep_id, hooked=True, slots=1)
            driver.lease_seconds = 30.0
            code = driver.run()
            if code:
                return code
        return 0

    def cancel_all() -> int:
        die_with_parent()
        Hooks("user", scene.folder / "user.journal").install()
        users = Store(scene.url)
        tally: dict[str, Any] = {"asked": 0, "too late": 0}
        for sweep_id in ids:
            while users.get_sweep(sweep_id).state is SweepState.QUEUED:
                time.sleep(0.001)
            time.sleep(delays.pop())
            try:
                users.add_command(sweep_id, None, "cancel", "a user")
                tally["asked"] += 1
            except Conflict:
                tally["too late"] += 1
        (scene.folder / "tally").write_text(repr(tally))
        users.close()
        return 0

    began = time.monotonic()
    delays = [scene.random.uniform(0.0, 0.08) for _ in ids]
    driver, user = scene.fork(drive_all, "driver"), scene.fork(cancel_all, "user")
    scene.expect(scene.wait(driver, 280) == 0, "the driver failed")
    scene.expect(scene.wait(user, 30) == 0, "the user failed")
    store = Store(scene.url)
    states = [store.get_sweep(sweep_id).state for sweep_id in ids]
    store.close()
    scene.facts |= {
        "canceled": states.count(SweepState.CANCELED),
        "completed": states.count(SweepState.COMPLETED),
        "seconds a sweep": round((time.monotonic() - began) / count, 3),
    }
    scene.judge()
