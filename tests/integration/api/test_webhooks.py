"""Webhooks over the API: made, changed, listed, and only by those who may."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.api.conftest import Api

GOOD = {"url": "https://ci.example/winnow", "events": ["sweep.finished"]}


def make(api: Api, **changes: Any) -> dict[str, Any]:
    answer = api.http.post("/v1/webhooks", json=GOOD | changes)
    assert answer.status_code == 201, answer.text
    return answer.json()


def as_token(api: Api, *scopes: str, project: str | None = None) -> dict[str, str]:
    text = api.store.access.create_token("other", scopes, project=project).token
    return {"Authorization": f"Bearer {text}"}


def test_a_secret_is_shown_when_it_is_made_and_never_again(api_on_both: Api) -> None:
    made = make(api_on_both)
    assert made["secret"].startswith("whsec_")
    path = f"/v1/webhooks/{made['id']}"
    assert "secret" not in api_on_both.http.get(path).json()
    listed = api_on_both.http.get("/v1/webhooks").json()["items"]
    assert [w["id"] for w in listed] == [made["id"]]
    assert "whsec_" not in api_on_both.http.get("/v1/webhooks").text
    rotated = api_on_both.http.post(f"{path}:rotate").json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]
    assert api_on_both.http.delete(path).status_code == 204
    assert api_on_both.http.get(path).status_code == 404


def test_a_webhook_is_changed_and_disabled(api: Api) -> None:
    made = make(api)
    path = f"/v1/webhooks/{made['id']}"
    changed = api.http.patch(path, json={"events": ["trial.failed"], "description": "CI"}).json()
    assert (changed["events"], changed["description"]) == (["trial.failed"], "CI")
    assert changed["url"] == GOOD["url"]
    ping = api.http.post(f"{path}:ping").json()
    assert (ping["type"], ping["state"]) == ("webhook.ping", "pending")
    assert api.http.patch(path, json={"enabled": False}).json()["enabled"] is False
    (given_up,) = api.http.get(f"{path}/deliveries").json()["items"]
    assert (given_up["id"], given_up["state"]) == (ping["id"], "failed")
    assert api.http.post(f"{path}:ping").status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {"url": "http://ci.example/"},
        {"url": "https://user:word@ci.example/"},
        {"url": "https://169.254.169.254/latest/meta-data"},
        {"url": "https://[::ffff:10.0.0.1]/"},
        {"url": "https://[fd00::1]/"},
        {"url": "https://localhost:22/"},
        {"url": "ftp://ci.example/"},
        {"url": "https://ci.example/\r\nHost: other"},
        {"url": "javascript:alert(1)"},
        {"url": "https://"},
        {"url": "https://ci.example/" + "a" * 3000},
        {"url": "https://ci.example/#part"},
        {"url": "https://ci.example", "events": []},
        {"url": "https://ci.example", "events": ["sweep.exploded"]},
        {"url": "https://ci.example", "secret": "mine"},
        {"url": None},
        {},
    ],
)
def test_what_is_wrong_with_a_webhook_is_said(api: Api, body: dict[str, Any]) -> None:
    answer = api.http.post("/v1/webhooks", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"]
    assert api.http.get("/v1/webhooks").json()["items"] == []


def test_a_webhook_is_not_turned_to_where_none_could_be_made(api: Api) -> None:
    path = f"/v1/webhooks/{make(api)['id']}"
    for url in ("https://169.254.169.254/latest", "http://ci.example/", "https://[::1]/", None):
        answer = api.http.patch(path, json={"url": url})
        assert answer.status_code == 422, url
        assert answer.json()["errors"][0]["pointer"] == "/url"
    assert api.http.get(path).json()["url"] == GOOD["url"]


def test_a_project_manages_its_own_webhooks_and_sees_no_others(api: Api) -> None:
    api.http.post("/v1/projects", json={"id": "lab"})
    theirs = make(api, project="default")
    mine = as_token(api, "control", project="lab")
    made = api.http.post("/v1/webhooks", json=GOOD, headers=mine)
    assert made.json()["project"] == "lab"
    listed = api.http.get("/v1/webhooks", headers=mine).json()["items"]
    assert [w["id"] for w in listed] == [made.json()["id"]]
    path = f"/v1/webhooks/{theirs['id']}"
    for method, at in (
        ("GET", path),
        ("DELETE", path),
        ("POST", f"{path}:rotate"),
        ("POST", f"{path}:ping"),
        ("GET", f"{path}/deliveries"),
    ):
        assert api.http.request(method, at, headers=mine).status_code == 404
    assert api.http.patch(path, json={"enabled": False}, headers=mine).status_code == 404
    other = api.http.post("/v1/webhooks", json=GOOD | {"project": "default"}, headers=mine)
    assert other.status_code == 422
    assert api.http.get("/v1/webhooks", headers=as_token(api, "read")).status_code == 403
    assert api.http.get("/v1/webhooks", headers=as_token(api, "control")).status_code == 403
