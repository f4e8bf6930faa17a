"""What every request passes first: its size, the Host header, who asks, and how often.

Default-deny: under `/v1` all needs a token, or a session made from one, but the paths in `PUBLIC`.
Outside `/v1` there is only the dashboard's files, which hold no data and are read-only.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import PUBLIC, Principal
from api.audit import Recorder, action_of, printable, target_of
from api.errors import ProblemError, as_problem
from api.limits import Buckets, Limits, failing
from api.session import SAFE_METHODS, check_own_page, cookie, session_of
from api.tokens import REMEMBERED_SECONDS
from orchestrator.errors import StoreUnavailable
from orchestrator.settings import Settings
from orchestrator.store import Audited, Refusal

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
"""Bytes of a request's body."""
MAX_URL = 16 * 1024
MAX_HEADERS = 32 * 1024
"""Bytes of all names and values. (The server's parser gives up at `MAX_HEAD`, with less words.)"""
MAX_HEAD = 64 * 1024
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_BEARER = re.compile(r"[Bb]earer +([\x21-\x7e]{1,512})")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::\d{1,5})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:-]{1,64}")

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NO_CONTENT = "default-src 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of all but the dashboard's files: nothing in them is to be run."""
_HTTPS_ONLY = "max-age=31536000"

_WHY_NOT: dict[Refusal, str] = {
    "unknown": "this token is not known here; the server may have been set up anew",
    "expired": "this token has expired; ask for a new one (`winnow token create`)",
    "revoked": "this token was revoked; ask for a new one (`winnow token create`)",
    "replaced": "this token was rotated, and its old text no longer works; use the new one",
}


ASK_AGAIN_SECONDS = REMEMBERED_SECONDS
"""How often it is looked whether the token of an answer that still goes on holds."""

AskAgain = Callable[[], Awaitable[Principal | Refusal]]


class Verify(Protocol):
    async def token(self, text: str) -> Principal | Refusal: ...
    async def session(self, text: str) -> Principal | Refusal: ...


@dataclass(frozen=True)
class Rules:
    """What requests are judged by."""

    verify: Verify
    limits: Limits
    failures: Buckets
    recorder: Recorder
    hosts: frozenset[str] = LOOPBACK
    """Names that the Host header may have."""
    body_seconds: float = 30.0


def rules(settings: Settings, verify: Verify, recorder: Recorder) -> Rules:
    """The rules of these settings. Raises ValueError if they don't say by which names the API may
    be addressed, though others can reach it."""
    return Rules(
        verify=verify,
        limits=Limits(
            settings.reads_per_minute, settings.writes_per_minute, settings.heavy_per_minute
        ),
        failures=Buckets(settings.failures_per_minute),
        recorder=recorder,
        hosts=settings.hosts,
        body_seconds=settings.body_seconds,
    )


class Guard:
    """ASGI middleware. Whatever it wraps, an error of its inside is answered as a problem too."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks WebSocket
        headers = Headers(scope=scope)
        answer = _Answer(scope, send, _request_id(headers))
        state = scope.setdefault("state", {})
        state["request_id"] = answer.request_id
        try:
            _check_size(scope, headers)
            self._check_host(scope, headers)
            _refuse_preflight(scope, headers)
            who, ask_again = await self._principal(scope, headers)
            if who is not None:
                state["principal"] = who
                self._rules.recorder.used(who)
                answer.told = self._rules.limits.count(who.id, scope["method"], scope["path"])
            limited = _limit_body(headers, receive, self._rules.body_seconds)
            await self._app(scope, _while_allowed(limited, ask_again), answer.send)
            await answer.finish()
        except Exception as error:  # refused, or the database is away, or a bug
            if answer.status is not None:
                raise
            problem = as_problem(error)
            await problem.response(answer.request_id)(scope, receive, answer.send)
        finally:
            self._write_down(scope, answer)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        """A page of another site that rebinds its name to this address is turned away here.

        Probes address a container by its number. No name can be rebound to that, so it is let
        through where everybody is.
        """
        match = _HOST.fullmatch(headers.get("host", ""))
        name = (match[1] or match[2]).lower() if match else ""
        probed = scope["path"] in PUBLIC and _is_number(name) and self._rules.hosts != LOOPBACK
        if name not in self._rules.hosts and not probed:
            raise ProblemError(
                400,
                "host",
                f"this server answers as {' or '.join(sorted(self._rules.hosts))} only; "
                "use one of these names in the address (or set WINNOW_ALLOWED_HOSTS)",
            )

    async def _principal(
        self, scope: Scope, headers: Headers
    ) -> tuple[Principal | None, AskAgain | None]:
        """Who asks, and what tells whether they still may; None where nobody has to say. Raises
        ProblemError 401, 403 or 429."""
        path, method = scope["path"], scope["method"]
        under_api = path == "/v1" or path.startswith("/v1/")
        if path in PUBLIC or (not under_api and method in ("GET", "HEAD")):
            return None, None
        if "authorization" in headers:
            match = _BEARER.fullmatch(headers["authorization"])
            if match is None:
                raise _unauthorized(None)
            found = await self._rules.verify.token(match[1])
            if isinstance(found, Principal):
                return found, partial(self._rules.verify.token, match[1])
            raise self._failed(scope) or _unauthorized(found)
        session = session_of(scope, headers)
        if session is None:
            raise _unauthorized(None)
        found = await self._rules.verify.session(session)
        if not isinstance(found, Principal):
            gone = ProblemError(
                401,
                "unauthorized",
                "you are signed out: the session has ended, or its token has; sign in again",
                headers={"Set-Cookie": cookie(scope, "", 0), **_CHALLENGE},
            )
            raise self._failed(scope) or gone
        check_own_page(scope, headers, session)
        return found, partial(self._rules.verify.session, session)

    def _failed(self, scope: Scope) -> ProblemError | None:
        """Count a failure; not None if there were too many from this address."""
        address = address_of(scope)
        if (slow_down := failing(self._rules.failures, _network(address))) is not None:
            return slow_down
        log.warning("a token or session that doesn't hold came from %s", address)
        return None

    def _write_down(self, scope: Scope, answer: _Answer) -> None:
        """Requests for a change, and refusals for want of a scope, go into the audit log."""
        who: Principal | None = scope["state"].get("principal")
        status = answer.status if answer.status is not None else 499
        if status in (401, 403, 429):
            self._rules.recorder.refused[status] += 1
        if who is None or (scope["method"] in SAFE_METHODS and status != 403):
            return
        detail = {"session": True} if who.session_id is not None else None
        self._rules.recorder.asked(
            Audited(
                actor=who.name,
                token_id=who.token_id,
                action=action_of(scope["method"], scope["path"]),
                target=target_of(answer.made or scope["path"]),
                project=who.project,
                status=status,
                request_id=answer.request_id,
                address=address_of(scope),
                detail=detail,
            )
        )


class _Answer:
    """Sends an answer with the headers that each one has, and remembers what it was."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self.request_id = request_id
        self.told: dict[str, str] = {}
        self.status: int | None = None
        """None: none has begun."""
        self.made: str | None = None
        """Where what was made can be found."""
        self._complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            if self.status == 201:
                self.made = headers.get("location")
            headers["X-Request-Id"] = self.request_id
            for name, value in (*_SECURITY.items(), *self.told.items()):
                headers.setdefault(name, value)
            headers.setdefault("Content-Security-Policy", _NO_CONTENT)
            if self._scope["scheme"] == "https":
                headers["Strict-Transport-Security"] = _HTTPS_ONLY
            if self._scope["path"].startswith("/v1"):
                headers.setdefault("Cache-Control", "no-store")
        elif message["type"] == "http.response.body":
            self._complete = not message.get("more_body", False)
        await self._send(message)

    async def finish(self) -> None:
        """End a stream that was cut short."""
        if self.status is not None and not self._complete:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def address_of(scope: Scope) -> str | None:
    """The caller's address, as far as trusted proxies tell it."""
    client = scope.get("client")
    return None if client is None else printable(str(client[0]))[:64]


def _network(address: str | None) -> str:
    """By what failures are counted: IPv6 callers have a whole /64 to themselves."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return address or "nowhere"
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _request_id(headers: Headers) -> str:
    """The caller's own, if it can be written anywhere as it is; else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]


def _check_size(scope: Scope, headers: Headers) -> None:
    url = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if url > MAX_URL:
        raise ProblemError(
            414, "too-long", f"an address may hold {MAX_URL // 1024} kB at most; ask for less"
        )
    if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
        raise ProblemError(
            431, "too-long", f"a request's headers may hold {MAX_HEADERS // 1024} kB at most"
        )


def _refuse_preflight(scope: Scope, headers: Headers) -> None:
    """A browser asks whether a page of another site may call. It may not."""
    if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
        raise ProblemError(
            403,
            "cross-site",
            "pages of other sites may not call this server; call it from a server of yours",
        )


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="winnow"'}


def _unauthorized(refusal: Refusal | None) -> ProblemError:
    """None: no token came."""
    if refusal is None:
        return ProblemError(
            401,
            "unauthorized",
            "send the header `Authorization: Bearer TOKEN`; the token of `winnow up` is in the "
            "file `token` in its home folder",
            headers=_CHALLENGE,
        )
    why = _WHY_NOT[refusal]
    challenge = f'{_CHALLENGE["WWW-Authenticate"]}, error="invalid_token"'
    return ProblemError(401, "unauthorized", why, headers={"WWW-Authenticate": challenge})


def _limit_body(headers: Headers, receive: Receive, seconds: float) -> Receive:
    """`receive` that raises once a body has grown past MAX_BODY, declared or not, or has not come
    within `seconds` since it was first asked for."""
    too_large = ProblemError(
        413, "too-large", f"a request's body may hold {MAX_BODY // 1024} kB at most"
    )
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY:
        raise too_large
    seen, deadline, complete = 0, 0.0, False

    async def limited() -> Message:
        nonlocal seen, deadline, complete
        if complete:
            return await receive()  # the next that comes is the caller's going away
        deadline = deadline or asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise ProblemError(
                408,
                "timeout",
                f"the body did not arrive within {seconds:g} s; send it again",
                headers={"Connection": "close"},
            ) from None
        seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        complete = not message.get("more_body", False)
        if seen > MAX_BODY:
            raise too_large
        return message

    return limited


def _while_allowed(receive: Receive, ask_again: AskAgain | None) -> Receive:
    """`receive` that takes a caller whose token has ended for one who went away: who still streams
    by then gets no more."""
    if ask_again is None:
        return receive

    async def receive_or_end() -> Message:
        waiting = asyncio.ensure_future(receive())
        try:
            while True:
                done, _ = await asyncio.wait({waiting}, timeout=ASK_AGAIN_SECONDS)
                if done:
                    return waiting.result()
                if not await _still_allowed(ask_again):
                    return {"type": "http.disconnect"}
        finally:
            waiting.cancel()

    return receive_or_end


async def _still_allowed(ask_again: AskAgain) -> bool:
    try:
        return isinstance(await ask_again(), Principal)
    except StoreUnavailable:
        return True  # nobody has said otherwise
