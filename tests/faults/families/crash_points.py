"""A process is killed at a named point; its successor brings the sweep to its end.

The points are not listed by hand: a run without a fault tells which there are, so a new kind of
transaction is a new case by itself.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator

from tests.faults.context import Context
from tests.faults.hooks import Fate
from tests.faults.isolate import Case, Result, Scene
from tests.faults.simulated import Driver, drive_to_the_end, free, queued

FAMILY = "crash points"

WISHES = {
    8: [(2, "stop", None)],
    12: [(3, "pin", None)],
    14: [(1, "pause", None)],
    20: [(1, "resume", None)],
    24: [(3, "unpin", None), (4, "clone", {"learning_rate": 5e-3})],
    30: [(None, "extend", {"trials": 1})],
    34: [(None, "set", {"max_concurrent": 2})],
}


def points(scene: Scene) -> list[tuple[str, int]]:
    """Every point that a driver meets in an undisturbed run, and how often."""
    sweep_id = queued(scene)
    trace = scene.folder / "trace"
    driver = Driver(scene.url, scene.folder, sweep_id, wishes=WISHES, trace=trace)
    scene.expect(scene.wait(scene.fork(driver.run, driver.name)) == 0, "an undisturbed run failed")
    scene.judge()
    return sorted(Counter(trace.read_text().split("\n")[:-1]).items())


def results(context: Context) -> Iterator[Result]:
    """One case a point: at its first time and, in the long run, at a later one too."""
    found = context.home / "points"

    def survey(scene: Scene) -> None:
        found.write_text("".join(f"{n} {name}\n" for name, n in points(scene)))

    yield from context.run([Case(FAMILY, "an undisturbed run", "sqlite", survey)], again=True)
    named = [line.split(" ", 1) for line in found.read_text().splitlines()]
    for database in context.databases:
        cases: list[Case] = []
        for count, name in named:
            for which in ("first", "later") if int(count) > 1 else ("first",):
                run = functools.partial(_crash, point=name, count=int(count), which=which)
                cases.append(Case(FAMILY, f"{name}, {which}", database, run))
        if context.quick:
            # Points on SQLite, each at its first time or later, and a sample on PostgreSQL.
            context.random.shuffle(cases)
            once = {case.name.rsplit(",", 1)[0]: case for case in cases}
            cases = list(once.values())[: 42 if database == "sqlite" else 5]
        yield from context.run(cases)


def _crash(scene: Scene, *, point: str, count: int, which: str) -> None:
    at = 1 if which == "first" else scene.random.randint(2, count)
    sweep_id = queued(scene)
    driver = Driver(
        scene.url,
        scene.folder,
        sweep_id,
        "driver-1",
        wishes=WISHES,
        fate=Fate(point, at),
        lease_seconds=10.0,
    )
    code = scene.wait(scene.fork(driver.run, driver.name))
    if code not in (0, -9):
        scene.expect(False, f"the driver ended with {code}")
    scene.facts["killed"] = code == -9
    free(scene.url, sweep_id)
    drive_to_the_end(scene, sweep_id, wishes=WISHES, lease_seconds=10.0)
    scene.judge()
