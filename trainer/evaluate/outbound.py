"""The connection to a judge whose address a user gave, where only the public internet is allowed.

The name is resolved here, all of its addresses are judged, and the connection goes to one of those
very addresses: a name that answers differently a moment later changes nothing. Redirects aren't
followed. Behind a proxy it is the proxy that resolves names, and its rules that hold.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

from trainer.errors import ConfigError

_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_ROUTED_IPV6 = ipaddress.ip_network("2000::/3")
"""Of IPv6, only this is routed; what is not in it is loopback, local or a translation of IPv4."""


def is_public(address: str) -> bool:
    """Whether an address in numbers is one of the public internet.

    Raises:
        ValueError: it isn't an address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.version == 6 and found not in _ROUTED_IPV6:
        return False
    return not any(found.version == n.version and found in n for n in _REFUSED)


def public_client(base_url: str, timeout: float) -> httpx2.Client:
    """A client that reaches only public addresses, and follows no redirect.

    Raises:
        ConfigError: `base_url` is an address in numbers that isn't public.
    """
    host = urlsplit(base_url).hostname or ""
    if _is_literal(host):
        _check(host, [host])
    if _proxied(base_url, host):
        return httpx2.Client(timeout=timeout, follow_redirects=False)
    transport = httpx2.HTTPTransport()
    transport._pool = httpcore2.ConnectionPool(  # pyright: ignore[reportPrivateUsage]
        ssl_context=httpx2.create_ssl_context(), network_backend=_PublicOnly()
    )
    return httpx2.Client(transport=transport, timeout=timeout, follow_redirects=False)


class _PublicOnly(httpcore2.NetworkBackend):
    def __init__(self) -> None:
        self._below = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} has no address: {error}") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        _check(host, addresses)
        failed: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return self._below.connect_tcp(
                    address, port, timeout, local_address, list(socket_options or ())
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed


def _check(host: str, addresses: Iterable[str]) -> None:
    for address in addresses:
        if not is_public(address):
            name = address if address == host else f"{host} is {address}, which"
            raise ConfigError(
                f"{name} is no address of the public internet, and this server's judges have to be "
                "there; whoever runs it can allow others (WINNOW_PRIVATE_JUDGES)",
                "/judge/base_url",
            )


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _proxied(base_url: str, host: str) -> bool:
    return urlsplit(base_url).scheme in getproxies() and not proxy_bypass(host)
