"""Every refusal leaves the server as application/problem+json (RFC 9457)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from orchestrator.errors import Conflict, InvalidSweep, NotFound, StoreUnavailable
from orchestrator.redaction import clean
from winnow.errors import DocumentError
from winnow.load import pointer
from winnow.types import FieldError, Problem

log = logging.getLogger(__name__)

TITLES = {
    400: "The request cannot be read",
    401: "A valid token is needed",
    403: "Not allowed",
    404: "Not found",
    405: "This address does not take that method",
    408: "The request came too slowly",
    409: "Not possible any more",
    410: "Not there any more",
    412: "It has changed",
    413: "The request is too large",
    414: "The address is too long",
    415: "The content type is not supported",
    422: "The sweep cannot run as written",
    429: "Too many requests",
    431: "The request's headers are too long",
    500: "The server failed",
    503: "The server is not ready",
}


class ProblemError(Exception):
    """Refuse a request. Raise it anywhere below the application."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = list(errors)
        self.title = title or TITLES.get(status, "The request was refused")
        self.headers = dict(headers or {})

    def response(self, request_id: str | None = None) -> Response:
        problem = Problem(
            type=f"urn:winnow:problem:{self.kind}",
            title=self.title,
            status=self.status,
            detail=clean(self.detail),
            errors=[e.model_copy(update={"message": clean(e.message)}) for e in self.errors],
            request_id=request_id,
        )
        return Response(
            problem.model_dump_json(),
            status_code=self.status,
            headers=self.headers,
            media_type="application/problem+json",
        )


def install(app: FastAPI) -> None:
    """Make `app` answer every error, its own and others', as a problem."""
    for kind in (
        ProblemError,
        NotFound,
        Conflict,
        InvalidSweep,
        StoreUnavailable,
        DocumentError,
        RequestValidationError,
        ClientDisconnect,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        error = _not_routed(request, error)
    return as_problem(error).response(getattr(request.state, "request_id", None))


def _not_routed(request: Request, error: HTTPException) -> Exception:
    """405 with all methods of an address, each of which is a route of its own; 404 if it has none.

    The dashboard's route takes GET of any path, so the router's own word is no use under /v1.
    """
    methods = allowed_methods(request.app, request.scope)
    if request.scope["path"].startswith("/v1/"):
        if not methods or request.method in methods:
            return _no_such_action(request) or HTTPException(404)
    elif error.status_code == 404:
        return error
    allowed = ", ".join(sorted(methods)) or "GET, HEAD"
    return ProblemError(405, "method", f"use {allowed} here", headers={"Allow": allowed})


def _no_such_action(request: Request) -> ProblemError | None:
    """404 that names the actions there are, for `…:something`; None if that isn't one."""
    base, colon, wanted = request.scope["path"].rpartition(":")
    if not colon or "/" in wanted:
        return None
    paths = (str(route.path) for route in iter_route_contexts(request.app.routes))
    known = {found[1] for path in paths if (found := _ACTION.search(path))}
    there = [
        f"`:{action}`"
        for action in sorted(known)
        if allowed_methods(request.app, {**request.scope, "path": f"{base}:{action}"})
    ]
    if not there:
        return None
    return ProblemError(404, "not-found", f"there is no such action; there are {', '.join(there)}")


_ACTION = re.compile(r":([a-z]+)$")


def allowed_methods(app: FastAPI, scope: MutableMapping[str, Any]) -> set[str]:
    """What can be done at an address; empty if there is nothing."""
    methods: set[str] = set()
    for route in iter_route_contexts(app.routes):
        if str(route.path).startswith("/v1") and route.matches(scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    if methods:
        methods.add("OPTIONS")
    if "GET" in methods:
        methods.add("HEAD")
    return methods


def as_problem(error: Exception) -> ProblemError:
    """What an error says to the caller. Unknown ones say nothing about the server's inside."""
    match error:
        case ProblemError():
            return error
        case NotFound():
            return ProblemError(404, "not-found", str(error))
        case Conflict():
            return ProblemError(409, "conflict", str(error))
        case InvalidSweep():
            found = [FieldError(pointer=p, message=m) for p, m in error.errors]
            return invalid_sweep(found)
        case DocumentError():
            if any(e.pointer for e in error.errors):
                return invalid_sweep(error.errors)
            return ProblemError(400, "unreadable", str(error), errors=error.errors)
        case StoreUnavailable():
            return ProblemError(503, "database", str(error), headers={"Retry-After": "2"})
        case RequestValidationError():
            return _invalid_request(error)
        case ClientDisconnect():
            # Nobody reads it; the log and the metrics shall not take it for the server's failure.
            return ProblemError(400, "unreadable", "the connection ended before the body did")
        case HTTPException():
            headers = dict(error.headers or {})
            kind = "not-found" if error.status_code == 404 else "request"
            detail = str(error.detail)
            if error.status_code == 404:
                detail = "there is nothing at this address; see /v1/openapi.json"
            return ProblemError(error.status_code, kind, detail, headers=headers)
        case _:
            log.error("request failed", exc_info=error)
            return ProblemError(
                500,
                "internal",
                "nothing is known to be wrong with the request; see the server's log",
            )


def invalid_sweep(errors: Sequence[FieldError]) -> ProblemError:
    count = len(errors)
    detail = "nothing was started: " + (
        "one thing has to change" if count == 1 else f"{count} things have to change"
    )
    return ProblemError(422, "invalid-sweep", detail, errors=errors)


def invalid_change(errors: Sequence[FieldError]) -> ProblemError:
    count = len(errors)
    return ProblemError(
        422,
        "invalid-change",
        "nothing was changed: "
        + ("one thing has to change" if count == 1 else f"{count} things have to change"),
        errors=errors,
        title="The request cannot be carried out as written",
    )


def invalid_replay(errors: Sequence[FieldError]) -> ProblemError:
    return ProblemError(
        422,
        "invalid-replay",
        "nothing was replayed",
        errors=errors,
        title="The replay cannot run as written",
    )


def invalid_parameter(name: str, message: str) -> ProblemError:
    return _invalid_parameters([FieldError(pointer=pointer(name), message=message)])


def _invalid_request(error: RequestValidationError) -> ProblemError:
    """A query or path parameter of the wrong type or size. Its pointer is its name."""
    found = [
        FieldError(
            pointer=pointer(*item["loc"][1:]),
            message=f"{str(item['msg']).removeprefix('Value error, ')}, got {item.get('input')!r}",
        )
        for item in error.errors()
    ]
    return _invalid_parameters(found)


def _invalid_parameters(errors: Sequence[FieldError]) -> ProblemError:
    return ProblemError(
        422,
        "invalid-parameters",
        "a parameter in the address cannot be used",
        errors=errors,
        title="The request cannot be answered as written",
    )
