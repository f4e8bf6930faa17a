"""What HTTP expects of every address under /v1, whatever stands there.

HEAD is GET without the body. OPTIONS names the methods. A JSON answer to GET has an ETag, a hash of
what it says: `If-None-Match` with it is answered 304. A page of a list that goes on names the next
one in `Link`, as it does in its body.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ProblemError, allowed_methods, as_problem
from orchestrator.errors import NotFound
from winnow.types import Project

_NEXT = re.compile(rb'"next":"([A-Za-z0-9_=-]{1,500})"\}$')
_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e]*")')


class _Id(Convertor[str]):
    """An id in an address, as `{sweep_id:id}`: it holds no colon, so that what follows one is an
    action. Anything else is not found."""

    regex = "[A-Za-z0-9_-]{1,64}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _Id())


def etag(body: bytes) -> str:
    """The entity tag of a JSON answer."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


class Resources:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, routes: FastAPI) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await self._options(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._get({**scope, "method": "GET"}, receive, send, head=True)
        elif scope["method"] == "GET":
            await self._get(scope, receive, send, head=False)
        else:
            await self._app(scope, receive, send)

    async def _options(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = allowed_methods(self._routes, scope)
        if not methods:
            error = as_problem(NotFound("address", scope["path"]))
            await error.response(scope["state"].get("request_id"))(scope, receive, send)
            return
        headers = [(b"allow", ", ".join(sorted(methods)).encode())]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _get(self, scope: Scope, receive: Receive, send: Send, *, head: bool) -> None:
        answer = _Answer(scope, send, head=head)
        try:
            await self._app(scope, receive, answer.send)
        except _Enough:
            return


class _Enough(Exception):
    """The head of a stream was asked for, and has been sent."""


class _Answer:
    """Passes an answer on: a JSON one whole, with its tag; others as they come."""

    def __init__(self, scope: Scope, send: Send, *, head: bool) -> None:
        self._scope = scope
        self._send = send
        self._head = head
        self._start: Message | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            kind = headers.get("content-type", "").partition(";")[0]
            whole = "content-length" in headers  # a stream has none
            if message["status"] == 200 and whole and kind == "application/json":
                self._start = message
            else:
                await self._send(message)
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._start is None:
            await self._pass_on(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start, bytes(self._body))

    async def _pass_on(self, message: Message) -> None:
        if not self._head:
            await self._send(message)
            return
        await self._send({"type": "http.response.body", "body": b""})
        if message.get("more_body", False):
            raise _Enough

    async def _finish(self, start: Message, body: bytes) -> None:
        headers = MutableHeaders(scope=start)
        tag = headers.get("etag") or etag(body)
        headers["ETag"] = tag
        if (found := _NEXT.search(body)) is not None:
            headers.append("Link", f'<{self._next(found[1].decode())}>; rel="next"')
        if tag_matches(Headers(scope=self._scope).get("if-none-match"), tag):
            start["status"], body = 304, b""
            for name in ("content-length", "content-type"):
                del headers[name]
        elif self._head:
            body = b""
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    def _next(self, cursor: str) -> str:
        """The same list from `cursor` on, as a path: servers don't know by what name they are
        reached behind a proxy."""
        query = QueryParams(self._scope["query_string"])
        pairs = [(k, v) for k, v in query.multi_items() if k != "cursor"]
        return f"{self._scope['path']}?{urlencode([*pairs, ('cursor', cursor)])}"


def tag_matches(given: str | None, tag: str) -> bool:
    """Whether a header If-None-Match or If-Match names `tag`, or anything (`*`)."""
    if given is None:
        return False
    return given.strip() == "*" or tag in _TAG.findall(given)


Unchanged = Callable[[BaseModel], None]
"""Hears of what is stored, and raises ProblemError 412 if that has changed."""


def project_etag(project: Project) -> str:
    """Two hashes: of what can be changed, and of all. What a project uses changes by itself: it
    makes a new tag, but doesn't stand in the way of a change."""
    chosen = project.model_dump_json(exclude={"used"})
    parts = (etag(text.encode()).strip('"')[:16] for text in (chosen, project.model_dump_json()))
    return f'"{"-".join(parts)}"'


def _unchanged(
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match",
            max_length=1000,
            description="An ETag: ask for the change only of what still is as it was then",
        ),
    ] = None,
) -> Unchanged | None:
    """What checks, inside the transaction of a change, that nobody else has changed it meanwhile:
    it raises ProblemError 412. None without the header."""
    if if_match is None:
        return None

    def check(stored: BaseModel) -> None:
        if isinstance(stored, Project):
            named = (tag.partition("-")[0] for tag in _TAG.findall(if_match))
            same = project_etag(stored).partition("-")[0] in named or if_match.strip() == "*"
        else:
            same = tag_matches(if_match, etag(stored.model_dump_json().encode()))
        if not same:
            raise ProblemError(
                412,
                "changed",
                "it was changed since you read it; read it again, and ask for the change if it "
                "still makes sense (or send no If-Match)",
            )

    return check


IfMatch = Annotated[Unchanged | None, Depends(_unchanged)]
