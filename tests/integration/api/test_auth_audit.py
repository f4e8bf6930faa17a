"""The audit log over HTTP: changes and refusals, by whom, from where; and no secret in it."""

from __future__ import annotations

from typing import Any

from tests.integration.api.conftest import Api, good_sweep
from winnow.types import Quota


def log(api: Api, **query: str) -> list[dict[str, Any]]:
    answer = api.http.get("/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def test_every_change_is_written_down_with_who_what_and_how_it_was_answered(
    api_on_both: Api,
) -> None:
    api = api_on_both
    made = api.post(good_sweep(), headers={"X-Request-Id": "my-own-id"})
    sweep_id = made.json()["id"]
    api.http.post(f"/v1/sweeps/{sweep_id}:cancel")
    api.http.post(f"/v1/sweeps/{sweep_id}:cancel")
    api.http.get(f"/v1/sweeps/{sweep_id}")
    api.post({"name": "wrong"})
    entries = log(api)
    assert [(e["action"], e["status"], e["target"]) for e in reversed(entries)] == [
        ("sweeps.create", 201, f"/v1/sweeps/{sweep_id}"),
        ("sweeps.cancel", 202, f"/v1/sweeps/{sweep_id}:cancel"),
        ("sweeps.cancel", 409, f"/v1/sweeps/{sweep_id}:cancel"),
        ("sweeps.create", 422, "/v1/sweeps"),
    ]
    first = entries[-1]
    assert (first["actor"], first["project"], first["request_id"]) == (
        "owner",
        "default",
        "my-own-id",
    )
    assert first["address"] == "testclient"


def test_a_refusal_for_want_of_a_scope_is_written_down_and_a_wrong_token_is_counted(
    api: Api,
) -> None:
    reader = str(api.store.access.create_token("reader", ("read",)).token)
    headers = {"Authorization": f"Bearer {reader}"}
    assert api.http.get("/v1/audit", headers=headers).status_code == 403
    assert api.post(good_sweep(), headers=headers).status_code == 403
    assert api.post(good_sweep(), headers={"Authorization": "Bearer wnw_x"}).status_code == 401
    assert [(e["actor"], e["action"], e["status"]) for e in log(api)] == [
        ("reader", "sweeps.create", 403),
        ("reader", "audit.read", 403),
    ]
    assert api.app.state.services.recorder.refused == {403: 2, 401: 1}


def test_the_log_is_read_by_pages_and_filters(api_on_both: Api) -> None:
    api = api_on_both
    api.store.add_project("ours", Quota())
    ours = str(api.store.access.create_token("ours-admin", project="ours").token)
    headers = {"Authorization": f"Bearer {ours}"}
    for number in range(3):
        api.http.post("/v1/tokens", json={"name": f"t{number}"}, headers=headers)
    api.http.post("/v1/projects", json={"id": "more"})
    everything = log(api)
    assert len(everything) == 4
    pages, query = [], {"limit": "3"}
    while True:
        answer = api.http.get("/v1/audit", params=query).json()
        pages += answer["items"]
        if answer["next"] is None:
            break
        query["cursor"] = answer["next"]
    assert pages == everything
    assert {e["action"] for e in log(api, actor="ours-admin")} == {"tokens.create"}
    assert len(log(api, action="tokens.")) == len(log(api, action="tokens.create")) == 3
    assert [e["target"] for e in log(api, action="projects.create")] == ["/v1/projects/more"]
    assert len(log(api, project="ours")) == 3
    since = everything[1]["created_at"]
    assert len(log(api, since=since)) == 2
    assert log(api, since="2100-01-01T00:00:00Z") == []
    assert len(log(api, since="2020-01-01T00:00:00+02:00")) == 4
    for wrong in ("2026-01-01", "1767225600", "2026-01-01T00:00:00", "yesterday"):
        assert api.http.get("/v1/audit", params={"since": wrong}).status_code == 422, wrong

    seen = api.http.get("/v1/audit", headers=headers).json()["items"]
    assert len(seen) == 3, "an administrator of one project sees what concerns it"
    other = api.http.get("/v1/audit?project=default", headers=headers).json()["items"]
    assert other == []


def test_no_secret_is_written_down(api: Api) -> None:
    made = api.http.post("/v1/tokens", json={"name": "ci"}).json()
    api.http.post(f"/v1/tokens/{made['id']}:rotate", json={"grace_seconds": 0})
    api.http.delete(f"/v1/tokens/{made['token']}")
    api.http.post(f"/v1/sweeps/x%00%1B:stop?token={made['token']}")
    api.http.post("/v1/session")
    text = api.http.get("/v1/audit").text
    assert len(log(api)) == 5
    assert made["token"][14:] not in text
    assert api.token not in text
    assert "wns_" not in text
