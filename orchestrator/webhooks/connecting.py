"""Connections to addresses that users name: judged when they are made, and bounded in time.

The name is resolved here, every address that it has is judged by the policy, and the connection
goes to one of those very addresses. So a name that answers differently a moment later (DNS
rebinding) changes nothing. Host header, SNI and certificate stay those of the name.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2

from orchestrator.webhooks.addresses import (
    AddressRefused,
    IPAddress,
    Policy,
    as_address,
    check_addresses,
    unique,
)

Resolve = Callable[[str, int], list[IPAddress]]


def resolve(host: str, port: int) -> list[IPAddress]:
    """All addresses that a host has, by the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A scope (fe80::1%eth0) says which interface; it is no part of the address.
    return unique([ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found])


class CheckedBackend(httpcore2.NetworkBackend):
    """`httpcore2.ConnectionPool(network_backend=…)`: connects only to what `policy` lets through.

    `seconds`: how long a connection lives in all, from its start; every read and write ends by
    then, so a peer that sends a byte now and then holds nobody up. Raises AddressRefused.
    """

    def __init__(self, policy: Policy, seconds: float, resolve: Resolve = resolve) -> None:
        self._policy = policy
        self._seconds = seconds
        self._resolve = resolve
        self._connect = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        ends = time.monotonic() + self._seconds
        literal = as_address(host)
        try:
            addresses = [literal] if literal is not None else self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} has no address: {error}") from None
        check_addresses(host, addresses, self._policy)
        failed: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            left = ends - time.monotonic()
            if left <= 0:
                break
            try:
                stream = self._connect.connect_tcp(
                    str(address),
                    port,
                    left if timeout is None else min(left, timeout),
                    local_address,
                    socket_options or (),
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
            else:
                return _Bounded(stream, ends)
        raise failed

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        raise AddressRefused("winnow sends to no local sockets")


class _Bounded(httpcore2.NetworkStream):
    """A stream on which nothing waits beyond a moment of the monotonic clock."""

    def __init__(self, stream: httpcore2.NetworkStream, ends: float) -> None:
        self._stream = stream
        self._ends = ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left = self._left(timeout, httpcore2.ConnectTimeout)
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, left), self._ends)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, timeout: float | None, late: type[Exception]) -> float:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise late("it took too long in all")
        return left if timeout is None else min(left, timeout)
