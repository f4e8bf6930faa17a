"""A browser's session: signed in by a token once, and out of reach of other sites."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from orchestrator.settings import Settings
from tests.integration.api.conftest import Api, files_are_fine, good_sweep

HERE = "http://127.0.0.1:8642"


@dataclass
class Browser:
    """Keeps cookies, and says where a request comes from, as browsers do."""

    http: TestClient
    csrf: str = ""
    page: dict[str, str] = field(default_factory=lambda: {"Sec-Fetch-Site": "same-origin"})

    def sign_in(self, token: str) -> Any:
        answer = self.http.post(
            "/v1/session", headers={**self.page, "Authorization": f"Bearer {token}"}
        )
        self.csrf = answer.json().get("csrf", "")
        return answer

    def get(self, path: str, **headers: str) -> Any:
        return self.http.get(path, headers={**self.page, **headers})

    def change(self, method: str = "POST", path: str = "/v1/tokens", **headers: Any) -> Any:
        """With `headers`; "-" leaves one out."""
        sent = {**self.page, "Origin": HERE, "X-CSRF-Token": self.csrf, **headers}
        sent = {name: value for name, value in sent.items() if value != "-"}
        return self.http.request(method, path, json={"name": "x"}, headers=sent)


@pytest.fixture
def browser(api: Api) -> Iterator[Browser]:
    with TestClient(api.app, base_url=HERE, raise_server_exceptions=False) as http:
        yield Browser(http)


def test_a_token_becomes_a_cookie_that_scripts_cannot_read(api_on_both: Api) -> None:
    with TestClient(api_on_both.app, base_url=HERE) as http:
        browser = Browser(http)
        assert browser.get("/v1/sweeps").status_code == 401
        answer = browser.sign_in(api_on_both.token)
        assert answer.status_code == 201
        cookie = answer.headers["set-cookie"]
        assert re.match(r"winnow_8642=wns_[\w-]{43}; ", cookie)
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        assert api_on_both.token not in cookie + answer.text

        who = browser.get("/v1/session").json()
        assert (who["name"], who["csrf"]) == ("owner", answer.json()["csrf"])
        assert who["scopes"] == ["read", "submit", "control", "admin"]
        assert browser.get("/v1/sweeps").status_code == 200
        assert browser.change().status_code == 201

        out = browser.change("DELETE", "/v1/session")
        assert out.status_code == 204
        assert "Max-Age=0" in out.headers["set-cookie"]
        browser.http.cookies.set("winnow_8642", re.search(r"=(wns_[\w-]+)", cookie)[1])  # type: ignore[index]
        assert browser.get("/v1/sweeps").status_code == 401


FROM_ELSEWHERE: list[tuple[dict[str, Any], str]] = [
    ({"X-CSRF-Token": "-"}, "csrf"),
    ({"X-CSRF-Token": ""}, "csrf"),
    ({"X-CSRF-Token": "0" * 64}, "csrf"),
    ({"X-CSRF-Token": "ü".encode()}, "csrf"),
    ({"Sec-Fetch-Site": "cross-site"}, "cross-site"),
    ({"Sec-Fetch-Site": "same-site"}, "cross-site"),
    ({"Sec-Fetch-Site": "none"}, "cross-site"),
    ({"Origin": "https://evil.example"}, "cross-site"),
    ({"Origin": "http://127.0.0.1:9999"}, "cross-site"),
    ({"Origin": "http://localhost:8642"}, "cross-site"),
    ({"Origin": "null"}, "cross-site"),
    ({"Origin": "http://127.0.0.1:8642.evil.example"}, "cross-site"),
    ({"Sec-Fetch-Site": "-", "Origin": "-"}, "cross-site"),
]


def test_a_change_that_another_site_asks_for_is_refused(api: Api, browser: Browser) -> None:
    browser.sign_in(api.token)
    for headers, kind in FROM_ELSEWHERE:
        refused = browser.change(**headers)
        assert refused.status_code == 403, (headers, refused.text)
        assert refused.json()["type"] == f"urn:winnow:problem:{kind}", headers
    assert [t.name for t in api.store.access.tokens()] == ["owner"]
    assert browser.change().status_code == 201


def test_one_sessions_csrf_token_is_worth_nothing_to_another(api: Api, browser: Browser) -> None:
    browser.sign_in(api.token)
    former = browser.csrf
    browser.sign_in(api.token)
    assert browser.change(**{"X-CSRF-Token": former}).status_code == 403


def test_another_sites_page_cannot_read_with_the_session_either(api: Api, browser: Browser) -> None:
    browser.sign_in(api.token)
    assert browser.get("/v1/sweeps", **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.get("/v1/sweeps", **{"Sec-Fetch-Site": "none"}).status_code == 200


def test_a_bearer_token_needs_no_csrf_token(api: Api) -> None:
    headers = {"Origin": "https://ci.example", "Sec-Fetch-Site": "cross-site"}
    assert api.post(good_sweep(), headers=headers).status_code == 201


def test_a_session_makes_no_sessions(api: Api, browser: Browser) -> None:
    browser.sign_in(api.token)
    assert browser.change("POST", "/v1/session").status_code == 403
    with_token = browser.get("/v1/session", Authorization=f"Bearer {api.token}")
    assert with_token.status_code == 404


def test_a_session_ends_with_its_token(api: Api, browser: Browser) -> None:
    made = api.store.access.create_token("laptop", ("read", "control"))
    browser.sign_in(str(made.token))
    assert browser.get("/v1/session").json()["scopes"] == ["read", "control"]
    assert browser.change().status_code == 403
    api.http.delete(f"/v1/tokens/{made.id}")
    gone = browser.get("/v1/session")
    assert gone.status_code == 401
    assert "Max-Age=0" in gone.headers["set-cookie"]


def test_a_leaked_tokens_sessions_end_when_it_is_rotated_at_once(api: Api) -> None:
    made = api.store.access.create_token("leaked")
    text, _ = api.store.access.open_session(made.id, 3600)
    graced = api.store.access.rotate_token(made.id, grace=60)
    session = api.store.access.check_session(text)
    assert not isinstance(session, str)
    assert session.seconds_left is not None
    assert session.seconds_left <= 60
    api.store.access.rotate_token(graced.id, grace=0)
    assert api.store.access.check_session(text) == "unknown"


def test_a_revoked_token_leaves_no_sessions_behind(api_on_both: Api) -> None:
    access = api_on_both.store.access
    revoked, kept = (access.create_token("laptop") for _ in range(2))
    gone, other = (access.open_session(token.id, 3600)[0] for token in (revoked, kept))
    access.revoke_token(revoked.id)
    assert access.check_session(gone) == "unknown"
    assert not isinstance(access.check_session(other), str)


def test_a_session_expires(api_on_both: Api) -> None:
    access = api_on_both.store.access
    mine = api_on_both.http.get("/v1/tokens/me").json()["id"]
    text, _ = access.open_session(mine, 0.001)
    while not isinstance(access.check_session(text), str):
        pass
    cookies = {"winnow_8642": text}
    with TestClient(api_on_both.app, base_url=HERE, cookies=cookies) as http:
        assert http.get("/v1/sweeps").status_code == 401
    # The next sign-in clears it away.
    access.open_session(mine, 60)
    assert access.check_session(text) == "unknown"


def test_behind_https_the_cookie_is_tied_to_the_host(sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "home",
        database_url=sqlite_url,
        host="0.0.0.0",
        allowed_hosts="winnow.example.com",
        trusted_proxies="10.0.0.0/24",
    )
    app = create_app(settings, check_files=files_are_fine)
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    with TestClient(app, base_url="http://winnow.example.com", client=("10.0.0.7", 1)) as http:
        token = (tmp_path / "home" / "token").read_text().strip()
        headers = {**forwarded, "Authorization": f"Bearer {token}"}
        answer = http.post("/v1/session", headers=headers)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-winnow=")
        assert "Secure" in cookie
        assert answer.headers["strict-transport-security"].startswith("max-age=")

        csrf = {"X-CSRF-Token": answer.json()["csrf"], "Cookie": cookie.split(";")[0], **forwarded}
        plain = http.post(
            "/v1/tokens",
            json={"name": "x"},
            headers={**csrf, "Origin": "http://winnow.example.com"},
        )
        assert plain.json()["type"] == "urn:winnow:problem:cross-site"
        ours = http.post(
            "/v1/tokens",
            json={"name": "x"},
            headers={**csrf, "Origin": "https://winnow.example.com"},
        )
        assert ours.status_code == 201
        audit = http.get("/v1/audit", headers=headers).json()["items"]
        assert {entry["address"] for entry in audit} == {"203.0.113.9"}

    with TestClient(app, base_url="http://winnow.example.com", client=("192.0.2.1", 1)) as http:
        headers = {**forwarded, "Authorization": f"Bearer {token}"}
        answer = http.post("/v1/session", headers=headers)
        assert "Secure" not in answer.headers["set-cookie"], "anyone was believed to be a proxy"
        assert "strict-transport-security" not in answer.headers
