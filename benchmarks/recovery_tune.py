"""The peer's side of `benchmarks/recovery.py`: a Ray Tune run, and its restoration.

As Ray's guide on fault tolerance has it: a class trainable that checkpoints, `Tuner.fit`, and
`Tuner.restore(path, trainable, resume_errored=True)` in a new process. What a trial trains is our
own trainer's run on one rank. Its checkpoint for Tune is a note of where the trainer's own one
lies, so that Tune has next to nothing to copy.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from benchmarks.workload import Workload

CHECKPOINT_SECONDS = 1.0
TRIALS = 40


class Fine(tune.Trainable):
    """One trial: about a second of training a step, and a checkpoint with it."""

    def setup(self, config: dict[str, Any]) -> None:
        from trainer import engine

        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ[name] = "0"
        engine.join(0, 1, "127.0.0.1", 0)
        self._workload = Workload(Path(config["folder"]), config["steps"])
        self._number = config["trial"]
        self._run: Any = None
        self._resume: Path | None = None

    def step(self) -> dict[str, Any]:
        if self._run is None:
            from trainer.loop import Run

            config = self._workload.config(self._number).model_copy(
                update={"checkpoint_every_seconds": CHECKPOINT_SECONDS}
            )
            self._run = Run(config, resume_from=self._resume)
        batch = self._run.advance(CHECKPOINT_SECONDS, lambda: "go")
        now = time.time()
        with (self._workload.folder / "marks.jsonl").open("a") as marks:
            for step in batch.steps:
                line = {"trial": str(self._number), "step": step.step, "at": now}
                marks.write(json.dumps(line) + "\n")
        loss = batch.steps[-1].loss if batch.steps else None
        return {"loss": loss, "done": batch.status != "running"}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        from trainer.checkpoint import latest

        found = latest(Path(self._workload.config(self._number).output_dir))
        Path(checkpoint_dir, "where").write_text("" if found is None else str(found))

    def load_checkpoint(self, checkpoint: Any) -> None:
        where = Path(str(checkpoint), "where").read_text()
        self._resume = Path(where) if where else None
        self._run = None


def main() -> None:
    how, folder, steps = sys.argv[1:]
    logging.disable(logging.WARNING)
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    storage = Path(folder) / "tune"
    if how == "restore":
        tuner = tune.Tuner.restore(str(storage / "peer"), Fine, resume_errored=True)
    else:
        tuner = tune.Tuner(
            tune.with_resources(Fine, {"CPU": 1}),
            param_space={
                "folder": folder,
                "steps": int(steps),
                "trial": tune.grid_search(list(range(TRIALS))),
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=2),
            run_config=tune.RunConfig(
                name="peer",
                storage_path=str(storage),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            ),
        )
    tuner.fit()


if __name__ == "__main__":
    main()
