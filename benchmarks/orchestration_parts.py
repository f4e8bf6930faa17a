"""The parts of `benchmarks/orchestration.py`, each a process of its own; prints one JSON object."""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.simulated_training import Training, evaluation, step
from orchestrator.store import Store, migrate
from trainer.metrics import Batch
from winnow.spec import SweepSpec

SLOTS = 4
FACTS = {"train_samples": 1000, "train_sets": [1000], "parameters": 7}


def main() -> None:
    part, folder, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    logging.basicConfig(level=logging.ERROR)
    parts: dict[str, Callable[[Path, int], dict[str, Any]]] = {
        "rate-ours": rate_ours,
        "rate-peer": rate_peer,
        "weights": weights,
        "flat": flat,
    }
    print(json.dumps(parts[part](folder, size)))


def new_store(folder: Path) -> Store:
    url = f"sqlite:///{folder / 'winnow.db'}"
    migrate(url)
    return Store(url)


def submit(store: Store, trials: int, *, samples: int, **changes: Any) -> str:
    document: dict[str, Any] = {
        "name": "benchmark",
        "model": "/models/none",
        "data": {
            "train": [{"path": "/data/train.jsonl"}],
            "eval": [{"path": "/data/eval.jsonl", "name": "held-out"}],
        },
        "space": {"learning_rate": {"log_uniform": [1e-6, 1e-2]}},
        "training": {"effective_batch_size": 10, "max_samples": samples},
        "search": {"sampler": "random", "trials": trials, "reuse": False},
        "scheduler": {"name": "none", "rungs": []},
    }
    spec = SweepSpec.model_validate(document | changes).model_dump(mode="json")
    return store.create_sweep(spec, trials, "benchmark", FACTS).id


# --- rate --------------------------------------------------------------------------------------


def rate_ours(folder: Path, trials: int) -> dict[str, Any]:
    """No-op trials through the database and Tune."""
    import ray
    from ray import tune

    from orchestrator.raytune import tune_run
    from orchestrator.raytune.assignment import GroupShape
    from orchestrator.raytune.conductor import StudyConductor
    from orchestrator.study import Study

    class Nothing(tune.Trainable):
        """A shell without a worker group: one step, one evaluation, done."""

        def setup(self, config: dict[str, Any], environment: object = None) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            batch = Batch(
                status="completed",
                steps=(step(1, 10),),
                evaluations=(evaluation(1, 10),),
                total_steps=1,
                total_samples=10,
            )
            return {"batch": batch, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {}

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

    tune_run.TrialShell = Nothing  # type: ignore[misc,assignment]
    store = new_store(folder)
    ray.init(num_cpus=SLOTS, include_dashboard=False, logging_level=logging.ERROR)
    began, cpu = time.perf_counter(), _cpu()
    sweep_id = submit(store, trials, samples=10)
    lease = store.acquire_lease(sweep_id, "the benchmark", 3600)
    assert lease is not None
    study = Study(store, lease, folder, checkpoint_seconds=60, slots=SLOTS)
    conductor = StudyConductor(study, SLOTS, threading.Event())
    tune_run.run(conductor, GroupShape(ranks=1, cpus_per_rank=1, gpus_per_rank=0))
    conductor.close()
    seconds, cpu = time.perf_counter() - began, _cpu() - cpu
    done = store.get_sweep(sweep_id)
    completed = done.summary.by_state.get("COMPLETED", 0)
    if completed != trials:
        raise RuntimeError(f"{completed} of {trials} trials completed: {done.summary.by_state}")
    ray.shutdown()
    return _rate(trials, seconds, cpu)


def rate_peer(folder: Path, trials: int) -> dict[str, Any]:
    """The same with Tune alone; its own files and chatter are off as they are for ours."""
    import ray
    from ray import tune

    from orchestrator.raytune.tune_run import ENVIRONMENT

    os.environ.update(ENVIRONMENT)

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"loss": 1.0, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {}

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

    ray.init(num_cpus=SLOTS, include_dashboard=False, logging_level=logging.ERROR)
    tuner = tune.Tuner(
        tune.with_resources(Nothing, {"CPU": 1}),
        param_space={"rate": tune.loguniform(1e-6, 1e-2)},
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(
            name="peer",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    began, cpu = time.perf_counter(), _cpu()
    results = tuner.fit()
    seconds, cpu = time.perf_counter() - began, _cpu() - cpu
    if len(results) != trials or results.num_errors:
        raise RuntimeError(f"{len(results)} of {trials} trials, {results.num_errors} errors")
    ray.shutdown()
    return _rate(trials, seconds, cpu)


def _rate(trials: int, seconds: float, cpu: float) -> dict[str, Any]:
    """`cpu_ms_per_trial`: of the driver's process; a busy machine doesn't change it much."""
    return {
        "rate": trials / seconds,
        "seconds": seconds,
        "trials": trials,
        "slots": SLOTS,
        "cpu_ms_per_trial": cpu / trials * 1000,
    }


# --- weights -----------------------------------------------------------------------------------


def weights(folder: Path, seconds: int) -> dict[str, Any]:
    """Twenty sweeps on eight slots: how far each is from its weight's part of all slot-seconds."""
    from benchmarks.simulated_training import Drivers, Machine
    from orchestrator.settings import Settings
    from orchestrator.supervision.reconcile import Orchestrator

    slots, quantum = 8, 2.0
    store = new_store(folder)
    wanted = {
        submit(store, 10_000, samples=10_000_000, sharing={"weight": 1.0 + n % 4}): 1.0 + n % 4
        for n in range(20)
    }
    settings = Settings(
        home=folder,
        database_url=f"sqlite:///{folder / 'winnow.db'}",
        share_quantum_seconds=quantum,
        lease_seconds=600,
    )
    drivers = Drivers(settings)
    orchestrator = Orchestrator(settings, drivers, Machine(slots))
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        orchestrator.turn()
        time.sleep(0.25)
    held = {sweep_id: store.usage(sweep_id).held_hours * 3600 for sweep_id in wanted}
    attempts = sum(t.attempt for s in wanted for t in store.list_trials(s).items)
    drivers.leave()
    orchestrator.close()
    whole, weight = sum(held.values()), sum(wanted.values())
    parts = {s: held[s] / whole / (wanted[s] / weight) for s in wanted}
    off = [part - 1 for part in parts.values()]
    return {
        "part_of_fair_by_weight": {
            f"{w:g}": [round(parts[s], 3) for s in wanted if wanted[s] == w]
            for w in sorted(set(wanted.values()))
        },
        "sweeps": len(wanted),
        "slots": slots,
        "seconds": seconds,
        "quantum_s": quantum,
        "off_most": max(abs(one) for one in off),
        "off_rms": statistics.fmean(one * one for one in off) ** 0.5,
        "slot_seconds_used": whole / (slots * seconds),
        "attempts": attempts,
        "attempts_per_slot_minute": attempts / slots / (seconds / 60),
    }


# --- flat --------------------------------------------------------------------------------------


def flat(folder: Path, seconds: int) -> dict[str, Any]:
    """Two hundred trials reporting every second: the process's CPU and memory over time."""
    from orchestrator.study import Study

    trials, steps = 200, 5
    store = new_store(folder)
    sweep_id = submit(store, trials, samples=10 * steps * seconds * 100)
    lease = store.acquire_lease(sweep_id, "the benchmark", 36_000)
    assert lease is not None
    study = Study(store, lease, folder, checkpoint_seconds=600, slots=trials + 1)
    live: dict[str, Training] = {}
    while len(live) < trials and (attempt := study.next()) is not None:
        training = Training(attempt, steps_per_report=steps)
        if training.total_steps:
            live[attempt.id] = training
        else:
            study.report(attempt.id, training.advance("go"))  # the model before training
    samples: list[tuple[float, float, float]] = []
    late, began, cpu_before = 0.0, time.monotonic(), _cpu()
    for second in range(seconds):
        for index, (attempt_id, training) in enumerate(live.items()):
            due = began + second + index / trials
            if (ahead := due - time.monotonic()) > 0.005:
                time.sleep(ahead)
            study.report(attempt_id, training.advance("go"))
            if index % (trials // 5) == 0:
                study.drain_commands()
        late = max(late, time.monotonic() - (began + second + 1))
        cpu = _cpu()
        samples.append((float(second), cpu - cpu_before, _memory_mb()))
        cpu_before = cpu
    warm = [s for s in samples if s[0] >= seconds / 6]  # caches fill first
    found: dict[str, Any] = {
        "trials": trials,
        "seconds": seconds,
        "points": trials * steps * seconds,
    }
    for index, what, unit in ((1, "cpu", "of_a_core_per_hour"), (2, "memory", "mb_per_hour")):
        # The median of all pairs' slopes: seconds in which the machine stood still do not count.
        slope = statistics.median(
            (after[index] - before[index]) / (after[0] - before[0])
            for before, after in itertools.combinations(warm, 2)
        )
        mean = statistics.fmean(s[index] for s in warm)
        found |= {
            f"{what}_mean": mean,
            f"{what}_slope_{unit}": slope * 3600,
            f"{what}_drift": slope * (warm[-1][0] - warm[0][0]) / mean,
        }
    return found | {"late_most_s": max(0.0, late)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
