"""Messages go to real servers on loopback, and nowhere that the policy does not let them go."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from orchestrator.webhooks.addresses import Policy
from orchestrator.webhooks.sending import Outcome, Sender
from tests.fixtures.receiver import Receiver, Sent

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOOPBACK = Policy.parse("127.0.0.0/8")


@dataclass
class Message:
    url: str
    id: str = "msg_1"
    body: str = '{"type":"webhook.ping"}'
    kind: str = "webhook.ping"
    keys: tuple[str, ...] = (KEY,)


def send(url: str, policy: Policy = LOOPBACK, **kwargs: object) -> Outcome:
    return Sender(policy, **kwargs).send(Message(url))  # type: ignore[arg-type]


def named(receiver: Receiver, name: str = "ci.example") -> str:
    return f"http://{name}:{receiver.port}/hook"


def test_a_message_arrives_with_its_headers_and_the_name_as_host(receiver: Receiver) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[ipaddress.IPv4Address]:
        asked.append(host)
        return [ipaddress.IPv4Address("127.0.0.1")]

    outcome = send(named(receiver), Policy.parse("ci.example"), resolve=resolve)
    assert outcome == Outcome(204)
    (sent,) = receiver.received
    assert sent.headers["host"] == f"ci.example:{receiver.port}"
    assert sent.headers["webhook-id"] == "msg_1"
    assert sent.body == b'{"type":"webhook.ping"}'
    assert asked == ["ci.example"]


def test_loopback_is_refused_unless_it_is_allowed(receiver: Receiver) -> None:
    for url in (
        receiver.url.replace("http:", "https:"),
        f"https://localhost:{receiver.port}/",
        f"https://2130706433:{receiver.port}/",  # 127.0.0.1 as one number
        f"https://0x7f.1:{receiver.port}/",
        f"https://127.1:{receiver.port}/",
        f"https://[::ffff:127.0.0.1]:{receiver.port}/",
        f"https://0.0.0.0:{receiver.port}/",
    ):
        error = send(url, Policy()).error or ""
        assert error.startswith("not sent: "), f"{url}: {error}"
        assert "WINNOW_WEBHOOK_ALLOW" in error
    assert receiver.received == []


def test_one_private_address_of_a_name_is_enough_to_refuse_it(receiver: Receiver) -> None:
    public, private = ipaddress.ip_address("93.184.216.34"), ipaddress.ip_address("127.0.0.1")
    url = f"https://ci.example:{receiver.port}/"
    for found in ([public, private], [private, public]):
        assert "loopback" in (send(url, Policy(), resolve=lambda h, p, f=found: f).error or "")


def test_a_name_that_answers_differently_the_second_time_wins_nothing(receiver: Receiver) -> None:
    """DNS rebinding: the connection goes to the address that was judged. Here that is one on which
    nobody listens, though the name's next answer would lead to the receiver."""
    answers = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])
    outcome = send(
        named(receiver),
        Policy(networks=(ipaddress.ip_network("127.0.0.2"),), hosts=frozenset({"other"})),
        resolve=lambda h, p: [ipaddress.ip_address(next(answers))],
    )
    assert outcome.error is not None
    assert "use https://" in outcome.error  # by plain http only to hosts that are allowed
    answers = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])
    outcome = send(
        named(receiver).replace("http:", "https:"),
        Policy(networks=(ipaddress.ip_network("127.0.0.2"),)),
        resolve=lambda h, p: [ipaddress.ip_address(next(answers))],
    )
    assert outcome.error is not None
    assert outcome.error.startswith("no connection")
    assert next(answers) == "127.0.0.1"  # it was asked once
    assert receiver.received == []


def test_a_name_of_several_addresses_is_reached_where_somebody_listens(receiver: Receiver) -> None:
    addresses = [ipaddress.IPv4Address(text) for text in ("127.0.0.2", "127.0.0.1")]
    outcome = send(named(receiver), Policy.parse("ci.example"), resolve=lambda *_: addresses)
    assert outcome == Outcome(204)
    nowhere = send(named(receiver), Policy.parse("ci.example"), resolve=lambda *_: addresses[:1])
    assert (nowhere.error or "").startswith("no connection")


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    inside = Receiver().start()
    try:
        for status in (301, 302, 303, 307, 308):
            receiver.answer = lambda sent, s=status: (s, {"location": inside.url}, b"")
            outcome = send(receiver.url)
            assert outcome.status == status
            assert "redirects are not followed" in (outcome.error or "")
        assert inside.received == []
    finally:
        inside.stop()


def test_what_the_environment_says_of_proxies_is_not_heard(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Receiver().start()
    try:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert send(receiver.url) == Outcome(204)
        assert proxy.received == []
        assert send(receiver.url, proxy=proxy.url.removesuffix("/hook")) == Outcome(204)
        assert len(proxy.received) == 1
    finally:
        proxy.stop()


def test_an_answer_is_read_to_a_bound_and_shown_in_one_line(receiver: Receiver) -> None:
    receiver.answer = lambda sent: (500, {}, b"no\nroom\x1b[31m " + b"x" * 10_000_000)
    outcome = send(receiver.url)
    assert outcome.status == 500
    assert outcome.error is not None
    assert outcome.error.startswith("it answered 500: no room[31m xxx")
    assert len(outcome.error) < 300


@pytest.mark.parametrize(
    ("said", "seconds"), [("120", 120), ("Thu, 01 Jan 2026 00:02:00 GMT", 120), ("soon", None)]
)
def test_what_a_receiver_asks_for_is_heard(
    receiver: Receiver, said: str, seconds: float | None
) -> None:
    receiver.answer = lambda sent: (429, {"retry-after": said}, b"")
    outcome = send(receiver.url, clock=lambda: 1767225600.0)  # the first of January 2026
    assert outcome.retry_after == seconds


@pytest.fixture
def dripping() -> Iterator[int]:
    """A port on which an answer comes byte by byte, and never ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            while not stop.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

    threading.Thread(target=drip, daemon=True).start()
    yield listener.getsockname()[1]
    stop.set()
    listener.close()


def test_a_receiver_that_answers_byte_by_byte_holds_nobody_up(dripping: int) -> None:
    began = time.monotonic()
    outcome = send(f"http://127.0.0.1:{dripping}/", seconds=0.5)
    assert outcome.error is not None
    assert outcome.error.startswith("no answer in time")
    assert time.monotonic() - began < 60  # it drips for ever


def test_a_receiver_that_says_nothing_is_not_waited_for_beyond_the_bound_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.webhooks.sending.ANSWER_SECONDS", 86_400.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcome = send(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.5)
    assert (outcome.error or "").startswith("no answer in time")


def test_what_is_no_web_server_is_said(receiver: Receiver) -> None:
    def sent_twice(sent: Sent) -> tuple[int, dict[str, str], bytes]:
        raise OSError  # the connection ends without an answer

    receiver.answer = sent_twice
    assert (send(receiver.url).error or "").startswith("it does not answer as a web server does")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert (send(f"http://127.0.0.1:{port}/").error or "").startswith("no connection")
