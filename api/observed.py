"""What the API counts of its requests, and the line that it logs of each.

Outermost of all: it sees what every client was answered, refusals too. Routes are named by their
template (`/v1/sweeps/{sweep_id}`), so there are as many series as routes, whatever is asked for.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.observe import traces
from orchestrator.observe.catalogue import (
    BY_NAME,
    FAST,
    HTTP_IN_FLIGHT,
    HTTP_REFUSED,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    HTTP_STREAMS,
)
from orchestrator.observe.context import answering

access = logging.getLogger("winnow.access")

REFUSALS = {401: "unauthorized", 403: "forbidden", 413: "too-large", 429: "rate-limited"}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
PROBES = frozenset({"/v1/health", "/v1/ready", "/v1/prometheus"})
"""Asked every few seconds by machines: their good answers are logged at DEBUG only."""
_CONVERTOR = re.compile(r"\{([a-z_]+):[a-z]+\}")
_SWEEP = re.compile(rb"^/v1/sweeps/([a-z][a-z0-9]{9})$")


class HttpMetrics:
    """What one application counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def made(kind: Any, name: str, **more: Any) -> Any:
            metric = BY_NAME[name]
            return kind(metric.family, metric.help, metric.labels, registry=registry, **more)

        self.requests: Counter = made(Counter, HTTP_REQUESTS)
        self.seconds: Histogram = made(Histogram, HTTP_SECONDS, buckets=FAST)
        self.in_flight: Gauge = made(Gauge, HTTP_IN_FLIGHT)
        self.streams: Gauge = made(Gauge, HTTP_STREAMS)
        self.refused: Counter = made(Counter, HTTP_REFUSED)


class Observed:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._metrics)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        state = scope.setdefault("state", {})
        with answering(state), traces.request(headers, answer.method) as span:
            self._metrics.in_flight.inc()
            try:
                await self._app(scope, receive, answer.send)
            finally:
                answer.end()
                if span is not None:
                    _describe(span, answer, state)


class RouteNoted:
    """ASGI middleware, innermost: those outside may work on a copy of the scope, in which they
    don't see which route was found. The state is the same for all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope.setdefault("state", {})["route"] = scope.get("route")
            await send(message)

        await self._app(scope, receive, noting)


class _Answer:
    """One request's answer, on its way out."""

    def __init__(self, scope: Scope, send: Send, metrics: HttpMetrics) -> None:
        self._scope = scope
        self._send = send
        self._metrics = metrics
        self._began = time.perf_counter()
        self._is_stream = False
        self.method = scope["method"] if scope["method"] in METHODS else "other"
        self.status = 0
        """0: nothing was answered, because the client had gone."""
        self.location = b""
        self._bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers", ()):
                if name.lower() == b"location":
                    self.location = value
                elif name.lower() == b"content-type" and value.startswith(b"text/event-stream"):
                    self._is_stream = True
            if self._is_stream:
                self._metrics.in_flight.dec()
                self._metrics.streams.inc()
                self._observe()
        elif message["type"] == "http.response.body":
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    @property
    def route(self) -> str:
        """The template of the route that answered. `refused` before one was looked for."""
        path = getattr(self._scope["state"].get("route"), "path", None)
        if not isinstance(path, str):
            return "refused" if self.status in (400, 401, 403, 408, 413, 414, 429) else "none"
        # Routes know their address below the prefix of the router that holds them.
        under = self._scope["path"].startswith("/v1/") and not path.startswith("/v1")
        return _CONVERTOR.sub(r"{\1}", f"/v1{path}" if under else path)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def _observe(self) -> None:
        self._metrics.seconds.labels(self.method, self.route).observe(self.seconds)

    def end(self) -> None:
        if self._is_stream:
            self._metrics.streams.dec()
        else:
            self._metrics.in_flight.dec()
            self._observe()
        self._metrics.requests.labels(self.method, self.route, str(self.status)).inc()
        if (why := REFUSALS.get(self.status)) is not None:
            self._metrics.refused.labels(why).inc()
        self._log()

    def _log(self) -> None:
        quiet = self.status < 400 and self._scope["path"] in PROBES
        level = logging.DEBUG if quiet else logging.INFO
        if not access.isEnabledFor(level):
            return
        # As it was sent, percent-encoded. ASGI keeps the query apart, which may hold anything.
        raw = self._scope.get("raw_path") or self._scope["path"].encode()
        path = raw.decode("ascii", "backslashreplace")[:500]
        client = self._scope.get("client")
        access.log(
            level,
            "%s %s %d in %.1f ms",
            self.method,
            path,
            self.status,
            self.seconds * 1000,
            extra={
                "method": self.method,
                "route": self.route,
                "status": self.status,
                "milliseconds": round(self.seconds * 1000, 1),
                "bytes": self._bytes,
                "client": client[0] if client else None,
            },
        )


def _describe(span: Any, answer: _Answer, state: dict[str, Any]) -> None:
    """What OpenTelemetry's conventions say of an HTTP request, and the sweep that it is about."""
    span.update_name(f"{answer.method} {answer.route}")
    span.set_attribute("http.request.method", answer.method)
    span.set_attribute("http.route", answer.route)
    span.set_attribute("http.response.status_code", answer.status)
    if "request_id" in state:
        span.set_attribute("winnow.request", state["request_id"])
    if answer.status >= 500:
        from opentelemetry.trace import StatusCode

        span.set_status(StatusCode.ERROR)
    if (made := _SWEEP.match(answer.location)) is not None:
        traces.about_sweep(span, made[1].decode())
