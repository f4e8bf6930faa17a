"""Drivers as Ray Jobs: they run on the cluster, and need no orchestrator to go on.

A job's id is chosen here, from its sweep and the number of the driver: so a second orchestrator
that wants to start the same driver is refused by Ray. What Ray says of a job is only a hint (a
finished one has been reported as failed after its cluster's head was replaced); who drives a sweep
is decided by the sweep's lease alone.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ray.job_submission import JobStatus, JobSubmissionClient

from orchestrator.settings import Settings
from orchestrator.supervision.handover import hand_over
from orchestrator.supervision.launch import Holder, LaunchError, kill

T = TypeVar("T")

REQUEST_SECONDS = 10.0
"""How long the dashboard may take to answer; Ray's own client would wait for ever."""
AWAY_SECONDS = 5.0
"""After it was found away, how long it is left alone: the loop has more to do than wait for it."""
KILLED = -9


class JobLauncher:
    """Starts and ends jobs over the cluster's dashboard. See `Launcher`."""

    ends_with_orchestrator = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: _Client | None = None
        self._away_until = 0.0
        self._jobs: dict[str, str] = {}
        """By sweep: the job that was started here and has not been seen to end."""
        self._names: dict[str, str] = {}
        """By sweep: the last job that was started here."""
        self._killed: set[str] = set()

    def start(self, sweep_id: str, epoch: int, slots: int) -> bool:
        # One that ended without the lease leaves the number to its successor, but not its name.
        job = f"winnow-{sweep_id}-{epoch}"
        for again in range(1, 100):
            found = self._status(job)
            if found is None:
                break
            if not found.is_terminal():
                return False
            job = f"winnow-{sweep_id}-{epoch}-{again}"
        command = [
            *(self._settings.job_python, "-m", "orchestrator", "drive", sweep_id),
            *("--slots", str(slots), "--job", job, "--settings", str(hand_over(self._settings))),
        ]
        environment = {
            # The supervisor's, a whole number: how long a stopped job has for its checkpoints.
            "RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(self._settings.stop_seconds)),
            "PYTHONSAFEPATH": "1",
        }

        def submit(client: _Client) -> bool:
            try:
                client.submit_job(
                    entrypoint=f"exec {shlex.join(command)}",
                    submission_id=job,
                    runtime_env={"env_vars": environment},
                    metadata={"winnow_sweep": sweep_id},
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise
            return True

        if not self._ask(submit):
            return False
        self._jobs[sweep_id] = self._names[sweep_id] = job
        return True

    def starting(self, sweep_id: str) -> bool:
        return sweep_id in self._jobs  # `ended` takes it out

    def abandon(self, sweep_id: str) -> None:
        if (job := self._jobs.get(sweep_id)) is not None:
            self._killed.add(job)
            self._stop(job)

    def ended(self) -> dict[str, int]:
        done: dict[str, int] = {}
        for sweep_id, job in list(self._jobs.items()):
            status = self._status(job)
            if status is None or status.is_terminal():
                done[sweep_id] = self._exit_code(job, status)
                del self._jobs[sweep_id]
        return done

    def dead(self, holder: Holder) -> bool:
        return holder.here and not holder.alive

    def kill(self, holder: Holder) -> None:
        kill(holder)
        if holder.job is not None:
            self._killed.add(holder.job)
            self._stop(holder.job)

    def end(self, holders: Iterable[Holder], grace: float) -> None:
        jobs = {*self._jobs.values(), *(h.job for h in holders if h.job is not None)}
        for job in jobs:
            self._stop(job)
        deadline = time.monotonic() + grace
        while jobs and time.monotonic() < deadline:
            jobs = {job for job in jobs if (s := self._status(job)) and not s.is_terminal()}
            time.sleep(0.2)

    def log(self, sweep_id: str) -> str:
        job = self._names.get(sweep_id, f"winnow-{sweep_id}-…")
        return f"the log of Ray Job {job} (ray job logs {job})"

    def _stop(self, job: str) -> None:
        """Ask a job to end; Ray kills it when its time for checkpoints is over."""

        def stop(client: _Client) -> None:
            try:
                client.stop_job(job)
            except RuntimeError as error:
                if not _unknown(error):
                    raise

        self._ask(stop)

    def _status(self, job: str) -> JobStatus | None:
        """What Ray says of a job; None if it knows none of that name."""

        def status(client: _Client) -> JobStatus | None:
            try:
                return client.get_job_status(job)
            except RuntimeError as error:
                if _unknown(error):
                    return None
                raise

        return self._ask(status)

    def _exit_code(self, job: str, status: JobStatus | None) -> int:
        """As of a process. Of a job that somebody stopped Ray keeps none: that is no crash."""
        if status is JobStatus.SUCCEEDED:
            return 0
        if status is JobStatus.STOPPED:
            return KILLED if job in self._killed else 0
        if status is None:
            return KILLED
        code = self._ask(lambda client: client.get_job_info(job).driver_exit_code)
        return KILLED if code is None else code

    def _ask(self, question: Callable[[_Client], T]) -> T:
        """What the dashboard answers. Raises LaunchError if it doesn't."""
        if time.monotonic() < self._away_until:
            raise LaunchError(f"Ray's dashboard at {self._settings.ray_jobs_address} is away.")
        try:
            if self._client is None:
                self._client = _Client(self._settings.ray_jobs_address)
            return question(self._client)
        except Exception as error:  # requests' own, ConnectionError, RuntimeError, authentication
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise LaunchError(
                f"Ray's dashboard at {self._settings.ray_jobs_address} does not take the request: "
                f"{error}"
            ) from error


class _Client(JobSubmissionClient):
    """Ray's client, with an end to its patience."""

    def _do_request(self, method: str, endpoint: str, **rest: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=REQUEST_SECONDS, **rest)


def _unknown(error: RuntimeError) -> bool:
    return "404" in str(error)
