"""What the API sends back about the service itself: schedulers, the cluster, the queue."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from winnow.types import Model, SweepState


class SchedulerField(Model):
    """A field of a sweep file's `scheduler` that this one reads."""

    name: str
    default: Any
    json_schema: dict[str, Any]
    """What it may be."""


class SchedulerInfo(Model):
    """A rule that ends trials early."""

    name: str
    summary: str
    description: str
    fields: list[SchedulerField]


class QueuedSweep(Model):
    """A sweep that has not ended, and what it has of the cluster."""

    id: str
    name: str
    project: str
    state: SweepState
    priority: int
    weight: float
    slots: int | None
    """Trials at once that it was granted; null before the orchestrator has looked."""
    running: int
    pending: int
    """Trials that wait, those that are not created yet among them."""
    why_pending: str | None
    """Why it has fewer slots than it could use, as a sentence."""
    created_at: datetime
    started_at: datetime | None


class ClusterNode(Model):
    """A machine of the cluster, as Ray knows it."""

    name: str
    address: str
    state: Literal["alive", "dead"]
    cpus: float
    gpus: float
    memory: float
    """Bytes that Ray may give to what runs there."""
    held_cpus: float
    held_gpus: float
    """What of them is reserved for trials."""
    groups: int
    """Trials' groups of workers that have a rank there."""


class Cluster(Model):
    """What trials run on, as the orchestrator last reported it."""

    state: Literal["ok", "silent", "unknown"]
    """`silent`: the last report is old; `unknown`: there was none yet."""
    reported_seconds_ago: float | None
    resources: dict[str, float]
    """In all, e.g. {"CPU": 16, "GPU": 4}."""
    nodes: list[ClusterNode]
    """For tokens of all projects; empty for those of one."""
    granted: int
    """Trials at once that all sweeps together were granted."""
    running: int
    """Trials that run."""
    queue: list[QueuedSweep]
    """Sweeps that have not ended, in the order in which they are served."""
