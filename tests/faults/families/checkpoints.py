"""The real trainer's checkpoints are damaged, gone, or there is no room for them."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.store import Store
from tests.faults.cluster import tiny_sweep
from tests.faults.context import Context
from tests.faults.hooks import Fate
from tests.faults.isolate import Case, Scene
from tests.faults.real_worker import RealRun
from tests.faults.servers import small_disk
from tests.faults.simulated import Driver, drive_to_the_end, free
from tests.faults.tables import opened
from winnow.spec import SweepSpec
from winnow.types import TrialState

FACTS = {"train_samples": 256, "train_sets": [256], "parameters": 30_000}


def plan(context: Context) -> Iterator[Case]:
    damages: dict[str, Callable[[Path], object]] = {
        "a file is cut short": _truncate,
        "a bit is flipped": _flip,
        "the manifest is missing": lambda at: (at / "manifest.json").unlink(),
        "a file is missing": lambda at: next(at.glob("rank-*")).unlink(),
        "the state is no JSON": lambda at: (at / "state.json").write_text("{"),
        "the folder is gone": shutil.rmtree,
    }
    names = list(damages)[1:2] if context.quick else list(damages)
    for database in context.databases[:1] if context.quick else context.databases:
        for name in names:
            for which in ("the newest",) if context.quick else ("the newest", "all"):
                run = functools.partial(
                    _damaged, context=context, damage=damages[name], every=which == "all"
                )
                yield Case("checkpoints", f"{name}, {which}", database, run, 150)
    if not context.quick:
        for point in ("rename/before", "rename/after", "delete/before"):
            for count in (1, 3, 5, 8):
                run = functools.partial(_killed, context=context, point=point, count=count)
                yield Case("checkpoints", f"killed at {point} {count}", "sqlite", run, 150)
        for number in range(2):
            run = functools.partial(_full, context=context)
            yield Case("checkpoints", f"no room for them {number + 1}", "sqlite", run, 150)


def sweep(context: Context, folder: Path) -> dict[str, Any]:
    document = tiny_sweep(
        context.home / "tiny",
        space={"learning_rate": {"choice": [1e-3, 3e-3]}},
        training={"effective_batch_size": 2, "max_samples": 400, "exact_match": False},
        search={"sampler": "grid"},
    )
    return SweepSpec.model_validate(document).model_dump(mode="json")


def _submit(scene: Scene, context: Context) -> str:
    # The drivers that are forked from this process have it then; it takes seconds to import.
    importlib.import_module("trainer.loop")
    store = Store(scene.url)
    try:
        return store.create_sweep(sweep(context, scene.folder), 2, "tiny", FACTS).id
    finally:
        store.close()


def _driver(scene: Scene, sweep_id: str, name: str, **options: Any) -> Driver:
    return Driver(
        scene.url,
        scene.folder,
        sweep_id,
        name,
        slots=1,
        kind=RealRun,
        lease_seconds=60.0,
        checkpoint_seconds=0.2,
        **options,
    )


def _damaged(
    scene: Scene, *, context: Context, damage: Callable[[Path], object], every: bool
) -> None:
    """A driver dies in the middle of a trial; what it would go on from is damaged meanwhile."""
    sweep_id = _submit(scene, context)
    first = _driver(scene, sweep_id, "driver-1")
    pid = scene.fork(first.run, "driver-1")
    _wait_for_states(scene, 3)
    os.kill(pid, signal.SIGKILL)
    scene.wait(pid)
    free(scene.url, sweep_id)
    found = _states(scene)
    steps = [at for at in found if at.exists()]
    for at in steps if every else steps[:1]:
        damage(at)
    drive_to_the_end(
        scene, sweep_id, slots=1, kind=RealRun, lease_seconds=60.0, checkpoint_seconds=0.2,
        seconds=120,
    )  # fmt: skip
    store = Store(scene.url)
    trials = store.list_trials(sweep_id, kinds=["search"]).items
    store.close()
    scene.facts["damaged"] = len(steps) if every else 1
    scene.facts["attempts"] = [t.attempt for t in trials]
    for trial in trials:
        scene.expect(
            trial.state is TrialState.COMPLETED,
            f"{trial.id} is {trial.state} ({trial.reason}): {trial.message}",
        )
        scene.expect(trial.attempt <= 4, f"{trial.id} took {trial.attempt} attempts")
    scene.judge()


def _killed(scene: Scene, *, context: Context, point: str, count: int) -> None:
    """The process dies around the renaming of a folder or the deletion of an old one."""
    sweep_id = _submit(scene, context)
    driver = _driver(scene, sweep_id, "driver-1", fate=Fate(point, count))
    code = scene.wait(scene.fork(driver.run, "driver-1"), 120)
    scene.facts["killed"] = code == -9
    free(scene.url, sweep_id)
    drive_to_the_end(
        scene, sweep_id, slots=1, kind=RealRun, lease_seconds=60.0, checkpoint_seconds=0.2,
        seconds=120,
    )  # fmt: skip
    scene.judge()


def _full(scene: Scene, *, context: Context) -> None:
    """The disk that takes checkpoints is full for a while: the trial goes on without, or waits."""
    with small_disk(scene.folder / "sweeps", 6) as disk:
        if disk is None:
            scene.facts["skipped"] = "nothing can be mounted here"
            return
        sweep_id = _submit(scene, context)
        pid = scene.fork(_driver(scene, sweep_id, "driver-1").run, "driver-1")
        _wait_for_states(scene, 1)
        ballast = fill(disk)
        time.sleep(scene.random.uniform(2.0, 5.0))
        ballast.unlink()
        code = scene.wait(pid, 100)
        scene.expect(code == 0, f"the driver ended with {code}")
        store = Store(scene.url)
        for trial in store.list_trials(sweep_id, kinds=["search"]).items:
            scene.expect(
                trial.state is TrialState.COMPLETED,
                f"{trial.id} is {trial.state} ({trial.reason}): {trial.message}",
            )
        store.close()
        scene.judge()


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for block in (1 << 20, 1 << 16, 1 << 12):
            try:
                while True:
                    file.write(b"\0" * block)
            except OSError:
                continue
    return ballast


def _states(scene: Scene) -> list[Path]:
    """Stored checkpoints to resume from, newest first."""
    with opened(scene.url) as tables:
        rows = tables.rows(
            "SELECT path FROM checkpoints WHERE kind = 'state' AND NOT superseded "
            "ORDER BY step DESC"
        )
    return [Path(row["path"]) for row in rows]


def _wait_for_states(scene: Scene, count: int) -> None:
    deadline = time.monotonic() + 100
    while len(_states(scene)) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {count} checkpoints were made")
        time.sleep(0.02)


def _truncate(at: Path) -> None:
    file = next(at.glob("rank-*"))
    os.truncate(file, file.stat().st_size // 2)


def _flip(at: Path) -> None:
    file = next(at.glob("rank-*"))
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 0x10
    file.write_bytes(content)
