"""All that can be wrong with a sweep is found here, before anything starts.

In order, each stage only if the ones before found nothing: the document's form (winnow.spec); the
values of the space, the paths and the resources; then the data and the model themselves, which
are opened in a process of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from api.access import Principal
from api.assess import assess
from api.errors import invalid_sweep
from api.explain import did_you_mean, parse_spec
from api.services import Services
from orchestrator.admission.confinement import (
    NO_LIMITS,
    Limits,
    forbidden,
    local_paths,
    pinned,
    tasks_digest,
)
from orchestrator.admission.preflight import Preflight
from orchestrator.plan import validate_space
from winnow.environment import KEY_SUFFIX
from winnow.load import HUB_ID
from winnow.spec import SweepSpec
from winnow.types import FieldError, Project
from winnow.validation import Validation

STORES = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "hf"),
    *("hdfs", "webhdfs", "sftp", "ssh", "smb", "webdav"),
)
"""Kinds of address that checkpoints can be kept at (fsspec)."""


def checked(services: Services, who: Principal, document: Any) -> tuple[CheckedSweep, Validation]:
    """The sweep that `document` describes, if `who` may create it and it can run, and what it would
    take. Its facts hold the warnings. Blocks for seconds. Raises ProblemError 422."""
    resources, age = services.store.cluster()
    sweep = check_sweep(
        document,
        limits=Limits(
            services.settings.roots, services.settings.stores, services.store.code.revisions
        ),
        cluster=resources if age is not None and resources else None,
        variables=services.settings.environment,
        projects={p.id: p for p in services.store.projects() if who.sees(p.id)},
        here=services.settings.ray_is_here,
        preflight=services.preflight,
    )
    found = assess(services, who, sweep.spec, sweep.facts)
    if found.warnings:
        said = [warning.model_dump(mode="json") for warning in found.warnings]
        sweep = replace(sweep, facts={**sweep.facts, "warnings": said})
    return sweep, found


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
    limits: Limits = NO_LIMITS,
    cluster: Mapping[str, float] | None,
    variables: Container[str],
    projects: Mapping[str, Project],
    here: bool,
    preflight: Callable[[SweepSpec], Preflight],
) -> CheckedSweep:
    """The sweep that `document` describes. Blocks for seconds.

    `limits`: what may be opened, kept, reached and run. `cluster` holds the most of each resource
    that the cluster can have; None if not known yet.
    `variables` are the names that workers can be given, `projects` those that there are.
    `here`: trials run on this machine.
    Raises ProblemError 422 with every fault of the first stage that finds one.
    """
    spec, errors = parse_spec(document)
    if spec is None:
        raise invalid_sweep(errors)
    errors = [
        *_named(validate_space(spec)),
        *_paths(spec),
        *_named(forbidden(spec, limits)),
        *_judge_key(spec, variables),
        *_project(spec, projects),
        *_store(spec, here),
        *(_resources(spec, cluster) if cluster is not None else ()),
    ]
    if errors:
        raise invalid_sweep(errors)
    spec, refused = pinned(spec, limits)
    if refused:
        raise invalid_sweep(_named(refused))
    digest = tasks_digest(spec, limits)
    result = preflight(spec)
    if result.errors:
        raise invalid_sweep(_named(result.errors))
    facts = result.facts if digest is None else {**result.facts, "tasks_code": digest}
    return CheckedSweep(spec=spec, planned=_planned(spec), facts=facts)


def _named(found: Iterable[tuple[str, str]]) -> list[FieldError]:
    return [FieldError(pointer=pointer, message=message) for pointer, message in found]


def _planned(spec: SweepSpec) -> int:
    """A grid runs every combination; the other samplers run as many trials as were asked for."""
    if spec.search.sampler == "grid":
        return spec.rules.size or 1
    return spec.search.trials or 1


def _paths(spec: SweepSpec) -> list[FieldError]:
    """The server has no folder of the user's to read a relative path from."""
    errors = [
        FieldError(
            pointer=at,
            message=f"give an absolute path, got '{path}' (`winnow submit` reads relative paths "
            "from the sweep file's folder and sends absolute ones)",
        )
        for at, path in local_paths(spec)
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


def _judge_key(spec: SweepSpec, variables: Container[str]) -> list[FieldError]:
    """The key has to be there before the first trial ends. A name that is none isn't repeated: it
    may be a key that was pasted."""
    judge = spec.evaluation.judge
    if judge is None or judge.api_key_env is None or judge.api_key_env in variables:
        return []
    return [
        FieldError(
            pointer="/evaluation/judge/api_key_env",
            message="no such variable is set where the winnow server runs; set it there and start "
            f"the server again (its name ends in {KEY_SUFFIX}, or is listed in "
            "WINNOW_PASS_ENVIRONMENT)",
        )
    ]


def _project(spec: SweepSpec, projects: Mapping[str, Project]) -> list[FieldError]:
    """It exists, and one trial fits into its quota."""
    project = projects.get(spec.project)
    if project is None:
        close = did_you_mean(spec.project, projects)
        return [
            FieldError(
                pointer="/project",
                message=f"there is no project '{spec.project}' (there "
                f"{'is' if len(projects) == 1 else 'are'} {', '.join(projects)}){close}; to make "
                f"it: `winnow project create {spec.project}`",
            )
        ]
    gpus, allowed = spec.resources.gpus_per_trial, project.quota.gpus
    if allowed is not None and gpus > allowed:
        return [
            FieldError(
                pointer="/resources/gpus_per_trial",
                message=f"a trial asks for {gpus} GPUs, and project {project.id} may have "
                f"{allowed} at once; lower it, or raise the quota: "
                f"`winnow project set {project.id} --gpus {gpus}`",
            )
        ]
    return []


def _store(spec: SweepSpec, here: bool) -> list[FieldError]:
    """Where checkpoints go can be understood by everyone; a folder of this machine can be used."""
    store = spec.checkpoints.store
    if store is None:
        return []
    scheme, found, rest = store.partition("://")
    if store.startswith("/"):
        message = _unusable(Path(store)) if here else None
    elif not found:
        message = f"give an absolute path, or an address like s3://bucket/folder; got '{store}'"
    elif scheme not in STORES:
        message = (
            f"'{scheme}' is no kind of store that is known here{did_you_mean(scheme, STORES)}; "
            f"known: {', '.join(STORES)}"
        )
    else:
        message = None if rest.strip("/") else f"names no bucket; write {scheme}://bucket/folder"
    return [] if message is None else [FieldError(pointer="/checkpoints/store", message=message)]


def _unusable(folder: Path) -> str | None:
    """Why nothing could be written to a folder, which need not be there yet; None if it could."""
    there = next(part for part in (folder, *folder.parents) if part.exists())
    if not there.is_dir():
        return f"{there} is a file; name a folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"the server may not write to {there}; give it the right to, or name another folder"
    return None


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
