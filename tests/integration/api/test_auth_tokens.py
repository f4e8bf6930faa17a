"""Tokens over HTTP: made, listed, rotated, revoked; and none that can do more than its maker."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

import winnow
from orchestrator.store import Store
from tests.integration.api.conftest import Api, LiveServer, good_sweep
from winnow.types import Quota


def make(api: Api, by: str | None = None, **body: Any) -> Any:
    headers = {} if by is None else {"Authorization": f"Bearer {by}"}
    return api.http.post("/v1/tokens", json={"name": "ci", **body}, headers=headers)


def status(api: Api, token: str, path: str = "/v1/sweeps") -> int:
    return api.http.get(path, headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_new_token_works_and_its_text_is_told_once(api_on_both: Api) -> None:
    api = api_on_both
    answer = make(api, scopes=["submit"])
    assert answer.status_code == 201
    made = answer.json()
    assert made["token"].startswith(made["prefix"])
    assert len(made["prefix"]) == 10
    assert (made["scopes"], made["project"], made["state"]) == (["submit"], None, "active")
    assert made["created_by"] == "owner"
    found = api.http.get(answer.headers["location"]).json()
    assert "token" not in found
    assert made["token"] not in api.http.get("/v1/tokens").text
    me = api.http.get("/v1/tokens/me", headers={"Authorization": f"Bearer {made['token']}"})
    assert me.json()["id"] == made["id"]


def test_a_token_ends_in_ninety_days_unless_something_else_is_asked_for(api: Api) -> None:
    def lasts(**body: Any) -> int | None:
        row = api.store.access.check_token(make(api, **body).json()["token"])
        assert not isinstance(row, str)
        return None if row.seconds_left is None else round(row.seconds_left / 60)

    assert lasts() == 90 * 24 * 60
    assert lasts(expires_in=3600) == 60
    assert lasts(expires_in=None) is None


def test_what_is_wrong_with_a_token_is_named(api: Api) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name": ""}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"expires_in": 1}, "/expires_in"),
        ({"project": "No Such"}, "/project"),
        ({"hash": "x"}, "/hash"),
    ]
    for body, pointer in wrong:
        answer = make(api, **body)
        assert answer.status_code == 422
        assert [e["pointer"] for e in answer.json()["errors"]] == [pointer]
    assert make(api, project="nowhere").status_code == 404


def test_a_token_of_a_project_makes_only_tokens_of_that_project(api: Api) -> None:
    api.store.add_project("ours", Quota())
    bound = make(api, scopes=["admin"], project="ours").json()["token"]
    assert make(api, bound, project="default").status_code == 422
    made = make(api, bound, scopes=["admin"]).json()
    assert made["project"] == "ours"
    headers = {"Authorization": f"Bearer {bound}"}
    assert api.http.post("/v1/projects", json={"id": "mine"}, headers=headers).status_code == 403
    changed = api.http.put("/v1/projects/ours", json={"weight": 9.0}, headers=headers)
    assert changed.status_code == 403


def test_nothing_that_a_token_makes_outlives_it(api: Api) -> None:
    short = make(api, scopes=["admin"], expires_in=3600).json()
    assert make(api, short["token"], expires_in=None).status_code == 422
    assert make(api, short["token"], expires_in=7200).status_code == 422
    made = make(api, short["token"]).json()
    assert made["expires_at"] <= short["expires_at"]
    by_itself = {"Authorization": f"Bearer {short['token']}"}
    longer = {"expires_in": 90_000}
    rotated = api.http.post(f"/v1/tokens/{short['id']}:rotate", json=longer, headers=by_itself)
    assert rotated.status_code == 422


def test_a_rotated_tokens_old_text_works_through_its_grace_only(api_on_both: Api) -> None:
    api = api_on_both
    old = make(api, scopes=["read"]).json()
    at = f"/v1/tokens/{old['id']}:rotate"
    new = api.http.post(at).json()
    assert new["id"] == old["id"]
    assert new["previous_expires_at"] is not None
    assert [status(api, t["token"]) for t in (old, new)] == [200, 200]

    newest = api.http.post(at, json={"grace_seconds": 0}).json()
    assert [status(api, t["token"]) for t in (old, new, newest)] == [401, 401, 200]
    assert "rotated" not in api.http.get("/v1/tokens/me").text
    gone = api.http.get("/v1/sweeps", headers={"Authorization": f"Bearer {new['token']}"})
    assert gone.json()["type"] == "urn:winnow:problem:unauthorized"


def test_an_old_text_holds_no_longer_than_its_grace_and_its_token(api_on_both: Api) -> None:
    access = api_on_both.store.access

    def holds(text: str) -> float:
        token = access.check_token(text)
        assert not isinstance(token, str)
        assert token.seconds_left is not None
        return token.seconds_left

    short, long = (access.create_token("ci", seconds=lasts) for lasts in (3600.0, 7200.0))
    access.rotate_token(short.id, grace=7200.0)
    renewed = access.rotate_token(long.id, grace=3600.0)
    assert 3000 < holds(str(short.token)) <= 3600
    assert 3000 < holds(str(long.token)) <= 3600
    assert 6600 < holds(str(renewed.token)) <= 7200

    access.rotate_token(long.id, grace=0.001)
    while not isinstance(was := access.check_token(str(renewed.token)), str):
        pass
    assert was == "replaced"


def test_a_revoked_token_ends_at_once_here_and_soon_elsewhere(api_on_both: Api) -> None:
    api = api_on_both
    token = make(api).json()
    assert status(api, token["token"]) == 200
    revoked = api.http.delete(f"/v1/tokens/{token['id']}")
    assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    assert status(api, token["token"]) == 401
    again = api.http.delete(f"/v1/tokens/{token['id']}")
    assert again.json()["revoked_at"] == revoked.json()["revoked_at"]
    assert api.http.post(f"/v1/tokens/{token['id']}:rotate").status_code == 409

    # Revoked by another process: what is remembered here is believed for some seconds.
    other = make(api).json()
    assert status(api, other["token"]) == 200
    api.store.access.revoke_token(other["id"])
    verifier = api.app.state.services.verifier
    assert status(api, other["token"]) == 200
    verifier._clock = lambda now=verifier._clock: now() + 5.0
    assert status(api, other["token"]) == 401


def test_a_stream_ends_with_the_token_that_it_was_opened_with(
    live: LiveServer, live_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.guard.ASK_AGAIN_SECONDS", 0.1)
    with winnow.Client(live.url, live.token) as client:
        sweep = client.submit(good_sweep())
        made = client.create_token("watcher")
        headers = {"Authorization": f"Bearer {made.token}"}
        at = f"{live.url}/v1/sweeps/{sweep.id}/stream"
        with httpx2.stream("GET", at, headers=headers, timeout=120) as stream:
            told = stream.iter_bytes()
            assert b"retry" in next(told)
            client.revoke_token(made.id)
            deadline = time.monotonic() + 20
            for _ in told:
                assert time.monotonic() < deadline, "it goes on"


def test_the_last_administrator_cannot_lock_everyone_out(api_on_both: Api) -> None:
    api = api_on_both
    mine = api.http.get("/v1/tokens/me").json()["id"]
    make(api, scopes=["read", "submit", "control"])
    make(api, scopes=["admin"], project="default")
    refused = api.http.delete(f"/v1/tokens/{mine}")
    assert refused.status_code == 409
    assert "last one" in refused.json()["detail"]
    make(api, scopes=["admin"])
    assert api.http.delete(f"/v1/tokens/{mine}").status_code == 200


def test_a_token_is_remembered_as_used_without_a_write_a_request(api: Api) -> None:
    made = make(api).json()
    recorder = api.app.state.services.recorder
    notes = []
    real = recorder._access.note

    class Counting:
        def note(self, entries: Any, tokens: Any, sessions: Any) -> None:
            notes.extend(tokens)
            real(entries, tokens, sessions)

    recorder._access = Counting()
    for _ in range(20):
        assert status(api, made["token"]) == 200
    assert recorder.flush()
    assert notes == [made["id"]]
    assert api.http.get(f"/v1/tokens/{made['id']}").json()["last_used_at"] is not None


def test_a_known_token_costs_no_query(api: Api) -> None:
    status(api, api.token, "/v1/recipes")
    asked: list[str] = []
    check = api.app.state.services.verifier._access
    real = check.check_token
    check.check_token = lambda text: asked.append(text) or real(text)
    for _ in range(5):
        assert status(api, api.token, "/v1/recipes") == 200
    assert asked == []


def test_a_repeated_creation_makes_one_token_and_does_not_tell_it_again(api: Api) -> None:
    headers = {"Idempotency-Key": "make-ci-once"}
    first = api.http.post("/v1/tokens", json={"name": "ci"}, headers=headers)
    again = api.http.post("/v1/tokens", json={"name": "ci"}, headers=headers)
    assert again.json()["id"] == first.json()["id"]
    assert (first.json()["token"] is not None, again.json()["token"]) == (True, None)
    assert len([t for t in api.http.get("/v1/tokens").json()["items"] if t["name"] == "ci"]) == 1


def test_two_who_revoke_each_other_leave_one(store: Store) -> None:
    ids = [store.access.create_token(name).id for name in ("a", "b")]

    def revoke(token_id: int) -> bool:
        try:
            store.access.revoke_token(token_id)
        except Exception:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(revoke, ids)) == [False, True]
