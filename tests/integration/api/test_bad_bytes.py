"""What isn't even HTTP, or is so in two ways, is refused by the server, which then serves on."""

from __future__ import annotations

import urllib.request

from orchestrator.store import Store
from tests.fixtures.bad_bytes import BYTES, exchanged
from tests.integration.api.conftest import LiveServer


def test_bytes_that_are_no_request_are_refused_and_nothing_else_suffers(
    live: LiveServer, live_store: Store
) -> None:
    for name, sent in BYTES.items():
        answer = exchanged(live.port, sent, live.token)
        if answer:
            assert answer.split(b" ")[1][:1] == b"4", (name, answer[:200])
            assert len(answer) < 64 * 1024, name
        with urllib.request.urlopen(f"{live.url}/v1/health", timeout=20) as health:
            assert health.status == 200, name
    assert live_store.list_sweeps().items == []
