"""The service itself: what trials run on, what waits, and by which rules trials can be ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api.access import READ, Reader
from api.routers.health import SILENT_AFTER
from api.services import StoreOf
from orchestrator.views import rules
from winnow.service import Cluster, QueuedSweep, SchedulerInfo
from winnow.types import Page

router = APIRouter(tags=["cluster"])


@router.get("/cluster")
def get_cluster(store: StoreOf, who: Reader) -> Cluster:
    """The cluster's resources and machines, and the sweeps that have a part of it or wait."""
    resources, age = store.cluster()
    queue = store.history.queue(who.project)
    state = "unknown" if age is None else "ok" if age < SILENT_AFTER else "silent"
    return Cluster(
        state=state,
        reported_seconds_ago=age,
        resources=resources,
        nodes=store.cluster_nodes() if who.project is None else [],
        granted=sum(sweep.slots or 0 for sweep in queue),
        running=sum(sweep.running for sweep in queue),
        queue=queue,
    )


@router.get("/queue")
def list_queue(store: StoreOf, who: Reader) -> Page[QueuedSweep]:
    """Sweeps that have not ended, in the order in which they are served, with what each waits for.

    The first thousand.
    """
    return Page[QueuedSweep](items=store.history.queue(who.project))


@router.get("/schedulers", dependencies=[READ])
def list_schedulers() -> Page[SchedulerInfo]:
    """The rules that end trials early: what each does, the fields that it reads, their defaults."""
    return Page[SchedulerInfo](items=rules.known())


@router.get("/schedulers/{name}", dependencies=[READ])
def get_scheduler(name: Annotated[str, Path(pattern=r"^[a-z0-9-]{1,32}$")]) -> SchedulerInfo:
    """One of them."""
    return rules.get(name)
