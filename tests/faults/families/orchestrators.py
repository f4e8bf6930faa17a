"""The orchestrator dies at a named point, or its drivers do; its successor finds its way by rows.

Every case has three sweeps: one that runs through, one whose driver is killed, and one that a user
cancels before it begins.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

from orchestrator.errors import Conflict, NotFound
from orchestrator.store import Store
from orchestrator.supervision.launch import Holder
from tests.faults.context import Context
from tests.faults.hooks import Fate
from tests.faults.isolate import Case, Result, Scene
from tests.faults.orchestrating import orchestrate
from tests.faults.simulated import Driver, busy_spec, retrying
from tests.faults.tables import unsettled
from tests.fixtures.studies import FACTS

FAMILY = "orchestrator"


def results(context: Context) -> Iterator[Result]:
    found = context.home / "orchestrator-points"

    def survey(scene: Scene) -> None:
        _life(scene, None)
        seen = Counter((scene.folder / "trace").read_text().split("\n")[:-1])
        found.write_text("".join(f"{n} {name}\n" for name, n in sorted(seen.items())))

    yield from context.run(
        [Case(FAMILY, "an undisturbed orchestrator", "sqlite", survey)], again=True
    )
    named = [line.split(" ", 1) for line in found.read_text().splitlines()]
    for database in context.databases:
        cases: list[Case] = []
        for count, name in named:
            for which in ("first", "later") if int(count) > 1 else ("first",):
                run = functools.partial(_crash, point=name, count=int(count), which=which)
                cases.append(Case(FAMILY, f"{name}, {which}", database, run))
        if context.quick:
            context.random.shuffle(cases)
            cases = cases[: 6 if database == "sqlite" else 2]
        stuck = Case(FAMILY, "a driver stopped inside a transaction", database, _stuck, 90.0)
        # It waits for locks to time out where nobody ends the stopped driver first.
        yield from context.run([*cases, *([] if context.quick else [stuck])])


def _crash(scene: Scene, *, point: str, count: int, which: str) -> None:
    at = 1 if which == "first" else scene.random.randint(2, min(count, 12))
    _life(scene, Fate(point, at))


def _life(scene: Scene, fate: Fate | None) -> None:
    """Three sweeps to their ends, by as many orchestrators as it takes."""
    store = Store(scene.url)
    ids = [store.create_sweep(busy_spec(), 6, f"sweep {n}", FACTS).id for n in range(3)]
    started = _orchestrate(scene, 1, fate)
    killed: int | None = None
    canceled = False
    orchestrators = 1
    deadline = time.monotonic() + 50
    while time.monotonic() < deadline:
        time.sleep(0.01)
        drivers = retrying(store.live_drivers)
        if killed is None and drivers:
            holder = Holder.parse(drivers[0].holder)
            if holder is not None and scene.random.random() < 0.1:
                killed = holder.pid
                os.kill(killed, signal.SIGKILL)
        if not canceled and drivers:
            canceled = True
            try:
                store.add_command(ids[2], None, "cancel", "a user")
            except (Conflict, NotFound):
                canceled = False
        done, _ = os.waitpid(started, os.WNOHANG)
        if done:
            scene.children.pop(started)
            orchestrators += 1
            started = _orchestrate(scene, orchestrators, None)
        if not unsettled(scene.url):
            break
    store.close()
    os.kill(started, signal.SIGTERM)
    code = scene.wait(started)
    # Its fate may meet it as late as now, and its successor may be too young to handle a signal.
    late = -signal.SIGKILL if orchestrators == 1 else -signal.SIGTERM
    scene.expect(
        code == 0 or (fate is not None and code == late), f"the orchestrator ended with {code}"
    )
    scene.facts["orchestrators"] = orchestrators
    scene.judge()


def _orchestrate(scene: Scene, number: int, fate: Fate | None) -> int:
    name = f"orchestrator-{number}"
    trace = scene.folder / "trace" if fate is None and number == 1 else None
    return scene.fork(
        lambda: orchestrate(scene.url, scene.folder, name, fate=fate, trace=trace, pause=0.02),
        name,
    )


def _stuck(scene: Scene) -> None:
    """A driver is stopped with a transaction open. On SQLite it holds the only write lock, on
    PostgreSQL its sweep's row: nobody can write until it has been ended."""
    store = Store(scene.url)
    sweep_id = store.create_sweep(busy_spec(), 6, "stuck", FACTS).id
    fate = Fate("record/inside", 2, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    driver = Driver(scene.url, scene.folder, sweep_id, "driver-1", fate=fate)
    pid = scene.fork(driver.run, "driver-1")
    os.waitpid(pid, os.WUNTRACED)
    began = time.monotonic()
    started = _orchestrate(scene, 1, None)
    while time.monotonic() - began < 80:
        time.sleep(0.05)
        done, _ = os.waitpid(pid, os.WNOHANG)
        if done:
            scene.children.pop(pid)
            break
    scene.facts["seconds until it was ended"] = round(time.monotonic() - began, 1)
    scene.expect(pid not in scene.children, "the stopped driver was never ended")
    while time.monotonic() - began < 80 and unsettled(scene.url):
        time.sleep(0.05)
    scene.facts["seconds until the sweep ended"] = round(time.monotonic() - began, 1)
    store.close()
    os.kill(started, signal.SIGTERM)
    scene.wait(started)
    scene.judge()
