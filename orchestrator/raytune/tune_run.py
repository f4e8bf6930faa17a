"""A Ray Tune run whose every choice is ours: what starts, when it stops, how many run at once.

Tune brings placement, actors, their reuse and the event loop. One Tune trial is one *attempt*: it
is never paused, retried, checkpointed or restored by Tune, because the database is the only truth
and a new attempt covers pausing, recovery and preemption alike.

All private names of Tune that we rely on stand in this file. `tests/integration/test_tune_run.py`
checks each against the pinned Ray.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.callback import Callback
from ray.tune.experiment import Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.search_algorithm import SearchAlgorithm

from orchestrator.environment import Environment
from orchestrator.raytune.assignment import Assignment, GroupShape
from orchestrator.raytune.beats import Beats
from orchestrator.raytune.shell import TrialShell
from orchestrator.raytune.workers import Control, rank_name
from trainer.metrics import Batch

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "300",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Tune's own files, snapshots and chatter off. Set before the run."""


MOST_PENDING = 256
"""Attempts that may wait for their placement at once: our own limit is what counts."""


class Conductor(Protocol):
    """Who decides. Called only from Tune's loop, so never twice at once."""

    @property
    def limit(self) -> int:
        """How many attempts may run at once, now."""
        ...

    def next(self) -> Assignment | None:
        """What to start in a free slot; None to wait."""
        ...

    @property
    def finished(self) -> bool:
        """Nothing will ever be started again."""
        ...

    def report(self, attempt_id: str, batch: Batch) -> Control:
        """Take in what an attempt did; what it is to do next (ignored once it has ended)."""
        ...

    def lost(self, attempt_id: str, message: str) -> None:
        """The attempt's shell died: no report will come."""
        ...

    def tick(self) -> list[tuple[str, Control]]:
        """Called every turn of the loop: attempts that are to yield because somebody asked."""
        ...


def run(
    conductor: Conductor,
    shape: GroupShape,
    *,
    environment: Environment | None = None,
    yield_seconds: float = 30.0,
    stop_seconds: float = 1.5,
    hang_seconds: float = 1800.0,
    seconds_left: Callable[[], float] | None = None,
) -> None:
    """Run attempts until the conductor has finished. Ray must be initialised.

    `environment` is set in every rank, over what its node has.
    An attempt that was asked to yield and does not within `yield_seconds` (`stop_seconds`, if it
    need not leave a checkpoint), or that does not get on with its work for `hang_seconds`, has its
    ranks killed; its shell survives and reports a failure.
    `seconds_left`: for how long the driver holds its lease; the ranks are told if
    `shape.lease_seconds` is set.
    """
    os.environ.update(ENVIRONMENT)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(MOST_PENDING, conductor.limit))
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    storage = tempfile.mkdtemp(prefix="winnow-tune-")
    bundles = [
        {"CPU": shape.cpus_per_rank, "GPU": shape.gpus_per_rank}
        if shape.gpus_per_rank
        else {"CPU": shape.cpus_per_rank}
    ] * shape.ranks
    placement = tune.PlacementGroupFactory([{}, *bundles], strategy="PACK")
    beats = None
    if seconds_left is not None and shape.lease_seconds is not None:
        beats = Beats(seconds_left, every=shape.lease_seconds / 8)
        beats.start()
    patience: dict[Control, float] = {"pause": yield_seconds, "stop": stop_seconds}
    hooks = _Hooks(conductor, shape, patience, beats, hang_seconds)
    # By reference: a trial's configuration would be written to Tune's files.
    shell = tune.with_parameters(TrialShell, environment=environment or Environment())
    try:
        tuner = tune.Tuner(
            tune.with_resources(shell, placement),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=_Source(conductor, hooks, shape),
                scheduler=_Loop(hooks),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=storage,
                verbose=0,
                callbacks=[_Reports(hooks)],
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    except Exception:
        if hooks.error is None:
            raise
    finally:
        if beats is not None:
            beats.end()
        shutil.rmtree(storage, ignore_errors=True)
    if hooks.error is not None:
        raise hooks.error  # the conductor's own, which Tune had wrapped


class _Hooks:
    """What the three Tune hooks share: the conductor, and who was asked to yield and when."""

    def __init__(
        self,
        conductor: Conductor,
        shape: GroupShape,
        patience: dict[Control, float],
        beats: Beats | None,
        hang_seconds: float,
    ) -> None:
        self.conductor = conductor
        self.shape = shape
        self.patience = patience
        self.beats = beats
        self.hang_seconds = hang_seconds
        self.controller: Any = None
        self.error: Exception | None = None
        self._asked: dict[str, tuple[float, Control]] = {}
        """Attempts that are to yield: until when, and how."""
        self.open: set[str] = set()
        """Attempts that were given to Tune and have not ended."""
        self._kept_warm = 0

    @contextlib.contextmanager
    def keeping_errors(self) -> Iterator[None]:
        """Remember what the conductor raises: Tune wraps it, or takes it for a trial's."""
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    def turn(self, controller: Any) -> None:
        self.controller = controller
        self._keep_warm(controller)
        self.drain()
        if self.beats is not None:
            for trial in controller.get_live_trials():
                actor = trial.temporary_state.ray_actor
                if actor is not None and not trial.is_finished():
                    name = partial(rank_name, actor._actor_id.hex())
                    self.beats.watch(trial.trial_id, name, self.shape.ranks)

    def _keep_warm(self, controller: Any) -> None:
        """Keep as many idle groups as there are slots for them, and no more: each holds GPUs."""
        if not (trials := controller.get_trials()):
            return
        cache, limit = controller._actor_cache, max(0, self.conductor.limit)
        if limit != self._kept_warm:
            # Attempts that end together would otherwise lose all groups but one.
            cache.increase_max(trials[0].placement_group_factory, by=limit - self._kept_warm)
            cache._may_keep_one = limit > 0
            self._kept_warm = limit
        # One that waits for its actor may be about to take an idle one.
        held = sum(
            t.temporary_state.ray_actor is not None and not t.is_finished()
            for t in controller.get_live_trials()
        )
        if cache.num_cached_objects and held + cache.num_cached_objects > limit:
            controller._cleanup_cached_actors(force_all=True)

    def drain(self) -> None:
        with self.keeping_errors():
            asked = self.conductor.tick()
        for attempt_id, control in asked:
            if attempt_id in self.open:  # an answer may come when the attempt has ended
                self.ask(attempt_id, control, wait=False)
        now = time.monotonic()
        for attempt_id, (until, _) in list(self._asked.items()):
            if now > until:
                log.warning("attempt %s did not yield in time; ending its workers", attempt_id)
                self._kill_ranks(attempt_id)
                del self._asked[attempt_id]
        if self.beats is not None:
            for attempt_id in self.beats.hanging(self.hang_seconds):
                log.warning(
                    "attempt %s has done nothing for %g s; ending its workers",
                    attempt_id,
                    self.hang_seconds,
                )
                self._kill_ranks(attempt_id)
                self.beats.forget(attempt_id)

    def report(self, trial: Trial, batch: Batch) -> None:
        if batch.status != "running":
            self.let_go(trial.trial_id)
        with self.keeping_errors():
            control = self.conductor.report(trial.trial_id, batch)
        if batch.status == "running" and control != "go":
            self.ask(trial.trial_id, control, wait=True)

    def ask(self, attempt_id: str, control: Control, *, wait: bool) -> None:
        """Tell rank 0 to yield; the others follow it. With `wait`, before its next step begins."""
        until, before = self._asked.get(attempt_id, (math.inf, "go"))
        if control != before:  # one that was to pause may have to stop, which takes less
            until = min(until, time.monotonic() + self.patience[control])
            self._asked[attempt_id] = (until, control)
        rank = self._rank(attempt_id, 0)
        if rank is None:
            return
        ref = rank.control.remote(attempt_id, control)
        if wait:
            with contextlib.suppress(Exception):
                ray.get(ref, timeout=2)

    def let_go(self, attempt_id: str) -> None:
        """The attempt has ended."""
        self.open.discard(attempt_id)
        self._asked.pop(attempt_id, None)
        if self.beats is not None:
            self.beats.forget(attempt_id)

    def _rank(self, attempt_id: str, rank: int) -> Any:
        trial = self.controller.get_trial(attempt_id) if self.controller is not None else None
        actor = trial.temporary_state.ray_actor if trial is not None else None
        if actor is None:
            return None
        try:
            return ray.get_actor(rank_name(actor._actor_id.hex(), rank))
        except ValueError:  # the group is not up yet, or is gone
            return None

    def _kill_ranks(self, attempt_id: str) -> None:
        for index in range(self.shape.ranks):
            rank = self._rank(attempt_id, index)
            if rank is not None:
                ray.kill(rank)


class _Source(SearchAlgorithm):
    """Gives Tune one attempt at a time, only into a free slot, so that the order is ours."""

    def __init__(self, conductor: Conductor, hooks: _Hooks, shape: GroupShape) -> None:
        self._conductor = conductor
        self._hooks = hooks
        self._shape = shape
        self._parser = _make_parser()
        self._experiment: Any = None
        self._counter = 0

    @property
    def total_samples(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._counter

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def add_configurations(self, experiments: Any) -> None:
        self._experiment = experiments[0] if isinstance(experiments, list) else experiments

    def next_trial(self) -> Trial | None:
        if not self._hooks.open:
            self._hooks.drain()  # with nothing live Tune asks only here
        if self._conductor.finished or len(self._hooks.open) >= self._conductor.limit:
            return None
        with self._hooks.keeping_errors():
            assignment = self._conductor.next()
        if assignment is None:
            return None
        self._counter += 1
        self._hooks.open.add(assignment.attempt_id)
        spec = dict(self._experiment.spec)
        spec["config"] = {"assignment": assignment, "shape": self._shape}
        return _create_trial_from_spec(
            spec,
            self._parser,
            evaluated_params={},
            experiment_tag=assignment.attempt_id,
            trial_id=assignment.attempt_id,
        )

    def is_finished(self) -> bool:
        return self._conductor.finished

    def has_checkpoint(self, dirpath: str) -> bool:
        return False

    def save_to_dir(self, *_: Any, **__: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        # Tune pickles its search algorithm to disk; ours holds database connections.
        return (_nothing, ())


class _Loop(FIFOScheduler):
    """Tune's scheduler hook: called in every turn of the loop, and asked who is next."""

    def __init__(self, hooks: _Hooks) -> None:
        super().__init__()
        self._hooks = hooks

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        controller = tune_controller._tune_controller
        self._hooks.turn(controller)
        # An idle group is for a trial that has none on its way. The first one of all would take it
        # and give up the group that is starting for it, so that trials which are shorter than a
        # group's start would run one after the other, in a single slot.
        for trial in controller._pending_trials_list:
            if trial in controller._pending_trials and trial not in controller._trial_to_actor:
                return trial
        return super().choose_trial_to_run(tune_controller)

    def __reduce__(self) -> Any:
        return (FIFOScheduler, ())


class _Reports(Callback):
    """Takes every report, the last of an attempt too (a scheduler would not see that one)."""

    def __init__(self, hooks: _Hooks) -> None:
        self._hooks = hooks

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        batch = result.pop("batch", None)
        if batch is not None:
            self._hooks.report(trial, batch)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        error = trial.get_error()
        message = str(error).strip().splitlines()[0] if error else "its process ended"
        self._hooks.let_go(trial.trial_id)
        with self._hooks.keeping_errors():
            self._hooks.conductor.lost(trial.trial_id, f"the trial's process was lost: {message}")

    def __reduce__(self) -> Any:
        return (Callback, ())


def _nothing() -> None:
    return None
