"""Only the public internet may be sent to, however an address is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.webhooks.addresses import (
    AddressRefused,
    Policy,
    check_addresses,
    check_url,
    refusal,
)

NOBODY = Policy()
PRIVATE = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96",
    "::1/128",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001:db8::/32",
    "2001::/32",
    "2002::/16",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
]


@st.composite
def inside(draw: st.DrawFn) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of a network that nobody on the internet has."""
    network = ipaddress.ip_network(draw(st.sampled_from(PRIVATE)))
    first, last = int(network.network_address), int(network.broadcast_address)
    kind = type(network.network_address)
    return kind(draw(st.integers(first, last)))


@given(inside())
def test_no_address_of_a_special_network_is_connected_to(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert refusal(address, NOBODY) is not None
    host = f"[{address}]" if address.version == 6 else str(address)
    with pytest.raises(AddressRefused):
        check_url(f"https://{host}/", NOBODY)
    if address.version == 4:  # neither when it is hidden in one of version 6
        assert refusal(ipaddress.ip_address(f"::ffff:{address}"), NOBODY) is not None


@given(st.ip_addresses())
def test_what_is_let_through_is_what_python_takes_for_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if refusal(address, NOBODY) is None:
        plain = getattr(address, "ipv4_mapped", None) or address
        assert plain.is_global
        assert not plain.is_multicast


@pytest.mark.parametrize("text", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "172.32.0.1"])
def test_public_addresses_are_let_through(text: str) -> None:
    assert refusal(ipaddress.ip_address(text), NOBODY) is None


@given(st.text(max_size=40))
def test_whatever_is_given_as_an_address_is_taken_or_refused(text: str) -> None:
    try:
        url = check_url(text, NOBODY)
    except AddressRefused:
        return
    assert url.scheme == "https"
    assert not url.userinfo


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://ci.example/", "https"),
        ("ftp://ci.example/", "https"),
        ("//ci.example/", "https"),
        ("https:///path", "https"),
        ("https://ann:pw@ci.example/", "user or password"),
        ("https://ann@ci.example/", "user or password"),
        ("https://@ci.example/", "user or password"),
        ("https://ci.example@127.0.0.1/", "user or password"),
        ("https://ci.example:22/", "port 22"),
        ("https://ci.example:0/", "port 0"),
        ("https://ci.example:99999/", "port 99999"),
        ("https://ci.example/#x", "after #"),
        ("https://ci.example\\@10.0.0.1/", "backslash"),
        ("https://ci.example/\r\nHost: x", "ASCII"),
        ("https://bücher.example/", "xn--"),
        ("https://127.0.0.1/", "loopback"),
        ("https://[::1]/", "loopback"),
        ("https://[::ffff:169.254.169.254]/", "link-local"),
        ("https://[fe80::1%25eth0]/", "link-local"),
        ("https://ci.example/" + "a" * 2048, "2,048"),
    ],
)
def test_an_address_that_is_refused_says_why(url: str, says: str) -> None:
    with pytest.raises(AddressRefused, match=says):
        check_url(url, NOBODY)


def test_the_operator_allows_networks_and_names() -> None:
    policy = Policy.parse("10.0.0.0/8, CI.example., 192.168.1.7,fd00::/8")
    assert check_url("http://10.1.2.3:8080/x", policy).host == "10.1.2.3"
    assert check_url("http://ci.example/x", policy).host == "ci.example"
    check_addresses("ci.example", [ipaddress.ip_address("127.0.0.1")], policy)
    check_addresses("other", [ipaddress.ip_address("192.168.1.7")], policy)
    for host, address in (("other", "192.168.1.8"), ("x.ci.example", "127.0.0.1")):
        with pytest.raises(AddressRefused, match=f"{host} is {address}"):
            check_addresses(host, [ipaddress.ip_address(address)], policy)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "no such host", "300.1.1.1", "-x.example", "a..b"])
def test_what_is_neither_a_network_nor_a_name_is_no_policy(text: str) -> None:
    with pytest.raises(ValueError, match="neither a network"):
        Policy.parse(text)
