"""What every request passes first: a request id, the Host header, the token, the body's size.

Default-deny: under `/v1` all needs a token but the paths in `PUBLIC`. Outside `/v1` there is only
the dashboard's files, which hold no data and are read-only.
"""

from __future__ import annotations

import logging
import re
import uuid
from typing import Protocol

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import PUBLIC, Principal
from api.errors import ProblemError, as_problem

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
"""Bytes of a request's body."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_BEARER = re.compile(r"[Bb]earer +([\x21-\x7e]{1,512})")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::\d{1,5})?")


class TokenCheck(Protocol):
    def __call__(self, token: str) -> Principal | None:
        """Who has this token, or None if there is no such token. May block."""
        ...


class Guard:
    """ASGI middleware. `allowed_hosts` None accepts any Host header."""

    def __init__(
        self, app: ASGIApp, verify: TokenCheck, allowed_hosts: frozenset[str] | None
    ) -> None:
        self._app = app
        self._verify = verify
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks WebSocket
        request_id = uuid.uuid4().hex[:16]
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                if scope["path"].startswith("/v1"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            await self._check_token(scope, headers)
            limited = _limit_body(headers, receive)
        except Exception as error:  # refused, or the database is away
            response = as_problem(error).response(request_id)
            await response(scope, receive, send_with_headers)
            return
        await self._app(scope, limited, send_with_headers)

    def _check_host(self, headers: Headers) -> None:
        """A page of another site that rebinds its name to this address is turned away here."""
        if self._allowed_hosts is None:
            return
        match = _HOST.fullmatch(headers.get("host", ""))
        name = (match[1] or match[2]).lower() if match else ""
        if name not in self._allowed_hosts:
            raise ProblemError(
                400,
                "host",
                f"this server answers as {' or '.join(sorted(self._allowed_hosts))} only; "
                "use one of these names in the address",
            )

    async def _check_token(self, scope: Scope, headers: Headers) -> None:
        path, method = scope["path"], scope["method"]
        under_api = path == "/v1" or path.startswith("/v1/")
        if path in PUBLIC or (not under_api and method in ("GET", "HEAD")):
            return
        match = _BEARER.fullmatch(headers.get("authorization", ""))
        found = await run_in_threadpool(self._verify, match[1]) if match else None
        if found is None:
            raise ProblemError(
                401,
                "unauthorized",
                "send the header `Authorization: Bearer TOKEN`; the token of `winnow up` is in the "
                "file `token` in its home folder"
                if match is None
                else "this token is not known here; the server may have been set up anew",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope["state"]["principal"] = found


def _limit_body(headers: Headers, receive: Receive) -> Receive:
    """`receive` that raises once a body has grown past MAX_BODY, declared or not."""
    too_large = ProblemError(
        413, "too-large", f"a request's body may hold {MAX_BODY // 1024} kB at most"
    )
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY:
        raise too_large
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        if seen > MAX_BODY:
            raise too_large
        return message

    return limited
