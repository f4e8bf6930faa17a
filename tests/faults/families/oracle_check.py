"""The oracle's own test: where a safeguard is taken out of winnow, it must see what goes wrong.

Each scenario runs twice: as winnow is, where the oracle must find nothing, and without the
safeguard, where it must find exactly that.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import bindparam, or_, update

from orchestrator.errors import WinnowError
from orchestrator.store import Store, leases
from orchestrator.store.database import WriteSession
from orchestrator.store.schema import sweeps
from tests.faults.context import Context
from tests.faults.hooks import Fate, Hooks
from tests.faults.isolate import Case, Scene
from tests.faults.simulated import Driver, busy_spec, drive_to_the_end, free, queued
from tests.faults.tables import connected, opened
from tests.fixtures.studies import FACTS
from trainer.metrics import Batch, StepRecord

Remove = Callable[[], None]


def plan(context: Context) -> Iterator[Case]:
    scenarios: tuple[tuple[str, Callable[[Scene, bool], None], str], ...] = (
        ("the epoch guard", _stale_driver, "fencing"),
        ("the unique keys", _double_report, "points"),
        ("the event of a move", _silent_moves, "moves"),
    )
    for database in context.databases:
        for name, scenario, rule in scenarios:
            for removed in (False, True):
                run = functools.partial(_both, scenario=scenario, rule=rule, removed=removed)
                title = f"without {name}" if removed else f"with {name}"
                yield Case("the oracle itself", title, database, run)


def _both(scene: Scene, *, scenario: Any, rule: str, removed: bool) -> None:
    scenario(scene, removed)
    found = {violation.rule for violation in scene.found}
    if removed:
        scene.facts["found"] = sorted(found)
        scene.found.clear()
        scene.expect(rule in found, f"the oracle did not notice: {sorted(found)}, not {rule}")


def _stale_driver(scene: Scene, removed: bool) -> None:
    """A driver is replaced, wakes, and writes."""
    sweep_id = queued(scene)

    def stale() -> int:
        if removed:
            leases._RAISE_REVISION = _unguarded()
        Hooks("stale", scene.folder / "stale.journal").install()
        store = Store(scene.url)
        lease = store.acquire_lease(sweep_id, "a driver", 60)
        assert lease is not None
        os.kill(os.getpid(), signal.SIGSTOP)
        for _ in range(3):
            try:
                store.keep_scheduler_summary(lease, {"by": "a driver that was replaced"})
            except WinnowError as error:
                print(error)
        store.close()
        return 0

    pid = scene.fork(stale, "stale")
    os.waitpid(pid, os.WUNTRACED)
    free(scene.url, sweep_id)
    successor = Driver(
        scene.url, scene.folder, sweep_id, "successor", pace=0.02, lease_seconds=60.0
    )
    other = scene.fork(successor.run, "successor")
    journal = scene.folder / "successor.journal"
    while not journal.exists() or journal.read_text().count("\n") < 4:
        time.sleep(0.005)
    os.kill(pid, signal.SIGCONT)
    scene.wait(pid)
    scene.wait(other)
    scene.judge()


def _unguarded() -> Any:
    """What a driver's transaction begins with, whoever holds the lease."""
    any_epoch = or_(sweeps.c.epoch == bindparam("held_epoch"), sweeps.c.epoch >= 0)
    return (
        update(sweeps)
        .where(sweeps.c.id == bindparam("of"), any_epoch)
        .values(revision=sweeps.c.revision + 1)
        .returning(sweeps.c.revision)
    )


def _double_report(scene: Scene, removed: bool) -> None:
    """A report arrives twice."""
    if removed:
        _drop_keys(scene.url)
    steps = tuple(StepRecord(n, 10 * n, 100 * n, 1.0, 1.0, 1e-3, 0.01, 1, 10) for n in range(1, 4))

    def twice() -> int:
        Hooks("driver", scene.folder / "driver.journal").install()
        store = Store(scene.url)
        sweep_id = store.create_sweep(busy_spec(), 1, "twice", FACTS).id
        lease = store.acquire_lease(sweep_id, "a driver", 60)
        assert lease is not None
        trial = store.add_trial(lease, 0, "search", {}, {}, 30)
        attempt = store.start_attempt(lease, trial)
        for _ in range(2):
            try:
                store.record(lease, trial, attempt, Batch(status="running", steps=steps))
            except WinnowError as error:
                print(error)
        store.close()
        return 0

    scene.wait(scene.fork(twice, "driver"))
    scene.judge(finished=False)


def _drop_keys(url: str) -> None:
    if url.startswith("sqlite"):
        import sqlite3

        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        columns = [row[1] for row in connection.execute("PRAGMA table_info(metrics)")]
        connection.execute("ALTER TABLE metrics RENAME TO keyed")
        defaults = {"superseded": " DEFAULT 0"}
        listed = ", ".join(f"{name}{defaults.get(name, '')}" for name in columns)
        connection.execute(f"CREATE TABLE metrics ({listed})")
        connection.execute("DROP TABLE keyed")
        connection.close()
        return
    with connected(url) as connection:
        connection.execute("ALTER TABLE metrics DROP CONSTRAINT pk_metrics")
        connection.execute("DROP INDEX uq_metrics_live")


def _silent_moves(scene: Scene, removed: bool) -> None:
    """A sweep runs, and every second move of a trial tells nobody."""
    sweep_id = queued(scene)
    driver = Driver(scene.url, scene.folder, sweep_id, "driver-1", fate=Fate("record/told", 3))
    emit = WriteSession.emit
    seen: list[str] = []

    def silent(session: WriteSession, sweep: str, type: str, data: Any, trial: Any = None) -> None:
        seen.append(type)
        if type != "trial.state" or len(seen) % 2:
            emit(session, sweep, type, data, trial)

    def mute() -> int:
        WriteSession.emit = silent  # type: ignore[method-assign]
        return driver.run()

    scene.wait(scene.fork(mute if removed else driver.run, "driver-1"))
    free(scene.url, sweep_id)
    drive_to_the_end(scene, sweep_id)
    scene.judge()
    with opened(scene.url) as tables:
        scene.facts["events"] = len(tables.rows("SELECT id FROM events"))
