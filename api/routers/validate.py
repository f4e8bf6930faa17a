"""Check a sweep without starting it: whether it can run, what it would take, what looks odd."""

from __future__ import annotations

import shutil

import anyio.to_thread
from fastapi import APIRouter

from api.access import Principal, Submitter
from api.checks import CheckedSweep, checked
from api.documents import Document, takes
from api.services import Services, ServicesOf
from orchestrator.cautions import cautions
from orchestrator.estimate import (
    AVERAGED,
    Measured,
    Surroundings,
    corners,
    estimate,
    proposals,
)
from winnow.spec import SweepSpec
from winnow.types import Project
from winnow.validation import Validation

router = APIRouter(prefix="/sweeps", tags=["sweeps"])


@router.post(":validate", openapi_extra=takes(SweepSpec))
async def validate_sweep(document: Document, services: ServicesOf, who: Submitter) -> Validation:
    """Check a sweep as its creation does, data and model included, and estimate what it takes.

    Nothing is stored or started. 422 with the same faults as when it is created.
    """

    def validate() -> Validation:
        return assess(services, who, checked(services, who, document))

    return await anyio.to_thread.run_sync(validate, limiter=services.checks)


def assess(services: Services, who: Principal, sweep: CheckedSweep) -> Validation:
    """What a checked sweep would take, and what looks odd about it."""
    spec, facts = sweep.spec, sweep.facts
    proposed, possible = proposals(spec, facts, AVERAGED), corners(spec, facts)
    found = estimate(
        spec,
        facts,
        proposed,
        possible,
        measured=_measured(services, who, sweep),
        around=_surroundings(services, sweep),
    )
    return Validation(estimate=found, warnings=cautions(spec, facts, [*proposed, *possible], found))


def _measured(services: Services, who: Principal, sweep: CheckedSweep) -> list[Measured]:
    parameters = sweep.facts.get("parameters")
    if not parameters:
        return []
    need = sweep.spec.resources
    paces = services.store.pace.like(
        parameters=int(parameters),
        method=sweep.spec.training.method or "full",
        resources={
            "gpus_per_trial": need.gpus_per_trial,
            "workers_per_trial": need.workers_per_trial,
            "cpus_per_worker": need.cpus_per_worker,
        },
        project=who.project,
    )
    return [Measured(p.sweep_id, p.sweep_name, p.tokens, p.seconds) for p in paces]


def _surroundings(services: Services, sweep: CheckedSweep) -> Surroundings:
    settings, spec = services.settings, sweep.spec
    resources, _ = services.store.cluster()
    project = next((p for p in services.store.projects() if p.id == spec.project), None)
    free = shutil.disk_usage(settings.home).free if settings.home.is_dir() else None
    return Surroundings(
        at_once=_at_once(spec, resources, project) if resources else None,
        available=sweep.facts.get("memory_bytes"),
        disk_free=free if settings.ray_is_here else None,
    )


def _at_once(spec: SweepSpec, resources: dict[str, float], project: Project | None) -> int:
    """Trials that fit on the cluster, into the project's quota, and under `max_concurrent`."""
    need = spec.resources
    fits = [resources.get("CPU", 0.0) // (need.ranks * need.cpus_per_worker)]
    if need.gpus_per_trial:
        fits.append(resources.get("GPU", 0.0) // need.gpus_per_trial)
    if need.max_concurrent is not None:
        fits.append(need.max_concurrent)
    if project is not None and project.quota.trials is not None:
        fits.append(project.quota.trials)
    if project is not None and project.quota.gpus is not None and need.gpus_per_trial:
        fits.append(project.quota.gpus // need.gpus_per_trial)
    return max(1, int(min(fits)))
