"""kill -9 at random times on a real Ray: every process of a whole server, while trials train."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.cluster import Server, command, processes, tiny_sweep, up, wait_for
from tests.faults.context import Context
from tests.faults.isolate import Result
from tests.faults.oracle import Violation

FAMILY = "kill -9"

TARGETS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "API": (("-m api",), None),
    "orchestrator": (("-m orchestrator",), "drive"),
    "driver": (("-m orchestrator drive",), None),
    "trainable": (("ray::", "TrialShell"), None),
    "rank": (("ray::_Rank",), None),
    "raylet": (("/raylet/raylet ",), None),
    "GCS": (("/gcs_server ",), None),
}
"""What to kill: words of its command line, and one that it must not have."""

STOPPED = {"driver stopped": "driver", "rank stopped": "rank"}
"""Stopped (SIGSTOP) for longer than a lease instead, and woken when work goes on without it."""

EACH = 5
EACH_STOP = 3
QUICK = ("rank", "driver stopped")
RECOVERY_SECONDS = 150.0


def results(context: Context) -> Iterator[Result]:
    for database in context.databases[:1] if context.quick else context.databases:
        chance = random.Random(f"{context.seed}/{database}")
        order = list(QUICK) if context.quick else _order(chance)
        counted: dict[str, int] = {}
        due: list[tuple[str, str]] = []
        for target in order:
            counted[target] = counted.get(target, 0) + 1
            id = f"{FAMILY}/{target} {counted[target]}/{database}"
            if id not in context.done:
                due.append((target, id))
        if due:
            yield from _on(context, database, due, chance)


def _order(chance: random.Random) -> list[str]:
    """Every target in each round, so that a run which is cut short has had them all."""
    order: list[str] = []
    for number in range(EACH):
        targets = [*TARGETS, *(STOPPED if number < EACH_STOP else ())]
        order += chance.sample(targets, len(targets))
    return order


def _on(
    context: Context, database: str, due: list[tuple[str, str]], chance: random.Random
) -> Iterator[Result]:
    home = context.home / f"kills-{database}-{int(time.time())}"
    home.mkdir(parents=True)
    url = context.stores.make(database, home)
    document = tiny_sweep(
        context.home / "tiny",
        resources={"max_concurrent": 1},
        search={"sampler": "random", "trials": 80, "seed": 3},
    )
    with up(home, url) as server:
        for target, id in due:
            began = time.monotonic()
            facts: dict[str, float | str] = {}
            try:
                _keep_busy(server, document)
                facts = _kill(server, target, chance)
                found = server.judge(finished=False)
            except Exception as error:
                found = [Violation("case", f"{type(error).__name__}: {error}")]
            yield Result(id, tuple(map(str, found)), time.monotonic() - began, dict(facts))
        began = time.monotonic()
        found = _end(server)
    yield Result(
        f"{FAMILY}/the end/{database}",
        tuple(map(str, found + _left_behind(home))),
        time.monotonic() - began,
    )


def _keep_busy(server: Server, document: dict[str, object]) -> None:
    """Two sweeps that train."""
    working = [s for s in server.client.sweeps() if not s.state.ended]
    for number in range(len(working), 2):
        server.client.submit(document | {"name": f"busy {number}"})
    _wait_for_progress(server, 120)


def _wait_for_progress(server: Server, seconds: float) -> None:
    before = server.points()
    wait_for(lambda: server.points() > before, seconds)


def _kill(server: Server, target: str, chance: random.Random) -> dict[str, float | str]:
    words, without = TARGETS[STOPPED.get(target, target)]
    time.sleep(chance.uniform(0.0, 2.0))
    victims = wait_for(lambda: server.pids(*words, without=without), 60)
    victim = chance.choice(victims)
    what = command(victim)[:80]
    stopped = target in STOPPED
    os.kill(victim, signal.SIGSTOP if stopped else signal.SIGKILL)
    at = time.monotonic()
    if stopped:
        time.sleep(4.0)
    before = server.points()
    # What was on its way when the process died may still arrive: two later sightings count.
    wait_for(lambda: server.points() > before, RECOVERY_SECONDS)
    time.sleep(0.5)
    if target not in ("API", "orchestrator"):
        _wait_for_progress(server, RECOVERY_SECONDS)
    if stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
        time.sleep(1.0)
    if target in ("API", "orchestrator"):
        wait_for(lambda: server.pids(*words, without=without), 60)
        wait_for(lambda: _answers(server), 60)
    return {"killed": what, "seconds until work went on": round(time.monotonic() - at, 2)}


def _answers(server: Server) -> bool:
    with contextlib.suppress(Exception):
        return list(server.client.sweeps()) is not None
    return False


def _end(server: Server) -> list[Violation]:
    """Cancel everything, and look at it once more when it has ended."""
    for sweep in server.client.sweeps():
        if not sweep.state.ended:
            with contextlib.suppress(Exception):
                server.client.cancel(sweep.id)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: all(s.state.ended for s in server.client.sweeps()), 120)
        wait_for(lambda: not server.pids("-m orchestrator drive"), 60)
    return server.judge(finished=True)


def _left_behind(home: Path) -> list[Violation]:
    """Processes that the server should have ended with itself."""
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not processes(home), 20)
    left = [f"{pid} {command(pid)[:100]}" for pid in processes(home)]
    for pid in processes(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [Violation("orphans", f"still runs: {who}") for who in left]
