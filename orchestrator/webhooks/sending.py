"""One message sent once: what is posted, and what its answer means."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import httpcore2

from orchestrator.webhooks.addresses import AddressRefused, Policy, check_url
from orchestrator.webhooks.connecting import CheckedBackend, Resolve, resolve
from orchestrator.webhooks.signing import signed_headers
from winnow import __version__

CONNECT_SECONDS, ANSWER_SECONDS, ALL_SECONDS = 5.0, 10.0, 20.0
"""How long a connection, an answer and all together may take."""
READ_BYTES = 2048
"""What is read of an answer: enough for a message about what is wrong."""
SHOWN = 200
"""Characters of it that are kept."""
GONE = 410
"""The status by which a receiver says that it never wants to hear again."""


class Message(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def body(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def keys(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` None: it was taken. `retry_after`: seconds that the receiver asks for."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None

    @property
    def result(self) -> Literal["delivered", "refused", "unreachable"]:
        if self.error is None:
            return "delivered"
        return "unreachable" if self.status is None else "refused"

    @property
    def gone(self) -> bool:
        return self.status == GONE


class Sender:
    """Sends messages to where `policy` lets them go. Safe to share between threads.

    `proxy`: an operator's own, which then has to judge addresses. `clock`: seconds since 1970.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        proxy: str | None = None,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve = resolve,
        seconds: float = ALL_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._proxy = None if proxy is None else httpcore2.Proxy(proxy)
        self._tls = tls or httpcore2.default_ssl_context()
        self._resolve = resolve
        self._seconds = seconds
        self._clock = clock

    def send(self, message: Message) -> Outcome:
        """Post it. Never raises: whatever goes wrong is the outcome's `error`."""
        try:
            url = str(check_url(message.url, self._policy))
            return self._post(url, message)
        except AddressRefused as error:
            return Outcome(error=f"not sent: {error}")
        except httpcore2.TimeoutException as error:
            return Outcome(error=f"no answer in time ({str(error) or type(error).__name__})")
        except (httpcore2.NetworkError, httpcore2.ProxyError, OSError) as error:
            return Outcome(error=f"no connection: {error}")
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
            return Outcome(error=f"it does not answer as a web server does: {error}")

    def _post(self, url: str, message: Message) -> Outcome:
        body = message.body.encode()
        headers: dict[str | bytes, str | bytes] = {
            "content-type": "application/json",
            "user-agent": f"winnow/{__version__} (webhooks)",
            "accept-encoding": "identity",
            **signed_headers(message.id, int(self._clock()), body, message.keys),
        }
        timeouts = {"connect": CONNECT_SECONDS, "read": ANSWER_SECONDS, "write": ANSWER_SECONDS}
        # A pool a message: no connection outlives the look at its address.
        with (
            httpcore2.ConnectionPool(
                ssl_context=self._tls,
                proxy=self._proxy,
                network_backend=None
                if self._proxy is not None
                else CheckedBackend(self._policy, self._seconds, self._resolve),
            ) as pool,
            pool.stream(
                "POST", url, headers=headers, content=body, extensions={"timeout": timeouts}
            ) as response,
        ):
            if 200 <= response.status < 300:
                return Outcome(response.status)
            said = {name.lower(): value for name, value in response.headers}
            if 300 <= response.status < 400:
                return Outcome(
                    response.status,
                    f"it answered {response.status}, and redirects are not followed; give the "
                    "address that it leads to, if it is the right one",
                )
            text = _start_of(response)
            return Outcome(
                response.status,
                f"it answered {response.status}" + (f": {text}" if text else ""),
                self._retry_after(said.get(b"retry-after")),
            )

    def _retry_after(self, value: bytes | None) -> float | None:
        """Seconds, from a number of them or a date; None if it is neither."""
        text = (value or b"").decode("latin-1").strip()
        if text.isascii() and text.isdecimal() and len(text) < 10:
            return float(text)
        try:
            moment = email.utils.parsedate_to_datetime(text)
            return max(0.0, moment.timestamp() - self._clock())
        except (ValueError, OverflowError):
            return None


def _start_of(response: httpcore2.Response) -> str:
    """The beginning of an answer's body, in one line."""
    read = b""
    try:
        for part in response.iter_stream():
            read += part
            if len(read) >= READ_BYTES:
                break
    except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError):
        pass  # what came is enough
    text = " ".join(read[:READ_BYTES].decode("utf-8", "replace").split())
    return "".join(c for c in text if c.isprintable())[:SHOWN]
