"""The cases, by family, in the order in which they run."""

from __future__ import annotations

from tests.faults.context import Family, simply
from tests.faults.families import (
    checkpoints,
    clocks,
    crash_points,
    databases,
    disks,
    kills,
    oracle_check,
    orchestrators,
    races,
    ray_workers,
    stops,
    workers,
)

FAMILIES: tuple[Family, ...] = (
    Family(
        "the oracle itself",
        "With the epoch guard, the unique keys or the event of a move taken out of winnow, the "
        "oracle must report it; with them, the same scenario must be clean.",
        simply(oracle_check.plan),
    ),
    Family(
        "crash points",
        "A driver is killed at a named point: before and after each kind of commit, inside each "
        "transaction, around each rename, deletion and renewal. A successor ends the sweep.",
        crash_points.results,
    ),
    Family(
        "orchestrator",
        "The orchestrator is killed at a named point, around launching and adopting among them, "
        "while drivers run, die and are to be canceled. Its successor goes on with what there is.",
        orchestrators.results,
    ),
    Family(
        "stopped past the lease",
        "A driver is stopped (SIGSTOP) for longer than its lease, replaced, and woken while its "
        "successor works. All that it writes then is refused, and it ends itself.",
        simply(stops.plan),
    ),
    Family(
        "races",
        "Two orchestrators race for the same sweeps; users cancel sweeps at the moment in which "
        "they complete.",
        simply(races.plan),
    ),
    Family(
        "database away",
        "PostgreSQL is restarted every few seconds under load; the network goes; the answer to a "
        "COMMIT is lost; SQLite's lock is held by another program. Drivers go on, exactly once.",
        simply(databases.plan),
    ),
    Family(
        "disk full",
        "The disk of the database or of the logs is full for a while. Drivers wait with what they "
        "know, and store it when there is room again.",
        simply(disks.plan),
    ),
    Family(
        "checkpoints",
        "Checkpoints of the real trainer are truncated, bit-flipped or incomplete, or there is no "
        "room for them; the process dies around a rename. The one before is used, or none.",
        simply(checkpoints.plan),
    ),
    Family(
        "clocks",
        "The clock of a driver and its workers is a day ahead or behind, or jumps while it works.",
        simply(clocks.plan),
    ),
    Family(
        "workers",
        "One worker reports NaN or infinity, runs out of memory, is lost again and again, steps "
        "back, repeats itself, or drowns everybody in text. It ends; the others don't notice.",
        simply(workers.plan),
    ),
    Family(
        "kill -9",
        "A whole server on a real Ray trains tiny models; one of its processes is killed at a "
        "random time: API, orchestrator, driver, trainable, rank, raylet, GCS. Work goes on.",
        kills.results,
        ray=True,
    ),
    Family(
        "workers on Ray",
        "Real workers hang, exit with 0 and no result, run out of memory, write 100 MB to their "
        "log, report NaN or steps that go back. Each ends with its reason; the others train.",
        ray_workers.results,
        ray=True,
    ),
)
