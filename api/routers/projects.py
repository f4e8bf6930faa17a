"""Projects: the quotas and the weights by which sweeps share the cluster."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status

from api.access import OPERATE, Reader
from api.changes import parse
from api.documents import Document, takes
from api.idempotency import OnceOf, creates
from api.pages import Limit, page
from api.resources import IfMatch, project_etag
from api.services import StoreOf
from orchestrator.errors import NotFound
from orchestrator.store import Store
from winnow.changes import PROJECT_NAME, NewProject, ProjectChange
from winnow.types import Page, Project

router = APIRouter(prefix="/projects", tags=["projects"])

ProjectId = Annotated[str, Path(pattern=PROJECT_NAME)]


@router.get("")
def list_projects(
    store: StoreOf,
    who: Reader,
    limit: Limit = 500,
    cursor: Annotated[str | None, Query(pattern=PROJECT_NAME)] = None,
) -> Page[Project]:
    """All projects by name, each with its quota and what its sweeps use."""
    found = [p for p in store.projects() if who.sees(p.id) and (cursor is None or p.id > cursor)]
    return page(found, limit, Page[Project])


@router.get("/{project_id}")
def get_project(project_id: ProjectId, response: Response, store: StoreOf, who: Reader) -> Project:
    """A project, with its quota and what its sweeps use."""
    if not who.sees(project_id):
        raise NotFound("project", project_id)
    found = _found(store, project_id)
    response.headers["ETag"] = project_etag(found)
    return found


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    dependencies=[OPERATE],
    openapi_extra=takes(NewProject),
)
def create_project(document: Document, response: Response, store: StoreOf, once: OnceOf) -> Project:
    """409 if there is one of that name."""
    wanted = parse(NewProject, document)
    made = store.add_project(
        wanted.id,
        wanted.quota.quota(),
        wanted.weight,
        once=creates(once, "/v1/projects/{id}"),
    )
    response.headers["Location"] = f"/v1/projects/{wanted.id}"
    return made


@router.put("/{project_id}", dependencies=[OPERATE], openapi_extra=takes(ProjectChange))
def change_project(
    project_id: ProjectId,
    document: Document,
    response: Response,
    store: StoreOf,
    unchanged: IfMatch,
) -> Project:
    """Replace quota and weight: what is left out has no limit, and weight 1."""
    wanted = parse(ProjectChange, document)
    changed = store.change_project(
        project_id, wanted.quota.quota(), wanted.weight, unchanged=unchanged
    )
    response.headers["ETag"] = project_etag(changed)
    return changed


def _found(store: Store, project_id: str) -> Project:
    for project in store.projects():
        if project.id == project_id:
            return project
    raise NotFound("project", project_id)
