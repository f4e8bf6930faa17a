"""The dashboard's sign-in: a session in a cookie, made from a token. See `api.session`."""

from __future__ import annotations

from datetime import datetime
from typing import get_args

from fastapi import APIRouter, Request, Response, status

from api.access import READ, Principal, Reader
from api.errors import ProblemError
from api.services import ServicesOf
from api.session import cookie, csrf_of, session_of
from winnow.tokens import Scope, Session

router = APIRouter(prefix="/session", tags=["session"])


@router.post("", status_code=status.HTTP_201_CREATED)
def sign_in(request: Request, response: Response, services: ServicesOf, who: Reader) -> Session:
    """Sign a browser in with a token (`Authorization: Bearer TOKEN`): the answer sets a cookie.

    403 if it came with a session instead.
    """
    if who.token_id is None or who.session_id is not None:
        raise ProblemError(
            403, "session", "sign in with a token: send it as `Authorization: Bearer TOKEN`"
        )
    seconds = services.settings.session_hours * 3600
    text, expires_at = services.store.access.open_session(who.token_id, seconds)
    response.headers["Set-Cookie"] = cookie(request.scope, text, seconds)
    return _told(who, who.token_id, expires_at, text)


@router.get("")
def get_session(request: Request, services: ServicesOf, who: Reader) -> Session:
    """Who is signed in here, and what changes have to carry. 404 if a token came instead."""
    text = session_of(request.scope, request.headers)
    if who.session_id is None or who.token_id is None or text is None:
        raise ProblemError(
            404, "not-found", "this request came with a token, not a session; see /v1/tokens/me"
        )
    expires_at = services.store.access.session_ends(who.session_id)
    return _told(who, who.token_id, expires_at, text)


@router.delete("", status_code=status.HTTP_204_NO_CONTENT, dependencies=[READ])
def sign_out(request: Request, response: Response, services: ServicesOf) -> None:
    """End the session, and have the browser forget it."""
    who: Principal = request.state.principal
    if who.session_id is None:
        raise ProblemError(404, "not-found", "this request came with a token, not a session")
    services.store.access.end_session(who.session_id)
    services.verifier.forget()
    response.headers["Set-Cookie"] = cookie(request.scope, "", 0)


def _told(who: Principal, token_id: int, expires_at: datetime, text: str) -> Session:
    return Session(
        name=who.name,
        token_id=token_id,
        scopes=[scope for scope in get_args(Scope) if scope in who.scopes],
        project=who.project,
        expires_at=expires_at,
        csrf=csrf_of(text),
    )
