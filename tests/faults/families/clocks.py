"""A machine's clock is a day off, or jumps: leases and order go by the database's clock alone."""

from __future__ import annotations

import datetime
import functools
import sys
import time
from collections.abc import Iterator

from tests.faults.context import Context
from tests.faults.isolate import Case, Scene
from tests.faults.simulated import Driver, drive_to_the_end, free, queued

DAY = 86_400.0


def plan(context: Context) -> Iterator[Case]:
    for database in context.databases:
        for name, jump in (("a day ahead", DAY), ("a day behind", -DAY)):
            for when in ("from the start", "in the middle"):
                if context.quick and (when == "from the start") != (database == "sqlite"):
                    continue
                run = functools.partial(_jump, jump=jump, at=0 if when == "from the start" else 9)
                yield Case("clocks", f"{name} {when}", database, run)


def _jump(scene: Scene, *, jump: float, at: int) -> None:
    """One driver with a wrong clock dies half way, and one with a right clock goes on."""
    sweep_id = queued(scene)

    def turn(number: int) -> None:
        if number == at:
            shift_clock(jump)
        if number == 30:
            raise SystemExit(5)

    driver = Driver(scene.url, scene.folder, sweep_id, "driver-1", each_turn=turn)

    def run() -> int:
        try:
            return driver.run()
        except SystemExit:
            return 5

    code = scene.wait(scene.fork(run, "driver-1"))
    scene.expect(code in (0, 5), f"the driver ended with {code}")
    free(scene.url, sweep_id)
    drive_to_the_end(scene, sweep_id)
    scene.judge()


def shift_clock(seconds: float) -> None:
    """Set this process's idea of the time of day off by `seconds`; monotonic clocks go on."""
    real_time, real_ns = time.time, time.time_ns
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)
    real = datetime.datetime
    delta = datetime.timedelta(seconds=seconds)

    class Shifted(real):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return real.now(tz) + delta

        @classmethod
        def utcnow(cls) -> datetime.datetime:  # type: ignore[override]
            return real.now(datetime.UTC).replace(tzinfo=None) + delta

    for name, module in list(sys.modules.items()):
        ours = name.split(".")[0] in ("orchestrator", "trainer", "tests")
        if ours and getattr(module, "datetime", None) is real:
            module.datetime = Shifted  # type: ignore[attr-defined]
