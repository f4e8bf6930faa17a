"""What HTTP expects of every address: HEAD, OPTIONS, tags, pages, ids."""

from __future__ import annotations

from pathlib import Path

from tests.fixtures.studies import Studies
from tests.integration.api.conftest import Api, good_sweep


def test_a_project_is_changed_only_as_it_was_read(api_on_both: Api, tmp_path: Path) -> None:
    api, url = api_on_both, "/v1/projects/default"
    read = api.http.get(url)
    seen = {"If-Match": read.headers["ETag"]}
    assert api.http.get(url, headers={"If-None-Match": read.headers["ETag"]}).status_code == 304

    # What it uses has changed meanwhile: another tag, which is no reason to refuse.
    Studies(api.store, tmp_path).ended(resources={"gpus_per_trial": 1})
    assert api.http.get(url).headers["ETag"] != read.headers["ETag"]
    first = api.http.put(url, json={"weight": 2.0}, headers=seen)
    assert first.status_code == 200

    second = api.http.put(url, json={"weight": 3.0}, headers=seen)
    assert second.status_code == 412
    assert second.json()["type"] == "urn:winnow:problem:changed"
    assert api.http.get(url).json()["weight"] == 2.0
    for tag in (first.headers["ETag"], "*"):
        again = api.http.put(url, json={"weight": 2.0}, headers={"If-Match": tag})
        assert again.status_code == 200


def test_a_resource_that_has_not_changed_is_not_sent_again(api_on_both: Api) -> None:
    sweep = api_on_both.post(good_sweep()).json()["id"]
    first = api_on_both.http.get(f"/v1/sweeps/{sweep}")
    same = api_on_both.http.get(
        f"/v1/sweeps/{sweep}", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["ETag"] == first.headers["ETag"]
    api_on_both.store.cancel_queued(sweep)
    other = api_on_both.http.get(
        f"/v1/sweeps/{sweep}", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert other.status_code == 200
    assert other.json()["state"] == "CANCELED"


def test_a_list_is_read_page_by_page_by_its_links(api_on_both: Api) -> None:
    made = [api_on_both.post(good_sweep() | {"name": f"s{i}"}).json()["id"] for i in range(5)]
    seen, url = [], "/v1/sweeps?limit=2"
    while url:
        page = api_on_both.http.get(url)
        seen += [s["id"] for s in page.json()["items"]]
        if len(seen) == 2:  # what is new stands before the first page
            api_on_both.post(good_sweep() | {"name": "late"})
        assert ("next" in page.links) == (page.json()["next"] is not None)
        url = page.links.get("next", {}).get("url")
        assert url is None or url.count("cursor=") == 1
    assert seen == made[::-1]


def test_head_is_get_without_the_body(api: Api) -> None:
    sweep = api.post(good_sweep()).json()["id"]
    for path in ("/v1/sweeps", f"/v1/sweeps/{sweep}", f"/v1/sweeps/{sweep}/stream"):
        asked = api.http.head(path)
        assert (asked.status_code, asked.content) == (200, b""), path
    full = api.http.get(f"/v1/sweeps/{sweep}")
    head = api.http.head(f"/v1/sweeps/{sweep}")
    assert head.headers["ETag"] == full.headers["ETag"]
    assert head.headers["Content-Length"] == str(len(full.content))
    assert api.http.head("/v1/sweeps/nothing").status_code == 404


def test_options_and_405_name_the_methods(api: Api) -> None:
    sweep = api.post(good_sweep()).json()["id"]
    wanted = {
        "/v1/sweeps": "GET, HEAD, OPTIONS, POST",
        f"/v1/sweeps/{sweep}": "GET, HEAD, OPTIONS",
        f"/v1/sweeps/{sweep}:pause": "OPTIONS, POST",
    }
    for path, methods in wanted.items():
        options = api.http.options(path)
        assert (options.status_code, options.headers["Allow"]) == (204, methods)
        refused = api.http.delete(path)
        assert (refused.status_code, refused.headers["Allow"]) == (405, methods)
        assert refused.json()["type"] == "urn:winnow:problem:method"
    assert api.http.get(f"/v1/sweeps/{sweep}:pause").status_code == 405
    assert api.http.options("/v1/nothing").status_code == 404


def test_what_is_no_id_and_no_action_is_not_found(api: Api) -> None:
    for path in ("/v1/sweeps/a.b", "/v1/sweeps/" + "a" * 65, "/v1/trials/%00", "/v1/sweeps/x:y"):
        answer = api.http.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["type"] == "urn:winnow:problem:not-found"
    sweep = api.post(good_sweep()).json()["id"]
    assert api.http.post(f"/v1/sweeps/{sweep}:explode").status_code == 404


def test_a_change_to_what_has_changed_meanwhile_is_refused(api_on_both: Api) -> None:
    sweep = api_on_both.post(good_sweep()).json()["id"]
    url = f"/v1/sweeps/{sweep}"
    seen = {"If-Match": api_on_both.http.get(url).headers["ETag"]}
    assert api_on_both.http.post(f"{url}:pause", headers=seen).status_code == 202
    api_on_both.http.post(f"{url}:cancel")
    late = api_on_both.http.post(f"{url}:extend", json={"trials": 2}, headers=seen)
    assert late.status_code == 412
    assert late.json()["type"] == "urn:winnow:problem:changed"
    tag = api_on_both.http.get(url).headers["ETag"]
    now = {"If-Match": f'"another", {tag}'}
    assert api_on_both.http.post(f"{url}:extend", json={"trials": 2}, headers=now).is_success


def test_sweeps_are_found_by_what_is_known_of_them(api_on_both: Api) -> None:
    http = api_on_both.http
    made = {
        n: api_on_both.post(good_sweep() | {"name": n}).json() for n in ("beta", "alpha_1", "Gamma")
    }
    api_on_both.store.cancel_queued(made["beta"]["id"])

    def names(**wanted: str) -> list[str]:
        answer = http.get("/v1/sweeps", params=wanted)
        assert answer.status_code == 200, answer.text
        return [s["name"] for s in answer.json()["items"]]

    assert names() == ["Gamma", "alpha_1", "beta"]
    assert names(sort="created_at") == ["beta", "alpha_1", "Gamma"]
    assert names(state="CANCELED") == ["beta"]
    assert names(name="GAM") == ["Gamma"]
    assert names(name="a_1") == ["alpha_1"]
    assert names(name="a%1") == []
    assert names(created_after=made["alpha_1"]["created_at"]) == ["Gamma", "alpha_1"]
    assert names(created_before=made["alpha_1"]["created_at"]) == ["beta"]
    assert names(project="nobodys") == []
    first = http.get("/v1/sweeps?sort=name&limit=2")
    rest = http.get(first.links["next"]["url"])
    assert len({s["id"] for page in (first, rest) for s in page.json()["items"]}) == 3
