"""How soon a sweep trains again after its driver is killed, and how soon a stopped trial is gone.

    python -m benchmarks.recovery [--quick] --out recovery.json

Ours is a whole server (`winnow up`) with a real sweep; the peer is Ray Tune's own way, on the same
trials with the same trainer: its driver is killed, and `Tuner.restore` is called at once, as no
person could. Both write a checkpoint a second, train two trials at a time with one rank each, and
run on a local Ray that outlives the driver.

*Recovery* is the time from kill -9 of the driver to the first optimizer step of a trial that goes
on: for ours when it is stored, for the peer when its worker has made it. *Steps lost* are those
that had been made (ours: stored) and were made again, over all trials, finished ones included.

*Command* is the time from a user's `stop` of a running trial to its slot being free: from before
the request is sent until the trial's end is visible to every reader. Ray Tune has no way to stop a
trial from outside.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.report import machine, versions
from benchmarks.workload import BATCH, Workload, make_workload
from winnow.client import Client

LEASE_SECONDS = 2.0
STEPS = 600
SLOTS = 2
PEER = "Ray Tune's Tuner.restore"


class BenchmarkFailed(Exception):
    """A side could not be measured. The message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up
    console = Console()
    kills, peer_kills, stops = (2, 1, 10) if options.quick else (7, 4, 100)
    with tempfile.TemporaryDirectory(prefix="winnow-recovery-") as name:
        workload = make_workload(Path(name), STEPS)
        try:
            ours = _ours(workload, kills, stops, console)
            peer = _peer(workload, peer_kills, console)
        except (BenchmarkFailed, TimeoutError) as error:
            console.print(f"[red]The benchmark failed.[/] {error}", highlight=False)
            return 1
    result = _as_json(options.quick, ours, peer)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draft = options.out.with_name(options.out.name + ".new")
    draft.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(options.out)
    _show(result, console)
    console.print(f"Written to {options.out}", style="dim", highlight=False)
    return 0


# --- ours -------------------------------------------------------------------------------------


def _ours(workload: Workload, kills: int, stops: int, console: Console) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {"recovery": [], "lost": [], "command": []}
    chance = random.Random(1)
    home = workload.folder / "home"
    with _server(home) as client, contextlib.closing(_reader(home / "winnow.db")) as rows:
        sweep = client.submit(_sweep(workload, 4 + stops)).id
        _wait(lambda: _trained(rows, sweep) > 20, 300, "no trial trains")
        for number in range(kills):
            time.sleep(chance.uniform(4.0, 8.0))
            (pid,) = _wait(lambda: _drivers(home), 30, "there is no driver")
            epoch = rows.execute("SELECT epoch FROM sweeps WHERE id = ?", (sweep,)).fetchone()[0]
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            _wait(lambda e=epoch: _goes_on(rows, sweep, e), 120, "no trial trains again")
            samples["recovery"].append(time.monotonic() - killed)
            samples["lost"].append(_lost(rows, sweep, epoch))
            console.print(
                f"[dim]winnow, kill {number + 1:>2}     [/]{samples['recovery'][-1]:6.2f} s, "
                f"{samples['lost'][-1]:.0f} steps lost",
                highlight=False,
            )
        while len(samples["command"]) < stops:
            trial = _wait(lambda: _running(rows, sweep), 60, "no trial runs")
            began = time.monotonic()
            client.stop(trial)
            _wait(lambda t=trial: _has_ended(rows, t), 60, f"{trial} does not stop")
            samples["command"].append(time.monotonic() - began)
            time.sleep(chance.uniform(0.0, 0.5))
        client.cancel(sweep)
        _wait(lambda: client.sweep(sweep).state.ended, 60, "the sweep does not end")
    return samples


def _sweep(workload: Workload, trials: int) -> dict[str, Any]:
    config = workload.config(0)
    return {
        "name": "recovery",
        "model": config.model,
        "data": {
            "train": [{"path": config.data.train[0].path}],
            "eval": [{"path": str(_held_out(workload)), "name": "sums"}],
            "max_length": 256,
        },
        "space": {"learning_rate": {"log_uniform": [1e-5, 1e-3]}},
        "training": {
            "effective_batch_size": BATCH,
            "max_samples": BATCH * STEPS,
            "schedule": "constant",
            "precision": "fp32",
            "max_tokens_per_microbatch": 2048,
            "exact_match": False,
        },
        "search": {"sampler": "random", "trials": trials, "seed": 1},
        "scheduler": {"name": "none"},
        "resources": {"max_concurrent": SLOTS},
    }


def _held_out(workload: Workload) -> Path:
    """A few samples to choose a winner on; no trial of the benchmark gets that far."""
    path = workload.folder / "eval.jsonl"
    lines = (workload.folder / "train.jsonl").read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:BATCH]), "utf-8")
    return path


@contextlib.contextmanager
def _server(home: Path) -> Iterator[Client]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "WINNOW_"))}
    env |= {
        "WINNOW_HOME": str(home),
        "WINNOW_LEASE_SECONDS": str(LEASE_SECONDS),
        "WINNOW_CHECKPOINT_SECONDS": "1",
    }
    home.mkdir(parents=True)
    command = [
        str(Path(sys.executable).with_name("winnow")),
        "up",
        "--cpus",
        str(SLOTS),
        "--port",
        str(_free_port()),
    ]
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            ready = home / "server.json"
            _wait(lambda: ready.exists() or process.poll() is not None, 180, "winnow up hangs")
            if process.poll() is not None:
                raise BenchmarkFailed((home / "up.log").read_text()[-3000:])
            where = json.loads(ready.read_text())
            with Client(where["url"], (home / "token").read_text().strip()) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            if process.poll() is None:
                process.kill()


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)


def _drivers(home: Path) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            mark = f"WINNOW_HOME={home}".encode()
            if b"drive" in words and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _trained(rows: sqlite3.Connection, sweep: str) -> int:
    query = "SELECT coalesce(sum(step), 0) FROM trials WHERE sweep_id = ?"
    return rows.execute(query, (sweep,)).fetchone()[0]


def _goes_on(rows: sqlite3.Connection, sweep: str, epoch: int) -> bool:
    """Whether a step of an attempt by a later driver is stored."""
    query = (
        "SELECT 1 FROM metrics m JOIN attempts a ON a.trial_id = m.trial_id "
        "AND a.attempt = m.attempt JOIN trials t ON t.id = a.trial_id "
        "WHERE t.sweep_id = ? AND a.epoch > ? LIMIT 1"
    )
    return rows.execute(query, (sweep, epoch)).fetchone() is not None


def _lost(rows: sqlite3.Connection, sweep: str, epoch: int) -> float:
    """Steps of the killed driver's attempts that no longer count."""
    query = (
        "SELECT count(*) FROM metrics m JOIN attempts a ON a.trial_id = m.trial_id "
        "AND a.attempt = m.attempt JOIN trials t ON t.id = a.trial_id "
        "WHERE t.sweep_id = ? AND a.epoch = ? AND m.superseded"
    )
    return float(rows.execute(query, (sweep, epoch)).fetchone()[0])


def _running(rows: sqlite3.Connection, sweep: str) -> str | None:
    """A trial that has trained for a while in its slot."""
    query = (
        "SELECT id FROM trials WHERE sweep_id = ? AND state = 'RUNNING' AND kind = 'search' "
        "AND step > 5 ORDER BY number LIMIT 1"
    )
    found = rows.execute(query, (sweep,)).fetchone()
    return found[0] if found else None


def _has_ended(rows: sqlite3.Connection, trial: str) -> bool:
    query = "SELECT state FROM trials WHERE id = ?"
    return rows.execute(query, (trial,)).fetchone()[0] == "CANCELED"


# --- the peer ---------------------------------------------------------------------------------


def _peer(workload: Workload, kills: int, console: Console) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {"recovery": [], "lost": []}
    chance = random.Random(2)
    marks = workload.folder / "marks.jsonl"
    with _ray(workload.folder) as env:
        started = time.time()
        driver = _tune(workload, env, "fit")
        try:
            _wait(lambda: _marks(marks, started), 300, "the peer's trials don't train")
            for number in range(kills):
                time.sleep(chance.uniform(12.0, 20.0))
                os.killpg(driver.pid, signal.SIGKILL)
                killed = time.time()
                driver.wait()
                driver = _tune(workload, env, "restore")
                _wait(
                    lambda k=killed: _marks(marks, k + 0.5), 180, "the restored run doesn't train"
                )
                first = min(m["at"] for m in _marks(marks, killed + 0.5))
                samples["recovery"].append(first - killed)
                time.sleep(8.0)  # so that both trials have gone on
                samples["lost"].append(_made_again(marks, killed))
                console.print(
                    f"[dim]Tuner.restore, {number + 1:>2}     [/]{first - killed:6.2f} s, "
                    f"{samples['lost'][-1]:.0f} steps lost",
                    highlight=False,
                )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
    return samples


@contextlib.contextmanager
def _ray(folder: Path) -> Iterator[dict[str, str]]:
    """A local Ray that outlives the driver."""
    ray = str(Path(sys.executable).with_name("ray"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
    port = _free_port()
    env = kept | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [
        *(ray, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"),
        *("--include-dashboard=false", f"--num-cpus={SLOTS}", f"--temp-dir={folder / 'r'}"),
        "--object-store-memory=100000000",
    ]
    with (folder / "ray.log").open("wb") as log:
        head = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield env | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            head.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)


def _tune(workload: Workload, env: dict[str, str], how: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.recovery_tune", how]
    with (workload.folder / "tune.log").open("ab") as log:
        return subprocess.Popen(
            [*command, str(workload.folder), str(workload.steps)],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _marks(file: Path, since: float) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    read = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return [mark for mark in read if mark["at"] > since]


def _made_again(file: Path, killed: float) -> float:
    """Steps that were made before the kill and once more after it."""
    before: dict[str, set[int]] = defaultdict(set)
    again = 0
    for mark in _marks(file, 0.0):
        if mark["at"] < killed:
            before[mark["trial"]].add(mark["step"])
        else:
            again += mark["step"] in before[mark["trial"]]
    return float(again)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- both -------------------------------------------------------------------------------------


def _wait(condition: Callable[[], Any], seconds: float, problem: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise TimeoutError(f"{problem} after {seconds:g} s")


def _as_json(
    quick: bool, ours: dict[str, list[float]], peer: dict[str, list[float]]
) -> dict[str, Any]:
    command = sorted(ours["command"])
    p99 = command[min(len(command) - 1, round(0.99 * (len(command) - 1)))]
    return {
        "name": "Recovery",
        "quick": quick,
        "ours": {
            **_side(ours, "recovery", "lost"),
            "recovery_beyond_lease_s": round(
                statistics.median(max(0.0, s - LEASE_SECONDS) for s in ours["recovery"]), 3
            ),
            "command_s": round(statistics.median(command), 3),
            "command_p99_s": round(p99, 3),
            "command_samples_s": [round(s, 3) for s in ours["command"]],
        },
        "peer": {"name": PEER, **_side(peer, "recovery", "lost")},
        "ratio": {
            "recovery": round(
                statistics.median(peer["recovery"]) / statistics.median(ours["recovery"]), 2
            )
        },
        "target": {"recovery_beyond_lease_s": 15.0, "command_p99_s": 2.0},
        "definition": {
            "recovery": "from kill -9 of the driver to the first optimizer step of a trial that "
            "goes on; the peer is restored at once, by a script",
            "lost": "optimizer steps that had been made and were made again, over all trials",
            "command": "from a user's stop of a running trial to its slot being free; Ray Tune "
            "has no way to stop a trial from outside",
        },
        "work": {
            "trials_at_once": SLOTS,
            "steps_per_trial": STEPS,
            "samples_per_step": BATCH,
            "checkpoint_every_s": 1.0,
            "lease_s": LEASE_SECONDS,
            "kills": len(ours["recovery"]),
            "peer_kills": len(peer["recovery"]),
            "stops": len(command),
        },
        "versions": versions(),
        "machine": machine(),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _side(samples: dict[str, list[float]], time_key: str, count_key: str) -> dict[str, Any]:
    return {
        f"{time_key}_s": round(statistics.median(samples[time_key]), 3),
        f"{time_key}_samples_s": [round(s, 3) for s in samples[time_key]],
        f"{count_key}_steps": statistics.median(samples[count_key]),
        f"{count_key}_samples_steps": samples[count_key],
    }


def _show(result: dict[str, Any], console: Console) -> None:
    ours, peer, target = result["ours"], result["peer"], result["target"]
    console.print(
        f"\nrecovery: {ours['recovery_s']:.2f} s, {ours['lost_steps']:.0f} steps lost "
        f"({PEER}: {peer['recovery_s']:.2f} s, {peer['lost_steps']:.0f} steps lost)\n"
        f"beyond the lease: {ours['recovery_beyond_lease_s']:.2f} s "
        f"(target: at most {target['recovery_beyond_lease_s']:g} s)\n"
        f"command to free slot: median {ours['command_s']:.2f} s, p99 "
        f"{ours['command_p99_s']:.2f} s (target: at most {target['command_p99_s']:g} s)",
        highlight=False,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recovery",
        description="Time from a killed driver to trials training again, against Tuner.restore; "
        "and from a user's command to a free slot.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples: about three minutes")
    parser.add_argument("--out", type=Path, required=True, help="where to write the result (JSON)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
