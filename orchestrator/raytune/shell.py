"""The trainable that Tune sees: a shell around a worker group, reused from trial to trial.

`setup` and `reset_config` only note what to train; the group is built or reset inside `step`,
because Tune may set up shells for trials that never run on them. Errors never leave `step`: they
come back as a failed batch, so that the shell stays usable and the cause is named where it is
visible.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import exceptions, tune

from orchestrator.environment import Environment
from orchestrator.raytune.assignment import Assignment, GroupShape
from orchestrator.raytune.workers import WorkerGroup, failure_of, is_infrastructure
from trainer.metrics import Batch

NO_VARIABLES = Environment()


class TrialShell(tune.Trainable):
    """Runs one attempt after another on one worker group."""

    def setup(self, config: dict[str, Any], environment: Environment = NO_VARIABLES) -> None:
        self._group: WorkerGroup | None = None
        self._environment = environment
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            batch = self._advance()
        except Exception as error:
            self._drop_group()
            if died_by_itself(error):
                # Its node may be gone with it, which is known only later, and a group can't be
                # rebuilt in a placement that lost a node: Tune is to make another.
                raise
            batch = Batch(
                status="failed",
                failure=failure_of(error),
                notes={"infrastructure": is_infrastructure(error)},
            )
        return {"batch": batch, "done": batch.status != "running"}

    def cleanup(self) -> None:
        self._drop_group()

    # Tune asks for these whenever it ends or reuses a trial. Our checkpoints are the trainer's own.
    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None

    def _take(self, config: dict[str, Any]) -> None:
        self._assignment: Assignment = config["assignment"]
        self._shape: GroupShape = config["shape"]
        self._started = False

    def _advance(self) -> Batch:
        if self._group is not None and not self._started and self._group.worn_out:
            self._drop_group()
        if self._group is None:
            name = ray.get_runtime_context().get_actor_id() or "shell"
            self._group = WorkerGroup(
                self._shape, ray.util.get_current_placement_group(), name, self._environment
            )
        if not self._started:
            failure = self._group.start(self._assignment)
            if failure is not None:
                self._drop_group()  # some ranks may have come further than others
                return Batch(status="failed", failure=failure)
            self._started = True
        return self._group.advance()

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None


def died_by_itself(error: BaseException) -> bool:
    """Whether a rank is gone that nobody here has ended."""
    return isinstance(error, exceptions.RayActorError) and "ray.kill" not in str(error)
