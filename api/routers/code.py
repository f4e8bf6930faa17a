"""Models whose own code may run in trials: what admins have read and allowed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, status

from api.access import OPERATE, Operator
from api.changes import parse
from api.documents import Document, takes
from api.errors import invalid_change
from api.services import ServicesOf, StoreOf
from orchestrator.admission.confinement import allowable
from winnow.code import AllowCode, AllowedCode
from winnow.types import FieldError, Page

router = APIRouter(prefix="/allowed-code", tags=["code"])

ModelName = Annotated[str, Query(min_length=1, max_length=255)]
Revision = Annotated[str, Query(min_length=1, max_length=64)]


@router.get("", dependencies=[OPERATE])
def list_allowed_code(store: StoreOf) -> Page[AllowedCode]:
    """What may run, by model and revision."""
    return Page[AllowedCode](items=store.code.listed())


@router.put("", openapi_extra=takes(AllowCode))
def allow_code(document: Document, services: ServicesOf, who: Operator) -> AllowedCode:
    """Let a model's own code run, at one revision. Allowed already: nothing changes.

    For a folder the revision is the digest of its code, taken now if it is left out; for a model of
    the hub it is the commit.
    """
    wanted = parse(AllowCode, document)
    revision, problem = allowable(wanted.model, wanted.revision, services.settings.roots)
    if problem is not None:
        raise invalid_change([FieldError(pointer=problem[0], message=problem[1])])
    return services.store.code.allow(wanted.model, revision, who.name)


@router.delete("", status_code=status.HTTP_204_NO_CONTENT, dependencies=[OPERATE])
def revoke_code(model: ModelName, revision: Revision, store: StoreOf) -> None:
    """Trials that begin from now on may not run it any more; those that run are left alone."""
    store.code.revoke(model, revision)
