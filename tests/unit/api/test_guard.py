"""The guard by itself: who counts as one, who is told what, and how long a stream may go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from api.access import Principal
from api.audit import Recorder
from api.guard import LOOPBACK, Guard, Rules
from api.limits import Buckets, Limits
from api.session import CSRF_HEADER, csrf_of
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Audited, Refusal

HERE = "http://127.0.0.1:8642"
ADA = Principal("token:1", "ada", frozenset({"read", "control"}), token_id=1)
SIGNED_IN = replace(ADA, session_id=7)
BEARER = {"Authorization": "Bearer wnw_good"}
COOKIE = {"Cookie": "winnow_8642=wns_good"}


@dataclass
class Verify:
    """Knows `wnw_good` and `wns_good`; `later`: what is found at the looks after the first."""

    later: list[Principal | Refusal | StoreUnavailable] = field(default_factory=list)
    looks: int = 0

    async def token(self, text: str) -> Principal | Refusal:
        return self._found(ADA if text == "wnw_good" else "unknown")

    async def session(self, text: str) -> Principal | Refusal:
        return self._found(SIGNED_IN if text == "wns_good" else "unknown")

    def _found(self, first: Principal | Refusal) -> Principal | Refusal:
        self.looks += 1
        if self.looks == 1 or not self.later:
            return first
        found = self.later.pop(0)
        if isinstance(found, StoreUnavailable):
            raise found
        return found


class Log:
    """What the recorder writes."""

    def __init__(self) -> None:
        self.entries: list[Audited] = []
        self.used: list[tuple[set[int], set[int]]] = []

    def note(
        self, entries: Sequence[Audited], tokens: Collection[int], sessions: Collection[int]
    ) -> None:
        self.entries += entries
        self.used.append((set(tokens), set(sessions)))


@dataclass
class Guarded:
    recorder: Recorder
    client: Callable[..., TestClient]
    log: Log


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


def guarded(app: Any = answer, verify: Verify | None = None, **changes: Any) -> Guarded:
    log = Log()
    recorder = Recorder(log)  # type: ignore[arg-type]
    rules = Rules(
        **{
            "verify": verify or Verify(),
            "limits": Limits(0, 0, 0),
            "failures": Buckets(0),
            "recorder": recorder,
            "hosts": LOOPBACK,
            **changes,
        }
    )

    def client(address: str = "192.0.2.1") -> TestClient:
        return TestClient(Guard(app, rules), base_url=HERE, client=(address, 1))

    return Guarded(recorder, client, log)


def test_who_guesses_sessions_is_slowed_down_as_well() -> None:
    http = guarded(failures=Buckets(2)).client()
    wrong = {"Cookie": "winnow_8642=wns_wrong"}
    answers = [http.get("/v1/sweeps", headers=wrong) for _ in range(4)]
    assert [a.status_code for a in answers] == [401, 401, 429, 429]
    assert "Max-Age=0" in answers[0].headers["set-cookie"]
    assert int(answers[2].headers["retry-after"]) > 0


def test_addresses_of_one_network_of_version_6_are_one_guesser() -> None:
    """Who has one of them has 2^64."""
    made = guarded(failures=Buckets(1))

    def guess(address: str) -> int:
        headers = {"Authorization": "Bearer wnw_wrong"}
        return made.client(address).get("/v1/sweeps", headers=headers).status_code

    assert [guess(f"2001:db8:0:1::{n}") for n in (1, 2)] == [401, 429]
    assert guess("2001:db8:0:2::1") == 401
    assert [guess(f"192.0.2.{n}") for n in (1, 2)] == [401, 401]


def test_answers_of_the_api_are_not_kept_by_caches() -> None:
    http = guarded().client()
    assert http.get("/v1/sweeps", headers=BEARER).headers["cache-control"] == "no-store"
    assert http.get("/v1/sweeps").headers["cache-control"] == "no-store"
    assert "cache-control" not in http.get("/index.html").headers


def test_a_probe_by_number_is_let_through_where_everybody_is_and_nowhere_else() -> None:
    probe = {"Host": "10.1.2.3:8642"}
    assert guarded().client().get("/v1/health", headers=probe).status_code == 400
    beyond = guarded(hosts=frozenset({"winnow.example"})).client()
    assert beyond.get("/v1/health", headers=probe).status_code == 200
    assert beyond.get("/v1/sweeps", headers=probe | BEARER).status_code == 400


def test_refusals_are_counted_by_status() -> None:
    made = guarded(limits=Limits(1, 1, 1))
    http = made.client()
    assert [http.get("/v1/sweeps", headers=BEARER).status_code for _ in range(3)] == [200, 429, 429]
    assert http.get("/v1/sweeps").status_code == 401
    assert made.recorder.refused == {429: 2, 401: 1}


def test_a_change_that_a_browser_asked_for_is_noted_as_its_sessions() -> None:
    made = guarded()
    own = {"Origin": HERE, CSRF_HEADER: csrf_of("wns_good")}
    assert made.client().post("/v1/sweeps/x:pause", headers=COOKIE | own).status_code == 200
    assert made.client().post("/v1/sweeps/x:pause", headers=BEARER).status_code == 200
    made.recorder.start()
    made.recorder.stop()
    assert [entry.detail for entry in made.log.entries] == [{"session": True}, None]
    assert made.log.used == [({1}, {7})]


@pytest.mark.parametrize("who", [BEARER, COOKIE], ids=["a token", "a session"])
def test_a_stream_ends_with_what_it_was_opened_with_and_not_with_the_database(
    who: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.guard.ASK_AGAIN_SECONDS", 0.01)
    away = StoreUnavailable("away")
    verify = Verify(later=[ADA, away, away, ADA, "revoked"])

    async def until_it_is_gone(scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.timeout(30):
            while (await receive())["type"] != "http.disconnect":
                pass
        await answer(scope, receive, send)

    http = guarded(until_it_is_gone, verify).client()
    assert http.get("/v1/events/stream", headers=who).status_code == 200
    assert (verify.looks, verify.later) == (6, [])


def test_a_body_that_comes_byte_by_byte_has_no_longer_than_one_that_comes_at_once() -> None:
    async def trickling() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def reads_it_all(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    log = Recorder(Log())  # type: ignore[arg-type]
    rules = Rules(Verify(), Limits(0, 0, 0), Buckets(0), log, body_seconds=0.5)
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/sweeps",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8642"), (b"authorization", b"Bearer wnw_good")],
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def asked() -> None:
        async with asyncio.timeout(30):
            await Guard(reads_it_all, rules)(scope, trickling, send)

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, asked()).result()
    assert sent[0]["status"] == 408
