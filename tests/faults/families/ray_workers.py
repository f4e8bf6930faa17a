"""Workers of a real server misbehave: one sweep whose trials each do one bad thing, and a good one.

What a trial does is said by its learning rate; see `misbehaviour.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import misbehaviour as bad
from tests.faults.cluster import command, processes, tiny_sweep, up, wait_for
from tests.faults.context import Context
from tests.faults.isolate import Result
from winnow.types import Trial, TrialState

FAMILY = "workers on Ray"
GOOD = 2e-3
SECONDS = 420.0

Ends = Callable[[Trial], bool]


def _ended(trial: Trial) -> bool:
    return trial.state.ended


def _failed(*reasons: str) -> Ends:
    return lambda trial: trial.state is TrialState.FAILED and trial.reason in reasons


KINDS: dict[str, tuple[float, Ends]] = {
    "loss is NaN": (bad.NAN, _ended),
    "gradient norm is infinite": (bad.INFINITE, _ended),
    "out of memory": (bad.OUT_OF_MEMORY, _failed("oom", "error", "infrastructure")),
    "hangs": (bad.HANG, _failed("infrastructure", "hang", "error")),
    "exits with 0 and no result": (bad.SILENT_EXIT, _failed("infrastructure")),
    "writes 100 MB to its log": (bad.LOUD, lambda t: t.state is TrialState.COMPLETED),
    "steps go back": (bad.BACKWARDS, _ended),
    "trains as it should": (GOOD, lambda t: t.state is TrialState.COMPLETED),
}


def results(context: Context) -> Iterator[Result]:
    for database in context.databases:
        ids = {name: f"{FAMILY}/{name}/{database}" for name in KINDS}
        if all(id in context.done for id in ids.values()):
            continue
        began = time.monotonic()
        home = context.home / f"workers-{database}-{int(time.time())}"
        home.mkdir(parents=True)
        document = tiny_sweep(
            context.home / "tiny",
            space={"learning_rate": {"choice": [rate for rate, _ in KINDS.values()]}},
            search={"sampler": "grid"},
            training={"effective_batch_size": 2, "max_samples": 300, "exact_match": False},
            resources={"max_concurrent": 2},
        )
        problems: list[str] = []
        trials: list[Trial] = []
        with up(home, context.stores.make(database, home), WINNOW_FAULTS_HANG="20") as server:
            sweep = server.client.submit(document).id
            try:
                wait_for(lambda s=sweep, c=server.client: c.sweep(s).state.ended, SECONDS)
            except TimeoutError as error:
                problems.append(f"case: the sweep did not end {error}")
            trials = [t for t in server.client.trials(sweep) if t.kind == "search"]
            with contextlib.suppress(TimeoutError):  # the oracle says what it still holds
                wait_for(lambda s=server: not s.pids("-m orchestrator drive"), 60)
            problems += map(str, server.judge(finished=not problems))
        problems += _left_behind(home)
        took = time.monotonic() - began
        for name, (rate, ends) in KINDS.items():
            trial = next((t for t in trials if t.params["learning_rate"] == rate), None)
            found = problems if name == "trains as it should" else []
            if trial is None or not ends(trial):
                told = trial and f"{trial.state} ({trial.reason}): {trial.message}"
                found = [*found, f"case: its trial is {told}"]
            facts = {} if trial is None else {"it ended": f"{trial.state} ({trial.reason})"}
            yield Result(ids[name], tuple(found), took / len(KINDS), facts)


def _left_behind(home: Path) -> list[str]:
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not processes(home), 20)
    left = processes(home)
    texts = [f"orphans: still runs: {pid} {command(pid)[:100]}" for pid in left]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return texts
