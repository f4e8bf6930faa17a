"""How long workers stand idle between two trials: ours, and Ray Train inside Ray Tune.

    python -m benchmarks.turnaround [--quick] --out turnaround.json

Both sides train the same trials with the same trainer and real DeepSpeed: a small random Llama, two
ranks a trial on CPU, one slot, so that trials follow one another. That the losses agree, step by
step, is checked. Each side has a process and a local Ray of its own. Nothing is compiled, and no
data tokenised, while time is taken. All times are `time.time()` of one machine.

*Turnaround* is the time from one trial's end to the next one's first optimizer step: from the
moment rank 0 has finished the last step of a trial until it has finished the first step of the
next. For us that is on warm workers. Ray Train has no warm case: it starts new ones every time.

*Cold start* is the time from a trial being handed to a free slot until its first optimizer step, on
workers that have yet to be started (Ray is up, the slot is free). For us, the first trial of a Tune
run; for the peer, every trial, from the moment Tune creates it.

Half of our trials run before the peer's and half after, each half in a new process and a new Ray: a
machine that is busier at one time than at another shows in the range of our samples.

Where the two can't be measured alike, it is to the peer's advantage: its steps are timed in the
rank, ours where their reports arrive (see `turnaround_ours.py`); it reports once a trial, ours
after every step; its workers get our trainer's tuning. Neither evaluates or writes checkpoints.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from benchmarks.report import Comparison, Measure
from benchmarks.workload import (
    BATCH,
    RANKS,
    Marks,
    Workload,
    make_workload,
    prepare,
    read_marks,
)
from trainer.model import count_parameters

PEER = "Ray Train in Tune"
STEPS = 5
"""Optimizer steps of a trial."""
MEASURES = (
    Measure(
        "warm",
        "Turnaround",
        "from a trial's last optimizer step to the next trial's first, in the same slot; ours on "
        "warm workers, the peer starts new ones",
        target=15.0,
    ),
    Measure(
        "cold",
        "Cold start",
        "from a trial being handed to a free slot to its first optimizer step, on new workers",
        target=1.0,
    ),
)
SECONDS_PER_TRIAL = 180
"""After this long, times the number of trials, a side is given up."""
LOSS_TOLERANCE = 1e-4


class BenchmarkFailed(Exception):
    """A side could not be measured. The message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up
    console = Console()
    try:
        comparison = compare(options.quick, console)
    except BenchmarkFailed as error:
        console.print(f"[red]The benchmark failed.[/] {error}", highlight=False)
        return 1
    comparison.write(options.out)
    console.print()
    comparison.show(console)
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    return 0


def compare(quick: bool, console: Console) -> Comparison:
    """Measure both sides.

    Raises:
        BenchmarkFailed: one couldn't be measured, or they didn't train the same.
    """
    half, peer_trials = (2, 2) if quick else (4, 3)
    with tempfile.TemporaryDirectory(prefix="winnow-turnaround-") as name:
        folder = Path(name)
        with console.status("Making a model and data, and a first run to warm the caches"):
            workload = make_workload(folder, STEPS)
            _prepare(workload)
        ours = _measure("ours", workload, range(half), console)
        peer = _measure("ray_train", workload, range(peer_trials), console)
        ours += _measure("ours", workload, range(half, 2 * half), console)
        parameters = count_parameters(folder / "model")
    check_same_work(ours, peer)
    return Comparison(
        name="From one trial to the next",
        quick=quick,
        measures=MEASURES,
        peer_name=PEER,
        ours={"warm": turnarounds(ours, within_groups=True), "cold": cold_starts(ours)},
        peer={"warm": turnarounds(peer, within_groups=False), "cold": cold_starts(peer)},
        work={
            "our_trials": len(ours),
            "peer_trials": len(peer),
            "ranks": RANKS,
            "parameters": parameters,
            "steps_per_trial": STEPS,
            "samples_per_step": BATCH,
        },
    )


def turnarounds(marks: Sequence[Marks], *, within_groups: bool) -> list[float]:
    """Seconds from each trial's last step to the first step of the one that followed it.

    With `within_groups`, only where both ran on the same workers.
    """
    return [
        after.first_step - before.last_step
        for before, after in pairwise(marks)
        if after.group == before.group or not within_groups
    ]


def cold_starts(marks: Sequence[Marks]) -> list[float]:
    """Seconds from hand-over to first step, of each group's first trial."""
    return [
        m.first_step - m.handed
        for before, m in zip([None, *marks], marks, strict=False)
        if before is None or before.group != m.group
    ]


def check_same_work(ours: Sequence[Marks], peer: Sequence[Marks]) -> None:
    """Both sides must have trained the same: equal losses, step by step, trial by trial.

    Raises:
        BenchmarkFailed: they differ.
    """
    by_trial = {m.trial: m.losses for m in ours}
    for marks in peer:
        expected = by_trial.get(marks.trial)
        if expected is None or len(expected) != len(marks.losses):
            raise BenchmarkFailed(f"trial {marks.trial} did not run the same steps on both sides")
        for step, (a, b) in enumerate(zip(expected, marks.losses, strict=True), start=1):
            if a is None or b is None or abs(a - b) > LOSS_TOLERANCE * abs(a):
                raise BenchmarkFailed(
                    f"trial {marks.trial}, step {step}: our loss is {a}, the peer's {b}; "
                    "the two sides did not train the same"
                )


# --- a side is a process of its own -----------------------------------------------------------


def _measure(side: str, workload: Workload, trials: range, console: Console) -> list[Marks]:
    """Run trials of one side in a process of its own, telling how far it is."""
    marks = workload.folder / f"{side}-{trials.start}.jsonl"
    log = marks.with_suffix(".log")
    command = [
        *(sys.executable, "-m", "benchmarks.turnaround", "--side", side, str(marks)),
        *map(str, (workload.folder, workload.steps, trials.start, trials.stop)),
    ]
    deadline = time.monotonic() + SECONDS_PER_TRIAL * (len(trials) + 1)
    title = "winnow" if side == "ours" else PEER
    shown = 0
    with log.open("wb") as stream, console.status(f"{title}: starting Ray") as status:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() < deadline:
                done = read_marks(marks)
                for index in range(shown, len(done)):
                    console.print(_line(title, done, index), highlight=False)
                shown = len(done)
                status.update(f"{title}: {len(done)} of {len(trials)} trials done")
                time.sleep(0.5)
        finally:
            _end(process)
    done = read_marks(marks)
    for index in range(shown, len(done)):
        console.print(_line(title, done, index), highlight=False)
    if process.returncode != 0 or len(done) != len(trials):
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-40:])
        raise BenchmarkFailed(f"{title} trained {len(done)} of {len(trials)} trials:\n{tail}")
    return done


def _line(title: str, marks: Sequence[Marks], index: int) -> str:
    now = marks[index]
    text = f"[dim]{title:<18}[/]trial {now.trial + 1} "
    if index and marks[index - 1].group == now.group:
        return text + f"{now.first_step - marks[index - 1].last_step:6.2f} s turnaround, warm"
    text += f"{now.first_step - now.handed:6.2f} s cold start"
    if index and title != "winnow":
        text += f", {now.first_step - marks[index - 1].last_step:.2f} s turnaround"
    return text


def _prepare(workload: Workload) -> None:
    try:
        prepare(workload, timeout=600)
    except subprocess.CalledProcessError as error:
        raise BenchmarkFailed(f"training alone failed:\n{error.stderr[-3000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise BenchmarkFailed("training alone did not end within ten minutes") from error


def _environment() -> dict[str, str]:
    """The same for both sides: a Ray of their own, no hub, one thread a rank."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started, if it hasn't ended by itself."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)  # Ray ends its own processes on this
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _run_side(side: str, workload: Workload, trials: range, marks: Path) -> None:
    import ray

    _end_with_parent()
    # Two workers, the peer's driver function, and one to spare.
    ray.init(
        address="local",
        num_cpus=RANKS + 2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    module = importlib.import_module(f"benchmarks.turnaround_{side}")
    try:
        module.run(workload, trials, marks)
    finally:
        ray.shutdown()


def _end_with_parent() -> None:
    """Get SIGTERM when the process that measures is gone, however it went (Linux)."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(pr_set_pdeathsig, signal.SIGTERM)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.turnaround",
        description="Time from one trial's end to the next one's first optimizer step, "
        "against Ray Train inside Ray Tune.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer trials: about three minutes")
    parser.add_argument("--out", type=Path, required=True, help="where to write the result (JSON)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        _, _, name, marks_file, folder, steps, start, stop = sys.argv
        work = Workload(Path(folder), int(steps))
        _run_side(name, work, range(int(start), int(stop)), Path(marks_file))
    else:
        sys.exit(main())
