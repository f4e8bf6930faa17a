"""Which addresses winnow may send to when a user names them. Pure: it resolves nothing itself.

A name's addresses are judged where the connection is made (`connecting.py`), so nothing can change
between the look and the use. Everything that the internet doesn't route is refused (loopback,
private and link-local networks, the cloud's metadata service, …), unless the operator allows it.

The networks are those of the IANA registries of special-purpose addresses (RFC 6890). They are
written out, because `ipaddress.is_global` differs between versions of Python.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx2

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST = 2048
"""Characters of an address."""
WEB_PORTS = (80, 443)
FIRST_FREE_PORT, LAST_PORT = 1024, 65535
"""Below the first are services that no web request must be sent to: mail, remote shells, DNS, …"""

_KINDS = {
    "this host": ["0.0.0.0/8", "::/128"],
    "loopback": ["127.0.0.0/8", "::1/128"],
    "private": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"],
    "link-local": ["169.254.0.0/16", "fe80::/10"],
    "shared with the provider": ["100.64.0.0/10"],
    "multicast": ["224.0.0.0/4", "ff00::/8"],
    "kept for protocols and examples": [
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
    ],
    # A gateway may turn these into any IPv4 address.
    "a translated IPv4 address": ["64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::/96"],
}
_REFUSED = [(ipaddress.ip_network(n), kind) for kind, nets in _KINDS.items() for n in nets]
_ROUTED_IPV6 = ipaddress.ip_network("2000::/3")


class AddressRefused(Exception):
    """winnow doesn't send there. Says why, and who can change it."""


@dataclass(frozen=True)
class Policy:
    """What the operator allows beyond the public internet (`WINNOW_WEBHOOK_ALLOW`).

    `networks` may be connected to; `hosts` may have any address. Both also by plain http.
    """

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Of networks, addresses and host names with commas between. Raises ValueError."""
        networks: list[Network] = []
        hosts: set[str] = set()
        for part in (p.strip().lower() for p in text.split(",")):
            if not part:
                continue
            try:
                networks.append(ipaddress.ip_network(part.strip("[]"), strict=True))
            except ValueError:
                if not _is_host_name(part):
                    raise ValueError(
                        f"{part!r} is neither a network (10.0.0.0/8) nor a host name (ci.example)"
                    ) from None
                hosts.add(part.rstrip("."))
        return cls(tuple(networks), frozenset(hosts))

    def allows(self, address: IPAddress) -> bool:
        return any(address.version == n.version and address in n for n in self.networks)


def check_url(text: str, policy: Policy) -> httpx2.URL:
    """The address, if its form is one that winnow sends to. Raises AddressRefused.

    An address in numbers is judged here already; names are judged when they are resolved.
    """
    if len(text) > LONGEST:
        raise AddressRefused(f"an address has at most {LONGEST:,} characters")
    if not text.isprintable() or not text.isascii() or any(c in text for c in " \\"):
        raise AddressRefused(
            "an address has no spaces, backslashes or characters beyond ASCII (write a name with "
            "others in its xn-- form)"
        )
    try:
        url = httpx2.URL(text)
        port = url.port
    except (httpx2.InvalidURL, ValueError) as error:
        raise AddressRefused(f"this is not an address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise AddressRefused("give an address that begins with https://")
    if url.userinfo or "@" in text.split("://", 1)[1].split("/", 1)[0]:
        raise AddressRefused(
            "an address holds no user or password; messages are signed, so the receiver knows whom "
            "they are from"
        )
    if url.fragment or "#" in text:
        raise AddressRefused("leave out the part after #: it is never sent")
    if port is not None and port not in WEB_PORTS and not FIRST_FREE_PORT <= port <= LAST_PORT:
        raise AddressRefused(
            f"port {port} is not the web's; use 80, 443 or {FIRST_FREE_PORT} to {LAST_PORT}"
        )
    host = plain_host(url.host)
    literal = as_address(host)
    if literal is not None:
        check_addresses(host, [literal], policy)
    trusted = host in policy.hosts or (literal is not None and policy.allows(literal))
    if url.scheme == "http" and not trusted:
        raise AddressRefused(
            "use https://: on the way anybody can read what is sent by plain http. Whoever runs "
            "winnow can allow it for this host with WINNOW_WEBHOOK_ALLOW"
        )
    return url


def check_addresses(host: str, addresses: Iterable[IPAddress], policy: Policy) -> None:
    """Raise AddressRefused unless every address that `host` has may be connected to."""
    if plain_host(host) in policy.hosts:
        return
    for address in addresses:
        kind = refusal(address, policy)
        if kind is not None:
            what = "" if host == str(address) else f"{host} is "
            raise AddressRefused(
                f"{what}{address}, which is no address of the public internet ({kind}); whoever "
                "runs winnow can allow it with WINNOW_WEBHOOK_ALLOW"
            )


def refusal(address: IPAddress, policy: Policy) -> str | None:
    """Why an address may not be connected to; None if it may.

    An IPv4 address inside an IPv6 one (::ffff:a.b.c.d) is judged as what it is.
    """
    address = _unmapped(address)
    if policy.allows(address):
        return None
    for network, kind in _REFUSED:
        if address.version == network.version and address in network:
            return kind
    if address.version == 6 and address not in _ROUTED_IPV6:
        return "not routed"
    return None


def as_address(host: str) -> IPAddress | None:
    """A host that is an address in numbers, or None if it is a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def plain_host(host: str) -> str:
    return host.lower().rstrip(".")


def unique(addresses: Sequence[IPAddress]) -> list[IPAddress]:
    """Without repetitions, in the order given."""
    return list(dict.fromkeys(addresses))


def _unmapped(address: IPAddress) -> IPAddress:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_host_name(text: str) -> bool:
    labels = text.rstrip(".").split(".")
    return (
        len(text) <= 253
        and all(
            0 < len(label) <= 63
            and label.replace("-", "").isalnum()
            and label.isascii()
            and not label.startswith("-")
            and not label.endswith("-")
            for label in labels
        )
        and not labels[-1].isdecimal()
    )
