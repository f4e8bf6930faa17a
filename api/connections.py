"""Connections whose requests never come: uvicorn waits for them for ever.

Its keep-alive timer runs between two requests, but ends with the first byte of the next one: who
sends a byte now and then holds a connection as long as they like. Here the head of a request has to
be complete within some seconds of the connection's start, or of its own first byte. (The body has
its own limit, in `api.guard`.)
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol(head_seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP protocol, with a deadline for each request's head."""

    class Timed(H11Protocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            if self._head is None and not self._in_request():
                self._expect_head()
            super().data_received(data)
            if self._head is not None and self._in_request():
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _in_request(self) -> bool:
            cycle = self.cycle
            return cycle is not None and not cycle.response_complete

        def _expect_head(self) -> None:
            self._head = self.loop.call_later(head_seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _give_up(self) -> None:
            self._head = None
            if not self._in_request() and not self.transport.is_closing():
                self.transport.close()

    return Timed
