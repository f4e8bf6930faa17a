"""What every request passes: limits of size, time and number, and what every answer carries."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from orchestrator.settings import Settings
from tests.integration.api.conftest import Api, files_are_fine, good_sweep


def limited(url: str, home: Path, **settings: Any) -> Iterator[TestClient]:
    app = create_app(Settings(home=home, database_url=url, **settings), check_files=files_are_fine)
    with TestClient(app, base_url="http://127.0.0.1:8642") as http:
        token = (home / "token").read_text().strip()
        http.headers["Authorization"] = f"Bearer {token}"
        yield http


def test_every_answer_says_how_it_may_be_used(api: Api) -> None:
    answers = {
        "data": api.http.get("/v1/sweeps"),
        "a problem": api.http.get("/v1/sweeps/nowhere"),
        "no token": api.http.get("/v1/sweeps", headers={"Authorization": ""}),
        "another host": api.http.get("/v1/sweeps", headers={"Host": "evil.example"}),
        "a page": api.http.get("/"),
        "no file": api.http.get("/missing.js"),
        "a method": api.http.put("/v1/sweeps"),
    }
    for what, answer in answers.items():
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff", what
        assert headers["referrer-policy"] == "no-referrer", what
        assert headers["cross-origin-opener-policy"] == "same-origin", what
        assert headers["cross-origin-resource-policy"] == "same-origin", what
        assert "frame-ancestors 'none'" in headers["content-security-policy"], what
        assert "unsafe-inline" not in headers["content-security-policy"], what
        assert "strict-transport-security" not in headers, what
        assert "access-control-allow-origin" not in headers, what
        assert re.fullmatch(r"[0-9a-f]{16}", headers["x-request-id"]), what


def test_a_bug_is_answered_as_a_problem_like_any_other(api: Api) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of the inside")

    api.app.state.services.store.access.tokens = broken
    answer = api.http.get("/v1/tokens", headers={"X-Request-Id": "who-asked"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "who-asked"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "secret" not in answer.text


def test_a_request_id_is_taken_over_if_it_is_well_formed(api: Api) -> None:
    def echoed(given: str) -> str:
        return api.http.get("/v1/sweeps/nowhere", headers={"X-Request-Id": given}).json()[
            "request_id"
        ]

    assert echoed("job-17.3:retry_2") == "job-17.3:retry_2"
    for bad in ("", "a b", "x" * 65, "<script>", "a;b"):
        assert re.fullmatch(r"[0-9a-f]{16}", echoed(bad)), bad


def test_pages_of_other_sites_may_not_call(api: Api) -> None:
    preflight = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for path in ("/v1/sweeps", "/v1/health", "/v1/session", "/"):
        answer = api.http.options(path, headers={**preflight, "Authorization": ""})
        assert answer.status_code == 403, path
        assert answer.json()["type"] == "urn:winnow:problem:cross-site"
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_too_long_an_address_or_head_is_refused_with_its_limit(api: Api) -> None:
    long = api.http.get("/v1/sweeps?cursor=" + "x" * 17_000)
    assert (long.status_code, long.headers["content-type"]) == (414, "application/problem+json")
    assert "16 kB" in long.json()["detail"]
    fat = api.http.get("/v1/sweeps", headers={f"X-{n}": "y" * 1000 for n in range(40)})
    assert fat.status_code == 431
    big = api.http.post("/v1/sweeps", content=b"x" * (1024 * 1024 + 1))
    assert big.status_code == 413

    def unannounced() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 32_768

    headers = {"Content-Type": "application/json"}
    assert api.http.post("/v1/sweeps", content=unannounced(), headers=headers).status_code == 413


def test_a_token_that_asks_too_often_is_told_to_wait(sqlite_url: str, tmp_path: Path) -> None:
    for http in limited(sqlite_url, tmp_path, reads_per_minute=3, writes_per_minute=1):
        first = http.get("/v1/sweeps")
        assert first.headers["ratelimit-policy"] == '"reads";q=3;w=60'
        assert first.headers["ratelimit"].startswith('"reads";r=2;t=')
        seen = [http.get("/v1/sweeps").status_code for _ in range(3)]
        assert seen == [200, 200, 429]
        refused = http.get("/v1/sweeps")
        assert refused.json()["type"] == "urn:winnow:problem:rate-limit"
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        # Others are not held up, nor is what is counted apart.
        assert http.post("/v1/sweeps", json=good_sweep()).status_code == 201
        made = http.post("/v1/tokens", json={"name": "another"}).json()
        other = {"Authorization": f"Bearer {made['token']}"}
        assert http.get("/v1/sweeps", headers=other).status_code == 200
        assert http.get("/v1/health").status_code == 200


def test_who_guesses_tokens_is_slowed_down_and_others_are_not(
    sqlite_url: str, tmp_path: Path
) -> None:
    for http in limited(sqlite_url, tmp_path, failures_per_minute=5):
        answers = [
            http.get("/v1/sweeps", headers={"Authorization": f"Bearer wnw_{n}"}).status_code
            for n in range(8)
        ]
        assert answers == [401] * 5 + [429] * 3
        slow = http.get("/v1/sweeps", headers={"Authorization": "Bearer wnw_more"})
        assert slow.json()["type"] == "urn:winnow:problem:too-many-failures"
        assert int(slow.headers["retry-after"]) > 0
        assert http.get("/v1/sweeps").status_code == 200, "a right token from the same address"


def test_a_server_that_others_reach_has_to_know_its_names(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="WINNOW_ALLOWED_HOSTS"):
        create_app(Settings(home=tmp_path, database_url=sqlite_url, host="0.0.0.0"))
    settings = {"host": "0.0.0.0", "allowed_hosts": "winnow.example.com, 192.0.2.7"}
    for http in limited(sqlite_url, tmp_path, **settings):
        for host, status in {
            "winnow.example.com": 200,
            "WINNOW.example.com:443": 200,
            "192.0.2.7:8642": 200,
            "localhost:8642": 200,
            "other.example.com": 400,
            "winnow.example.com.evil.example": 400,
        }.items():
            assert http.get("/v1/recipes", headers={"Host": host}).status_code == status, host
        # A probe knows a container's number only.
        by_number = {"Host": "10.1.2.3:8642"}
        assert http.get("/v1/health", headers=by_number).status_code == 200
        assert http.get("/v1/recipes", headers=by_number).status_code == 400


@pytest.fixture
def served(sqlite_url: str, tmp_path: Path) -> Iterator[tuple[int, str]]:
    """`python -m api` with short patience: its port and its token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path / "home"
    environment = {
        "WINNOW_HOME": str(home),
        "WINNOW_DATABASE_URL": sqlite_url,
        "WINNOW_PORT": str(port),
        "WINNOW_HEADER_SECONDS": "0.5",
        "WINNOW_BODY_SECONDS": "0.5",
        "PATH": "/usr/bin",
    }
    log = (tmp_path / "api.log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "api"], env=environment, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "api.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port, (home / "token").read_text().strip()
    finally:
        process.kill()
        process.wait()
        log.close()


def test_requests_that_never_arrive_do_not_hold_a_connection(served: tuple[int, str]) -> None:
    port, token = served

    def say(*parts: bytes) -> bytes:
        """All that the server answers until it closes the connection."""
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            for part in parts:
                connection.sendall(part)
            answer = b""
            while data := connection.recv(65536):
                answer += data
        return answer

    head = b"POST /v1/sweeps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    key = b"Authorization: Bearer " + token.encode() + b"\r\n"
    assert say() == b"", "a connection without a word"
    assert say(b"GET /v1/health HT") == b"", "half a head"
    # A second request's head on a connection that was used is not waited for longer.
    good = b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert say(good + b"GET /v1").count(b"HTTP/1.1 200") == 1
    slow = say(head + key + b"Content-Length: 100\r\n\r\n{")
    assert slow.startswith(b"HTTP/1.1 408")
    assert json.loads(slow.partition(b"\r\n\r\n")[2])["type"] == "urn:winnow:problem:timeout"
