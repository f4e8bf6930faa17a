"""The peer's side of `benchmarks/turnaround.py`: Ray Train inside Ray Tune, as Ray's guide has it.

The guide is "Hyperparameter Tuning with Ray Tune" in the Ray Train documentation (Train V2): Tune
runs a function as a trial, the function launches a `TorchTrainer`, `max_concurrent_trials` keeps
trials from competing for workers, and `TuneReportCallback` passes results on. What a worker trains
is our own trainer's run, with the same settings of DeepSpeed and of the garbage collector that our
workers have.
"""

from __future__ import annotations

import gc
import time
import uuid
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback

from benchmarks.workload import RANKS, Marks, Workload, steps_of, write_marks


def run(workload: Workload, trials: range, marks: Path) -> None:
    """Train `trials`, one after another.

    Raises:
        RuntimeError: a trial failed.
    """
    storage = workload.folder / "ray"
    tuner = ray.tune.Tuner(
        _launch,
        param_space={
            "storage": str(storage),
            "train_loop_config": {
                "folder": str(workload.folder),
                "steps": workload.steps,
                "marks": str(marks),
                "trial": ray.tune.grid_search(list(trials)),
                # Drawn when Tune makes the trial, which it does once the one before has ended.
                "handed": ray.tune.sample_from(lambda _: time.time()),
            },
        },
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=1),
        run_config=ray.tune.RunConfig(
            name=f"turnaround-{uuid.uuid4().hex[:6]}", storage_path=str(storage), verbose=0
        ),
    )
    for result in tuner.fit():
        if result.error is not None:
            raise RuntimeError(str(result.error))


def _launch(config: dict[str, Any]) -> None:
    """One trial: a Ray Train run."""
    trainer = ray.train.torch.TorchTrainer(
        _train,
        train_loop_config=config["train_loop_config"],
        scaling_config=ray.train.ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name=f"train-{ray.tune.get_context().get_trial_id()}",
            storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def _train(config: dict[str, Any]) -> None:
    """One rank of a trial. Ray has formed the process group.

    The time is taken here, on rank 0, the moment a step returns: to the peer's advantage, for ours
    is taken where the report arrives. It reports once, at the end: `ray.train.report` returns
    about every two seconds, and this way no step waits for it.
    """
    _adopt_process_group()
    marks = Marks(config["trial"], config["trial"], config["handed"], 0.0, 0.0, [])
    workload = Workload(Path(config["folder"]), config["steps"])
    for step in steps_of(workload.config(config["trial"])):
        marks.last_step = time.time()
        marks.first_step = marks.first_step or marks.last_step
        marks.losses.append(step.loss)
    if ray.train.get_context().get_world_rank() == 0:
        write_marks(Path(config["marks"]), marks)
    ray.train.report({"loss": marks.losses[-1]})


def _adopt_process_group() -> None:
    """What `trainer.engine.join` does for our workers, with the process group that Ray formed."""
    import torch

    from trainer import engine  # isort: skip  # sets what deepspeed reads when it is imported

    import deepspeed
    from deepspeed.ops import __compatible_ops__ as compatible_ops

    assert engine.world_size() == RANKS
    torch.set_num_threads(1)
    compatible_ops["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    gc.collect()
    gc.freeze()
