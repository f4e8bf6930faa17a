"""A worker group: one actor a rank, its process group formed once, used for one trial after
another.

Starting a group costs seconds (processes, imports, process group); starting the next trial on a
warm one costs the time to build its model. The group lives in the placement group of the Tune
trial that made it and dies with it: its actors are never detached, so Ray ends them with their
owner.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Literal

import ray
from ray import exceptions
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.environment import Environment
from orchestrator.raytune import leftovers
from orchestrator.raytune.assignment import Assignment, GroupShape
from orchestrator.raytune.output import Output
from trainer.errors import TrainerError, as_failure
from trainer.metrics import Batch, Failure

log = logging.getLogger(__name__)

Control = Literal["go", "pause", "stop"]

MOST_ATTEMPTS = 200
"""Attempts that a worker group trains before another one takes its place."""
FOREIGN_SHARE = 0.05
"""Share of a GPU's memory that others may hold when an attempt starts on it: contexts, displays."""
FREED_SECONDS = 10.0
"""How long an ended process may take to give its GPU memory back."""


def rank_name(shell_actor_id: str, rank: int) -> str:
    """The Ray name of a rank, known to whoever knows the shell's actor id."""
    return f"{shell_actor_id}-r{rank}"


class WorkerGroup:
    """The ranks of one shell. A group that has raised is finished: `close` it and make another."""

    def __init__(
        self,
        shape: GroupShape,
        placement: PlacementGroup | None,
        name: str,
        environment: Environment,
    ) -> None:
        self.shape = shape
        self._environment = environment
        self._ranks: list[Any] = []
        self._begun = 0
        try:
            self._start(placement, name)
        except BaseException:
            self.close()
            raise

    @property
    def worn_out(self) -> bool:
        """Whether it has trained so many attempts that a new group is safer."""
        return self._begun >= MOST_ATTEMPTS

    def start(self, assignment: Assignment) -> Failure | None:
        """Build the model and optimizer of `assignment` on every rank, replacing what was there.

        Returns why that could not be done, if it is the trial's own fault.
        """
        self._begun += 1
        failures = self._all([r.start.remote(assignment) for r in self._ranks])
        return next((f for f in failures if f is not None), None)

    def advance(self) -> Batch:
        """Train for about `report_seconds`; rank 0's report."""
        return self._all([r.advance.remote(self.shape.report_seconds) for r in self._ranks])[0]

    def close(self) -> None:
        """End every rank at once."""
        for rank in self._ranks:
            with contextlib.suppress(Exception):
                ray.kill(rank)
        self._ranks = []

    def _start(self, placement: PlacementGroup | None, name: str) -> None:
        for index in range(self.shape.ranks):
            strategy: Any = "DEFAULT"
            if placement is not None:
                strategy = PlacementGroupSchedulingStrategy(
                    placement, placement_group_bundle_index=index
                )
            self._ranks.append(
                Rank.options(
                    name=rank_name(name, index),
                    num_cpus=self.shape.cpus_per_rank,
                    num_gpus=self.shape.gpus_per_rank,
                    scheduling_strategy=strategy,
                    max_restarts=0,
                ).remote()
            )
        host, port = self._all([self._ranks[0].rendezvous.remote()])[0]
        self._all(
            [
                rank.join.remote(
                    index,
                    self.shape.ranks,
                    host,
                    port,
                    self._environment,
                    self.shape.lease_seconds,
                )
                for index, rank in enumerate(self._ranks)
            ]
        )

    def _all(self, refs: list[ray.ObjectRef]) -> list[Any]:
        """Every rank's answer, in order.

        One rank's death shows first as connection errors on its peers, so after the first error the
        others get a moment to speak, and a death or lack of memory is preferred over its echoes.
        """
        waiting = list(refs)
        errors: list[BaseException] = []
        while waiting and not errors:
            done, waiting = ray.wait(waiting, num_returns=1)
            errors += _errors(done)
        if errors:
            done, _ = (
                ray.wait(waiting, num_returns=len(waiting), timeout=2) if waiting else ([], [])
            )
            errors += _errors(done)
            raise max(errors, key=_rank_of_cause)
        return ray.get(refs)


def failure_of(error: BaseException) -> Failure:
    """What a worker group's error means for the trial.

    `infrastructure` is not among the trainer's own codes: the driver reads it from the notes of the
    batch, because such a trial runs again.
    """
    detail = "".join(traceback.format_exception(error))[-8000:]
    if isinstance(error, exceptions.OutOfMemoryError):
        return Failure("oom", "a worker was ended because its node ran out of memory", detail)
    if isinstance(error, (exceptions.RayActorError, exceptions.WorkerCrashedError)):
        return Failure("error", f"a worker process died: {_first_line(error)}", detail)
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, TrainerError):
        return as_failure(cause)
    if isinstance(cause, GpuInUse):
        return Failure("error", str(cause), "")
    return Failure("error", f"{type(cause).__name__}: {_first_line(cause)}", detail)


def is_infrastructure(error: BaseException) -> bool:
    """Whether the error is the machine's rather than the trial's."""
    if isinstance(getattr(error, "cause", None), GpuInUse):
        return True
    return isinstance(
        error,
        (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.ActorUnschedulableError,
        ),
    ) and not isinstance(error, exceptions.OutOfMemoryError)


class GpuInUse(Exception):
    """A GPU that this rank was given is held by another process."""


class _Rank:
    """One rank of a worker group: a process that trains what it is told."""

    def __init__(self) -> None:
        die_with_parent()
        self._run: Any = None
        self._rank = 0
        self._output = Output()
        self._attempt = ""
        self._control: tuple[str, Control] = ("", "go")
        self._lease: float | None = None
        self._good_until: tuple[str, float] = ("", 0.0)
        """The attempt that the driver last spoke of, and until when it holds its lease."""
        self._training = False
        self._moved = time.monotonic()
        """When it last got on with its work."""

    def rendezvous(self) -> tuple[str, int]:
        """This node's address and a port that is free now. The other ranks meet here."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return host, probe.getsockname()[1]

    def join(
        self,
        rank: int,
        world: int,
        host: str,
        port: int,
        environment: Environment,
        lease_seconds: float | None,
    ) -> None:
        # Before anything is imported that reads it: the hub's client does so once.
        os.environ.update(environment)
        import torch

        from trainer import engine

        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        engine.join(rank, world, host, port, local_rank=0)
        self._rank = rank
        self._lease = lease_seconds
        if lease_seconds is not None:
            threading.Thread(target=self._keep_time, name="lease", daemon=True).start()

    def start(self, assignment: Assignment) -> Failure | None:
        from trainer.config import TrainConfig
        from trainer.errors import as_failure
        from trainer.loop import Run

        if self._run is not None:
            self._run.close()
            self._run = None
        self._attempt = assignment.attempt_id
        self._moved = time.monotonic()
        if self._lease is not None:
            ended = leftovers.note(assignment.trial_id, assignment.attempt, assignment.epoch)
            for left in ended:
                log.warning("ended process %d: it still trained %s", left.pid, left.trial_id)
        config = TrainConfig.model_validate_json(assignment.config)
        self._output.to(Path(config.output_dir), self._rank)
        begins = f"from {assignment.resume_from}" if assignment.resume_from else "from the start"
        self._output.say(f"attempt {assignment.attempt} of trial {assignment.trial_id}, {begins}")
        check_gpu_is_free()
        resume = Path(assignment.resume_from) if assignment.resume_from else None
        try:
            self._run = Run(config, resume_from=resume)
        except Exception as error:
            return self._failed(as_failure(error))
        return None

    def advance(self, seconds: float) -> Batch:
        self._moved = time.monotonic()
        if not self._training:
            self._wait_for_word()
            self._training = True
        self._output.rotate()
        batch = self._run.advance(seconds, self._read_control)
        self._tell(batch)
        if batch.status != "running":
            self._training = False
            if self._lease is not None:
                leftovers.clear()
        return batch

    @ray.method(concurrency_group="control")
    def alive(self, attempt_id: str, seconds: float) -> float | None:
        """The driver holds its lease for so long. Seconds since this rank last got on with the
        attempt; None if it has not been given it yet."""
        self._good_until = (attempt_id, time.monotonic() + seconds)
        if attempt_id != self._attempt:
            return None
        return time.monotonic() - self._moved if self._training else 0.0

    @ray.method(concurrency_group="control")
    def control(self, attempt_id: str, mode: Control) -> None:
        """Ask attempt `attempt_id` to yield. Ignored by any other attempt."""
        self._control = (attempt_id, mode)

    @ray.method(concurrency_group="control")
    def pid(self) -> int:
        return os.getpid()

    def _failed(self, failure: Failure) -> Failure:
        self._output.say(f"failed ({failure.code}): {failure.message}\n{failure.detail}".rstrip())
        return failure

    def _tell(self, batch: Batch) -> None:
        """How the attempt goes, in its log."""
        if batch.steps:
            last = batch.steps[-1]
            self._output.say(f"step {last.step}: loss {last.loss}, gradient norm {last.grad_norm}")
        if batch.failure is not None:
            self._failed(batch.failure)
        elif batch.status != "running":
            self._output.say(batch.status)

    def _read_control(self) -> Control:
        self._moved = time.monotonic()
        attempt, mode = self._control
        return mode if attempt == self._attempt else "go"

    def _wait_for_word(self) -> None:
        """Train nothing before the driver has said that it holds its lease: it may have been
        replaced while this group was built."""
        deadline = time.monotonic() + 2 * (self._lease or 0.0)
        while self._lease is not None and not self._driver_lives():
            if time.monotonic() > deadline:
                self._end("its driver has not been heard of")
            time.sleep(0.01)

    def _driver_lives(self) -> bool:
        attempt, until = self._good_until
        return attempt == self._attempt and time.monotonic() < until

    def _keep_time(self) -> None:
        while True:
            time.sleep(0.1)
            if self._training and not self._driver_lives():
                self._end("its driver's lease is over")

    def _end(self, why: str) -> None:
        log.error("attempt %s: %s; this rank ends", self._attempt, why)
        os.kill(os.getpid(), signal.SIGKILL)


# `control` has a thread of its own, so that it is heard while `advance` trains.
Rank: Any = ray.remote(concurrency_groups={"control": 1})(_Rank)  # type: ignore[call-overload]


def check_gpu_is_free() -> None:
    """Raise GpuInUse if another process holds this rank's GPU, once an ended one had its time."""
    import torch

    if not torch.cuda.is_available():
        return
    deadline = time.monotonic() + FREED_SECONDS
    while (held := foreign_memory(*torch.cuda.mem_get_info(), torch.cuda.memory_reserved())) > 0:
        if time.monotonic() > deadline:
            raise GpuInUse(
                f"another process holds {held / 2**30:.1f} GiB of the GPU that Ray gave this rank "
                f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')})"
            )
        time.sleep(0.25)


def foreign_memory(free: int, total: int, own: int) -> int:
    """Bytes of a GPU that others hold; 0 if it is no more than contexts and a display take."""
    held = total - free - own
    return held if held > FOREIGN_SHARE * total + 2**30 else 0


def die_with_parent() -> None:
    """End this process when the one that started it ends: a rank's is its raylet (Linux)."""
    import ctypes

    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(pr_set_pdeathsig, signal.SIGKILL)


def _errors(refs: list[ray.ObjectRef]) -> list[BaseException]:
    found: list[BaseException] = []
    for ref in refs:
        try:
            ray.get(ref)
        except Exception as error:
            found.append(error)
    return found


def _rank_of_cause(error: BaseException) -> int:
    """How likely the error is the cause, rather than a peer's broken connection."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return 3
    if isinstance(error, (exceptions.RayActorError, TrainerError)):
        return 2
    return 0 if "onnection" in str(error) else 1


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
