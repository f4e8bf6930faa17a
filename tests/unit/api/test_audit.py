"""What a request is called in the audit log, and that the log outlives the database's absence."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from api.audit import Recorder, action_of, target_of
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Audited


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("POST", "/v1/sweeps", "sweeps.create"),
        ("POST", "/v1/sweeps:validate", "sweeps.validate"),
        ("POST", "/v1/sweeps/abc:cancel", "sweeps.cancel"),
        ("POST", "/v1/trials/abc-1:stop", "trials.stop"),
        ("DELETE", "/v1/tokens/3", "tokens.revoke"),
        ("POST", "/v1/tokens/3:rotate", "tokens.rotate"),
        ("PUT", "/v1/projects/vision", "projects.change"),
        ("PATCH", "/v1/webhooks/wh_1", "webhooks.change"),
        ("POST", "/v1/webhooks/wh_1/deliveries/msg_1:redeliver", "deliveries.redeliver"),
        ("DELETE", "/v1/session", "session.delete"),
        ("GET", "/v1/audit", "audit.read"),
        ("POST", "/v1/sweeps/abc:<script>", "sweeps.unknown"),
        ("PROPFIND", "/v1/sweeps", "sweeps.request"),
        ("POST", "/v1/", "api.create"),
    ],
)
def test_a_requests_name(method: str, path: str, action: str) -> None:
    assert action_of(method, path) == action


def test_a_token_in_an_address_is_not_written_down() -> None:
    assert target_of("/v1/tokens/wnw_" + "a" * 43) == "/v1/tokens/wnw_…"
    assert len(target_of("/v1/" + "x" * 5000)) == 300
    assert target_of("/v1/sweeps/\0\x1b[31m\n") == "/v1/sweeps/\ufffd\ufffd[31m\ufffd"


class Away:
    """A database that comes back when it is told to."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.asked = threading.Event()
        self.written: list[Audited] = []

    def note(self, entries: list[Audited], tokens: Any, sessions: Any) -> None:
        self.asked.set()
        if not self.back.is_set():
            raise StoreUnavailable("gone")
        self.written += entries


def entry(number: int) -> Audited:
    return Audited("ci", 1, "sweeps.create", "/v1/sweeps", None, 201, str(number), "127.0.0.1")


def test_what_is_asked_while_the_database_is_away_is_written_later_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.audit.RETRY_SECONDS", 0.01)
    away = Away()
    recorder = Recorder(away)  # type: ignore[arg-type]
    recorder.start()
    recorder.asked(entry(0))
    assert away.asked.wait(120)
    for number in range(1, 20):
        recorder.asked(entry(number))
    assert not recorder.flush(0.05)
    away.back.set()
    assert recorder.flush(10)
    recorder.stop()
    assert [e.request_id for e in away.written] == [str(n) for n in range(20)]


def test_a_log_that_cannot_be_written_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.audit.WAITING", 5)
    recorder = Recorder(Away())  # type: ignore[arg-type]
    for number in range(8):
        recorder.asked(entry(number))
    assert recorder.lost == 3


def test_what_was_asked_is_written_before_the_process_ends() -> None:
    away = Away()
    away.back.set()
    recorder = Recorder(away)  # type: ignore[arg-type]
    recorder.asked(entry(1))
    recorder.start()
    recorder.stop()
    assert len(away.written) == 1


def test_what_is_asked_while_another_is_written_is_written_before_the_end() -> None:
    class Slow(Away):
        def note(self, entries: list[Audited], tokens: Any, sessions: Any) -> None:
            self.asked.set()
            assert self.back.wait(20)
            self.written += entries

    slow = Slow()
    recorder = Recorder(slow)  # type: ignore[arg-type]
    recorder.start()
    recorder.asked(entry(1))
    assert slow.asked.wait(20)
    recorder.asked(entry(2))
    recorder.stop(0.01)  # it goes on in its thread
    slow.back.set()
    recorder.stop()
    assert [e.request_id for e in slow.written] == ["1", "2"]
