"""The disk of the database or of the logs is full for a while."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.context import Context
from tests.faults.families.checkpoints import fill
from tests.faults.isolate import Case, Scene
from tests.faults.servers import Postgres, small_disk
from tests.faults.simulated import Driver, drive_to_the_end, free, has_ended, queued


def plan(context: Context) -> Iterator[Case]:
    times = 1 if context.quick else 5
    for number in range(1, times + 1):
        if "sqlite" in context.databases:
            yield Case("disk full", f"database {number}", "sqlite", _database)
            yield Case("disk full", f"logs {number}", "sqlite", _logs)
        if "postgres" in context.databases and not context.quick:
            yield Case("disk full", f"database {number}", "postgres", _postgres, 180)


def _database(scene: Scene) -> None:
    """SQLite's file has no room to grow: the driver waits with what it knows, then stores it."""
    with small_disk(scene.folder / "disk", 4) as disk:
        if disk is None:
            scene.facts["skipped"] = "nothing can be mounted here"
            return
        shutil.copy(scene.url.removeprefix("sqlite:///"), disk / "winnow.db")
        scene.url = f"sqlite:///{disk / 'winnow.db'}"
        sweep_id = queued(scene)
        driver = Driver(
            scene.url, scene.folder, sweep_id, "driver-1", lease_seconds=20.0, pace=0.02
        )
        pid = scene.fork(driver.run, "driver-1")
        _full_twice(scene, disk)
        code = scene.wait(pid, 40)
        scene.facts["the driver went on"] = code == 0
        scene.expect(code == 0, f"the driver ended with {code} when the disk was full")
        if not has_ended(scene.url, sweep_id):
            free(scene.url, sweep_id)
            drive_to_the_end(scene, sweep_id)
        scene.judge()


def _postgres(scene: Scene) -> None:
    """PostgreSQL's disk is full: it refuses writes, or ends in a panic and is started again."""
    folder = Path(f"/tmp/winnow-disk-{os.getpid()}")
    with small_disk(folder, 160) as disk:
        if disk is None:
            scene.facts["skipped"] = "nothing can be mounted here"
            return
        server = Postgres(durable=True, folder=disk)
        try:
            server.make_template()
            scene.url = server.database()
            sweep_id = queued(scene)
            driver = Driver(
                scene.url, scene.folder, sweep_id, "driver-1", lease_seconds=60.0, pace=0.05
            )
            pid = scene.fork(driver.run, "driver-1")
            _full_twice(scene, disk)
            server.ensure_running()
            code = scene.wait(pid, 90)
            scene.expect(code == 0, f"the driver ended with {code} when the disk was full")
            if not has_ended(scene.url, sweep_id):
                free(scene.url, sweep_id)
                drive_to_the_end(scene, sweep_id)
            scene.judge()
        finally:
            server.close()
    shutil.rmtree(folder, ignore_errors=True)


def _logs(scene: Scene) -> None:
    """Nothing can be logged: that is no reason to stop."""
    with small_disk(scene.folder / "disk", 1) as disk:
        if disk is None:
            scene.facts["skipped"] = "nothing can be mounted here"
            return
        sweep_id = queued(scene)
        fill(disk)

        def run() -> int:
            import logging

            log = os.open(disk / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            logging.disable(logging.NOTSET)
            logging.basicConfig(level=logging.DEBUG, force=True)
            return Driver(scene.url, scene.folder, sweep_id, "driver-1").run()

        code = scene.wait(scene.fork(run, "driver-1"), 40)
        scene.expect(code == 0, f"the driver ended with {code} when it could not log")
        scene.judge()


def _full_twice(scene: Scene, disk: Path) -> None:
    for _ in range(2):
        time.sleep(scene.random.uniform(0.1, 0.6))
        ballast = fill(disk)
        time.sleep(scene.random.uniform(0.5, 2.0))
        ballast.unlink()
