"""Over https the name is what counts, though the connection goes to an address that was judged."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.webhooks.addresses import Policy
from orchestrator.webhooks.sending import Outcome, Sender
from orchestrator.webhooks.signing import new_secret
from tests.fixtures.receiver import Receiver


@dataclass
class Secure:
    receiver: Receiver
    trust: ssl.SSLContext
    names: list[str | None]
    """What clients asked for by SNI."""


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Secure]:
    """A receiver with a certificate for ci.example alone, and who trusts that."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ci.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ci.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "server.pem").write_bytes(private + pem)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "server.pem")
    names: list[str | None] = []
    serving.sni_callback = lambda _, name, __: names.append(name)
    receiver = Receiver().start()
    assert receiver.server is not None
    receiver.server.socket = serving.wrap_socket(receiver.server.socket, server_side=True)
    yield Secure(receiver, ssl.create_default_context(cadata=pem.decode()), names)
    receiver.stop()


@dataclass
class Message:
    url: str
    id: str = "msg_1"
    body: str = "{}"
    kind: str = "webhook.ping"
    keys: tuple[str, ...] = (new_secret(),)


def send(secure: Secure, name: str, tls: ssl.SSLContext | None) -> Outcome:
    here = ipaddress.ip_address("127.0.0.1")
    sender = Sender(Policy.parse("127.0.0.1"), tls=tls, resolve=lambda host, port: [here])
    return sender.send(Message(f"https://{name}:{secure.receiver.port}/hook"))


def test_host_sni_and_certificate_are_the_names(secure: Secure) -> None:
    assert send(secure, "ci.example", secure.trust) == Outcome(204)
    (sent,) = secure.receiver.received
    assert sent.headers["host"] == f"ci.example:{secure.receiver.port}"
    assert secure.names == ["ci.example"]


def test_a_certificate_of_another_name_or_of_nobody_is_refused(secure: Secure) -> None:
    for name, tls in (("other.example", secure.trust), ("ci.example", None)):
        outcome = send(secure, name, tls)
        assert outcome.error is not None
        assert "certificate" in outcome.error.lower()
    assert secure.receiver.received == []
