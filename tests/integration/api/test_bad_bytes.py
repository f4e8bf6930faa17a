"""What isn't even HTTP, or is so in two ways, is refused by the server, which then serves on."""

from __future__ import annotations

import contextlib
import socket
import urllib.request

from orchestrator.store import Store
from tests.integration.api.conftest import LiveServer

START = "POST /v1/sweeps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BYTES: dict[str, bytes] = {
    "two lengths": f"{START}Content-Length: 2\r\nContent-Length: 9\r\n\r\n{{}}".encode(),
    "a length and chunks": (
        f"{START}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
    ),
    "a length below nothing": f"{START}Content-Length: -1\r\n\r\n".encode(),
    "a length of a word": f"{START}Content-Length: many\r\n\r\n".encode(),
    "a length of many digits": f"{START}Content-Length: {'9' * 300}\r\n\r\n".encode(),
    "a chunk of no size": f"{START}Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n".encode(),
    "a header folded": f"{START}X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n".encode(),
    "a header with NUL": f"{START}X-A: b\0c\r\nContent-Length: 0\r\n\r\n".encode(),
    "a header without a name": f"{START}: b\r\nContent-Length: 0\r\n\r\n".encode(),
    "a header of 200,000 letters": f"{START}X-A: {'b' * 200_000}\r\n\r\n".encode(),
    "a line of nothing": b"\0\0\0\0\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "an address in full elsewhere": (
        b"GET http://evil.example/v1/sweeps HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    ),
    "half a body": f"{START}Content-Length: 100\r\n\r\n{{".encode(),
}


def test_bytes_that_are_no_request_are_refused_and_nothing_else_suffers(
    live: LiveServer, live_store: Store
) -> None:
    for name, sent in BYTES.items():
        answer = exchanged(live.port, sent)
        if answer:
            assert answer.split(b" ")[1][:1] == b"4", (name, answer[:200])
            assert len(answer) < 64 * 1024, name
        with urllib.request.urlopen(f"{live.url}/v1/health", timeout=120) as health:
            assert health.status == 200, name
    assert live_store.list_sweeps().items == []


def exchanged(port: int, sent: bytes) -> bytes:
    """All that comes back; nothing if the server just closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it may close before all was sent, or be gone by then
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    return answer
