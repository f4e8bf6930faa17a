"""All that can be wrong with a sweep is found here, before anything starts.

In order, each stage only if the ones before found nothing: the document's form (winnow.spec); the
values of the space, the paths and the resources; then the data and the model themselves, which
are opened in a process of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from api.errors import invalid_sweep
from api.explain import parse_spec
from orchestrator.plan import validate_space
from orchestrator.preflight import Preflight
from winnow.load import HUB_ID
from winnow.spec import SweepSpec, grid_size
from winnow.types import FieldError


@dataclass(frozen=True, slots=True)
class CheckedSweep:
    """A sweep that may run, and what opening its files told."""

    spec: SweepSpec
    planned: int
    """Search trials that it will run, if none is left out."""
    facts: dict[str, Any]


def check_sweep(
    document: Any,
    *,
    cluster: Mapping[str, float] | None,
    preflight: Callable[[SweepSpec], Preflight],
) -> CheckedSweep:
    """The sweep that `document` describes. Blocks for seconds.

    `cluster` holds the most of each resource that the cluster can have; None if not known yet.
    Raises ProblemError 422 with every fault of the first stage that finds one.
    """
    spec, errors = parse_spec(document)
    if spec is None:
        raise invalid_sweep(errors)
    errors = [
        *(FieldError(pointer=p, message=m) for p, m in validate_space(spec)),
        *_paths(spec),
        *(_resources(spec, cluster) if cluster is not None else ()),
    ]
    if errors:
        raise invalid_sweep(errors)
    result = preflight(spec)
    if result.errors:
        raise invalid_sweep([FieldError(pointer=p, message=m) for p, m in result.errors])
    return CheckedSweep(spec=spec, planned=_planned(spec), facts=result.facts)


def _planned(spec: SweepSpec) -> int:
    """A grid runs every combination; the other samplers run as many trials as were asked for."""
    if spec.search.sampler == "grid":
        return grid_size(spec.space) or 1
    return spec.search.trials or 1


def _paths(spec: SweepSpec) -> list[FieldError]:
    """The server has no folder of the user's to read a relative path from."""
    files = [
        (f"/data/{split}/{i}/path", file.path)
        for split in ("train", "eval", "test")
        for i, file in enumerate(getattr(spec.data, split))
    ]
    if spec.data.chat_template is not None:
        files.append(("/data/chat_template", spec.data.chat_template))
    errors = [
        FieldError(
            pointer=at,
            message=f"give an absolute path, got '{path}' (`winnow submit` reads relative paths "
            "from the sweep file's folder and sends absolute ones)",
        )
        for at, path in files
        if not path.startswith("/")
    ]
    if not spec.model.startswith("/") and not HUB_ID.fullmatch(spec.model):
        errors.append(
            FieldError(
                pointer="/model",
                message=f"give the absolute path of a folder, or a hub id like org/name; "
                f"got '{spec.model}'",
            )
        )
    return errors


def _resources(spec: SweepSpec, cluster: Mapping[str, float]) -> list[FieldError]:
    need = spec.resources
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 0))
    errors: list[FieldError] = []
    if need.gpus_per_trial > gpus:
        way_out = "set it to 0 to train on CPU" if gpus == 0 else f"use {gpus} or fewer"
        errors.append(
            FieldError(
                pointer="/resources/gpus_per_trial",
                message=f"a trial asks for {need.gpus_per_trial} GPUs, the cluster has {gpus}; "
                f"{way_out}, or add nodes with GPUs",
            )
        )
    threads = need.ranks * need.cpus_per_worker
    if threads > cpus and not errors:
        at = "cpus_per_worker" if need.cpus_per_worker > 1 else "workers_per_trial"
        errors.append(
            FieldError(
                pointer=f"/resources/{at if not need.gpus_per_trial else 'cpus_per_worker'}",
                message=f"a trial asks for {threads} CPUs ({need.ranks} workers with "
                f"{need.cpus_per_worker} each), the cluster has {cpus}; lower one of them, or add "
                "nodes",
            )
        )
    return errors
