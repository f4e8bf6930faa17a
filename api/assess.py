"""What a checked sweep would take on this server, and what looks odd about it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from api.access import Principal
from api.services import Services
from orchestrator.admission.cautions import cautions
from orchestrator.admission.estimate import (
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


def assess(
    services: Services, who: Principal, spec: SweepSpec, facts: Mapping[str, Any]
) -> Validation:
    """The estimate and the warnings for `spec`, whose check found `facts`."""
    proposed, possible = proposals(spec, facts, AVERAGED), corners(spec, facts)
    found = estimate(
        spec,
        facts,
        proposed,
        possible,
        measured=_measured(services, who, spec, facts),
        around=_surroundings(services, spec, facts),
    )
    return Validation(estimate=found, warnings=cautions(spec, facts, [*proposed, *possible], found))


def _measured(
    services: Services, who: Principal, spec: SweepSpec, facts: Mapping[str, Any]
) -> list[Measured]:
    parameters = facts.get("parameters")
    if not parameters:
        return []
    need = spec.resources
    paces = services.store.pace.like(
        parameters=int(parameters),
        method=spec.training.method or "full",
        resources={
            "gpus_per_trial": need.gpus_per_trial,
            "workers_per_trial": need.workers_per_trial,
            "cpus_per_worker": need.cpus_per_worker,
        },
        project=who.project,
    )
    return [Measured(p.sweep_id, p.sweep_name, p.tokens, p.seconds) for p in paces]


def _surroundings(services: Services, spec: SweepSpec, facts: Mapping[str, Any]) -> Surroundings:
    settings = services.settings
    resources, _ = services.store.cluster()
    project = next((p for p in services.store.projects() if p.id == spec.project), None)
    free = shutil.disk_usage(settings.home).free if settings.home.is_dir() else None
    return Surroundings(
        at_once=_at_once(spec, resources, project) if resources else None,
        available=facts.get("memory_bytes"),
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
