"""Tokens: make, list, rotate and revoke them. A token's text is told once, when it is made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status

from api.access import GRANTS, Admin, Principal, Reader
from api.changes import parse
from api.documents import Document, OptionalDocument, takes
from api.errors import ProblemError, invalid_change
from api.idempotency import OnceOf, creates
from api.pages import Limit, page
from api.services import ServicesOf, StoreOf
from orchestrator.store import Store
from winnow.tokens import NewToken, RotateToken, Token, TokenSecret
from winnow.types import FieldError, Page

router = APIRouter(prefix="/tokens", tags=["tokens"])

TokenId = Annotated[int, Path(ge=1, lt=2**31)]
SECRET = frozenset({"token"})


@router.get("")
def list_tokens(
    store: StoreOf,
    who: Admin,
    limit: Limit = 100,
    cursor: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> Page[Token]:
    """Newest first, those that have expired or were revoked too. A token that is bound to a project
    sees those of its project."""
    found = store.access.tokens(limit + 1, cursor, project=who.project)
    return page(found, limit, Page[Token])


@router.get("/me")
def get_own_token(store: StoreOf, who: Reader) -> Token:
    """The token that this request came with, or that its session stands for."""
    return _own(store, who)


@router.get("/{token_id:int}")
def get_token(token_id: TokenId, store: StoreOf, who: Admin) -> Token:
    """A token, without its text."""
    return store.access.token(token_id, who.project)


@router.post("", status_code=status.HTTP_201_CREATED, openapi_extra=takes(NewToken))
def create_token(
    document: Document, response: Response, services: ServicesOf, who: Admin, once: OnceOf
) -> TokenSecret:
    """Make a token. It can do no more than the one that asks: of its project, and for as long."""
    wanted = parse(NewToken, document)
    faults = [
        FieldError(pointer=f"/scopes/{number}", message=f"the token that asks has no `{scope}`")
        for number, scope in enumerate(wanted.scopes)
        if not GRANTS[scope] <= who.scopes
    ]
    if who.project is not None and wanted.project not in (None, who.project):
        message = f"the token that asks is bound to the project {who.project}"
        faults.append(FieldError(pointer="/project", message=message))
    left = _seconds_left(services.store, who)
    seconds = wanted.expires_in
    if "expires_in" not in wanted.model_fields_set and left is not None and seconds is not None:
        seconds = min(seconds, left)
    faults += _too_long(seconds, left)
    if faults:
        raise invalid_change(faults)
    made = services.store.access.create_token(
        wanted.name,
        wanted.scopes,
        project=who.project or wanted.project,
        created_by=who.name,
        seconds=seconds,
        once=creates(once, "/v1/tokens/{id}", hide=SECRET),
    )
    services.verifier.forget()
    response.headers["Location"] = f"/v1/tokens/{made.id}"
    return made


@router.post("/{token_id:int}:rotate", openapi_extra=takes(RotateToken, required=False))
def rotate_token(
    token_id: TokenId, document: OptionalDocument, services: ServicesOf, who: Admin, once: OnceOf
) -> TokenSecret:
    """Give a token a new text. The old one works on for an hour, or for `grace_seconds`; so do the
    sessions that were made from it. 409 if it has expired or was revoked."""
    wanted = parse(RotateToken, document)
    left = _seconds_left(services.store, who)
    faults = _too_long(wanted.expires_in, left) if wanted.expires_in is not None else []
    if faults:
        raise invalid_change(faults)
    rotated = services.store.access.rotate_token(
        token_id,
        grace=wanted.grace_seconds,
        seconds=wanted.expires_in,
        project=who.project,
        once=creates(once, "/v1/tokens/{id}", hide=SECRET),
    )
    services.verifier.forget()
    return rotated


@router.delete("/{token_id:int}")
def revoke_token(token_id: TokenId, services: ServicesOf, who: Admin) -> Token:
    """End a token and its sessions, at once and for good. Again: nothing changes.

    409 for the last token that can administer the whole server.
    """
    revoked = services.store.access.revoke_token(token_id, project=who.project)
    services.verifier.forget()
    return revoked


def _own(store: Store, who: Principal) -> Token:
    if who.token_id is None:
        raise ProblemError(404, "not-found", "this request came with no token")
    return store.access.token(who.token_id)


def _seconds_left(store: Store, who: Principal) -> int | None:
    """Until the asker's token ends; None: never."""
    ends = _own(store, who).expires_at
    return None if ends is None else max(1, int((ends - datetime.now(UTC)).total_seconds()))


def _too_long(seconds: int | None, left: int | None) -> list[FieldError]:
    if left is None or (seconds is not None and seconds <= left):
        return []
    message = f"the token that asks ends in {left} s, and what it makes can't hold longer"
    return [FieldError(pointer="/expires_in", message=message)]
