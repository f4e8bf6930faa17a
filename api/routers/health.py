"""Whether the server and its parts are up: for dashboards, load balancers, and operators.

`/health` says that this process answers, and what it knows of the others; it is never an error, so
a process is not ended because another one is away. `/ready` is an error unless sweeps can run.
Neither needs a token, and neither tells more than that. `/status` tells it all, for a token.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path

from fastapi import APIRouter

from api.access import Reader
from api.errors import ProblemError
from api.services import ServicesOf, StoreOf
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from orchestrator.supervision.launch import Holder
from winnow import __version__
from winnow.operations import (
    DatabaseStatus,
    DiskStatus,
    DriverStatus,
    OrchestratorStatus,
    Ready,
    Status,
    WebhookStatus,
)
from winnow.types import FieldError, Health

router = APIRouter(tags=["health"])

SILENT_AFTER = 15.0
"""Seconds without a report after which the orchestrator is taken for silent."""
LEAST_FREE = 512 * 1024**2
"""Bytes: with less room in the home folder, checkpoints and a SQLite database are about to fail."""
_STARTED = time.time()


@router.get("/health")
def get_health(store: StoreOf) -> Health:
    """Status of the database and the orchestrator, and the cluster's resources."""
    try:
        resources, age = store.cluster()
    except StoreUnavailable:
        return Health(
            status="degraded",
            version=__version__,
            database="unreachable",
            orchestrator="silent",
            cluster={},
        )
    reporting = age is not None and age < SILENT_AFTER
    return Health(
        status="ok" if reporting else "degraded",
        version=__version__,
        database="ok",
        orchestrator="ok" if reporting else "silent",
        cluster=resources,
    )


@router.get("/ready")
def get_ready(services: ServicesOf) -> Ready:
    """200 if sweeps can be submitted and run; else 503, which says what is missing.

    Looked at: the database answers and has this version's schema, an orchestrator has reported
    lately, the home folder's disk has room.
    """
    faults = not_ready(services.store, services.settings.home)
    if faults:
        raise ProblemError(
            503,
            "not-ready",
            f"not ready: {', '.join(fault.pointer.removeprefix('/') for fault in faults)}",
            errors=faults,
            headers={"Retry-After": "5"},
        )
    return Ready(status="ready", version=__version__)


def not_ready(store: Store, home: Path) -> list[FieldError]:
    """What keeps sweeps from being run, part by part."""
    faults: list[FieldError] = []
    try:
        found, wanted = store.fleet.schema_version()
        if found != wanted:
            text = f"its schema is at {found or 'nothing'}, and this version needs {wanted}"
            faults.append(FieldError(pointer="/database", message=text))
        else:
            _, age = store.cluster()
            if age is None or age >= SILENT_AFTER:
                said = "has not reported yet" if age is None else "is silent"
                faults.append(FieldError(pointer="/orchestrator", message=f"it {said}"))
    except StoreUnavailable:
        faults.append(FieldError(pointer="/database", message="it does not answer"))
    disk = _disk(home)
    if disk.free_bytes < LEAST_FREE or not disk.writable:
        text = "the home folder's disk is full" if disk.writable else "the home can't be written to"
        faults.append(FieldError(pointer="/disk", message=text))
    return faults


@router.get("/status", tags=["operations"])
def get_status(services: ServicesOf, who: Reader) -> Status:
    """How each part of the server is, in detail. A token of one project sees its drivers only."""
    store = services.store
    faults = not_ready(store, services.settings.home)
    began = time.perf_counter()
    found, wanted = store.fleet.schema_version()
    milliseconds = (time.perf_counter() - began) * 1000
    resources, age = store.cluster()
    fleet = store.fleet.look()
    return Status(
        ready=not faults,
        problems=faults,
        version=__version__,
        python=platform.python_version(),
        process=os.getpid(),
        up_seconds=time.time() - _STARTED,
        database=DatabaseStatus(
            kind="sqlite" if services.settings.database_url.startswith("sqlite") else "postgresql",
            schema_version=found,
            schema_wanted=wanted,
            answered_in_ms=round(milliseconds, 2),
            last_event=fleet.last_event,
        ),
        disk=_disk(services.settings.home),
        orchestrator=OrchestratorStatus(
            reported_seconds_ago=age, silent=age is None or age >= SILENT_AFTER
        ),
        cluster=resources,
        drivers=[
            DriverStatus(
                sweep_id=driver.sweep_id,
                host=None if (holder := Holder.parse(driver.holder)) is None else holder.host,
                epoch=driver.epoch,
                lease_seconds_left=round(driver.seconds_left, 1),
                slots=driver.claim.slots,
                running=driver.claim.running,
            )
            for driver in store.live_drivers()
            if who.sees(driver.claim.project)
        ],
        waiting_sweeps=fleet.queue,
        oldest_waiting_seconds=fleet.queue_oldest,
        webhooks=WebhookStatus(
            due=int(fleet.deliveries.get(("pending",), 0)),
            oldest_due_seconds=fleet.delivery_oldest,
            failed=int(fleet.deliveries.get(("failed",), 0)),
        ),
    )


def _disk(home: Path) -> DiskStatus:
    there = next((p for p in (home, *home.parents) if p.exists()), Path("/"))
    usage = shutil.disk_usage(there)
    return DiskStatus(
        free_bytes=usage.free, total_bytes=usage.total, writable=os.access(there, os.W_OK)
    )
