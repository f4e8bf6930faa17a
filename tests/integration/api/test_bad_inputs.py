"""Whatever is sent, the answer is a problem: soon, short, and nothing of it is kept.

Requests are made below the client, which would repair many of them.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI

from orchestrator.preflight import Preflight
from tests.fixtures.bad_inputs import DOCUMENTS, HEADERS, JSON, REQUESTS, VALUES
from tests.integration.api.conftest import Api, good_sweep, make_api
from winnow.spec import SweepSpec

SOON = 20.0
"""Seconds, on a machine that does much else. What takes forever takes longer."""
SHORT = 64 * 1024


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    @property
    def problem(self) -> dict[str, Any]:
        return json.loads(self.body)


def ask(
    api: Api,
    method: str,
    target: str,
    body: bytes | Sequence[bytes] = b"",
    content_type: str | None = None,
    **headers: str | bytes,
) -> Answer:
    """One request, its address and headers exactly as given."""
    assert api.http.portal is not None
    path, _, query = target.partition("?")
    sent = [
        (
            name.replace("_", "-").lower().encode(),
            v if isinstance(v, bytes) else v.encode("latin-1"),
        )
        for name, v in (
            {"authorization": f"Bearer {api.token}", "host": "127.0.0.1"} | headers
        ).items()
    ]
    if content_type is not None:
        sent.append((b"content-type", content_type.encode("latin-1")))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": _decoded(path),
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": query.encode("utf-8", "surrogateescape"),
        "root_path": "",
        "headers": sent,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8642),
        "state": {},
    }
    return api.http.portal.call(
        _exchange, api.app, scope, [body] if isinstance(body, bytes) else body
    )


def _decoded(path: str) -> str:
    return unquote(path, errors="replace")


async def _exchange(app: FastAPI, scope: dict[str, Any], body: Sequence[bytes]) -> Answer:
    answer, began = Answer(), time.monotonic()
    parts = list(body)

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {
                k.decode().lower(): v.decode("latin-1") for k, v in message["headers"]
            }
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    answer.seconds = time.monotonic() - began
    return answer


def _not_reached(spec: SweepSpec) -> Preflight:
    raise AssertionError("a bad sweep must be refused before its files are opened")


@pytest.fixture(scope="module")
def strict(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Shared by all requests of this file: none of them may leave anything behind."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "api.db").write_bytes(sqlite_template.read_bytes())
    yield from make_api(f"sqlite:///{folder / 'api.db'}", folder / "home", _not_reached)


def kept(api: Api) -> tuple[int, ...]:
    """How much there is of everything that a request can make."""
    pages = ("sweeps", "projects", "webhooks", "tokens", "allowed-code")
    return tuple(len(api.http.get(f"/v1/{name}").json()["items"]) for name in pages)


def refused(answer: Answer, *, at: str | None = None) -> dict[str, Any]:
    """The problem that a bad input was answered with."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.body) < SHORT
    assert answer.seconds < SOON
    problem = answer.problem
    assert problem["status"] == answer.status
    assert problem["detail"]
    assert "Traceback" not in answer.body.decode()
    if at is not None:
        assert at in {e["pointer"] for e in problem["errors"]}, problem
    return problem


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_cannot_be_used_is_refused(strict: Api, name: str) -> None:
    content_type, body = DOCUMENTS[name]
    refused(ask(strict, "POST", "/v1/sweeps", _bytes(body), content_type))


def _bytes(body: bytes | str) -> bytes:
    return body if isinstance(body, bytes) else body.encode()


def changed(path: str, value: Any) -> dict[str, Any]:
    sweep = copy.deepcopy(good_sweep())
    if not path:
        return sweep | value
    *parents, last = path.split(".")
    at: Any = sweep
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
    at[last] = value
    return sweep


@pytest.mark.parametrize("name", VALUES)
def test_a_sweep_with_an_odd_value_is_refused_before_its_files_are_opened(
    strict: Api, name: str
) -> None:
    path, value, pointer = VALUES[name]
    body = json.dumps(changed(path, value)).encode()
    where = "/v1/sweeps:validate" if len(name) % 2 else "/v1/sweeps"  # one check serves both
    refused(ask(strict, "POST", where, body, JSON), at=pointer)


@pytest.mark.parametrize("name", REQUESTS)
def test_an_odd_request_is_refused(strict: Api, name: str) -> None:
    refused(ask(strict, *REQUESTS[name]))


@pytest.mark.parametrize("name", HEADERS)
def test_an_odd_header_is_refused(strict: Api, name: str) -> None:
    body = json.dumps({"name": "x"}).encode()
    refused(ask(strict, "POST", "/v1/sweeps", body, JSON, **HEADERS[name]))


def test_after_all_that_the_server_answers_and_nothing_was_kept(strict: Api) -> None:
    before = kept(strict)
    for content_type, body in DOCUMENTS.values():
        if len(body) < 1000:
            ask(strict, "POST", "/v1/sweeps", _bytes(body), content_type)
    for request in REQUESTS.values():
        ask(strict, *request)
    assert kept(strict) == before
    assert before[0] == 0
    assert strict.http.get("/v1/health").status_code == 200


def test_there_are_more_than_150_of_them() -> None:
    assert len(DOCUMENTS) + len(VALUES) + len(REQUESTS) + len(HEADERS) >= 150
