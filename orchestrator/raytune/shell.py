"""The trainable that Tune sees: a shell around a worker group, reused from trial to trial.

`setup` and `reset_config` only note what to train; the group is built or reset inside `step`,
because Tune may set up shells for trials that never run on them. Errors never leave `step`: they
come back as a failed batch, so that the shell stays usable and the cause is named where it is
visible.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

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
            if lost_a_node():
                raise  # a group can't be rebuilt in this placement: Tune is to make another
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


def lost_a_node() -> bool:
    """Whether a node of this shell's placement group is gone."""
    placement = ray.util.get_current_placement_group()
    if placement is None:
        return False
    placed = ray.util.placement_group_table(placement).get("bundles_to_node_id", {})
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return any(node not in alive for node in placed.values() if node)
