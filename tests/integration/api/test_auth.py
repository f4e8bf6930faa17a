"""Nobody gets in without a token, whatever the address."""

from __future__ import annotations

from pathlib import Path

from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from api.access import PUBLIC
from orchestrator.settings import Settings
from orchestrator.store import Store
from tests.integration.api.conftest import Api, files_are_fine, good_sweep, make_api
from winnow.types import Quota


def test_every_route_but_the_public_ones_needs_a_token(api: Api) -> None:
    walked = set()
    with TestClient(api.app, base_url="http://127.0.0.1:8642") as stranger:
        for route in iter_route_contexts(api.app.routes):
            path = str(route.path)
            if path == "/{path:path}":
                continue  # the dashboard's files
            assert path.startswith("/v1/"), f"{path} is outside /v1, where nothing guards it"
            filled = path.replace("{sweep_id}", "x").replace("{trial_id}", "x")
            for method in (route.methods or set()) - {"HEAD"}:
                walked.add((method, path))
                status = stranger.request(method, filled).status_code
                assert (status == 401) is (path not in PUBLIC), (method, path, status)
    assert ("POST", "/v1/sweeps") in walked
    assert len(walked) >= 12


def test_the_files_of_the_dashboard_can_only_be_read(api: Api) -> None:
    with TestClient(api.app, base_url="http://127.0.0.1:8642") as stranger:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert stranger.request(method, "/index.html").status_code == 401


def test_a_wrong_token_is_told_from_none(api: Api) -> None:
    def get(value: str) -> dict:
        response = api.http.get("/v1/sweeps", headers={"Authorization": value})
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        return response.json()

    assert "not known" in get("Bearer wnw_wrong")["detail"]
    assert "Authorization: Bearer" in get("Basic dXNlcjpwYXNz")["detail"]
    assert "Authorization: Bearer" in get(f"Bearer {api.token} x")["detail"]


def test_the_token_is_readable_by_its_owner_only_and_stored_as_a_hash(api: Api) -> None:
    assert (api.home / "token").stat().st_mode & 0o777 == 0o600
    database = Path(str(api.app.state.services.settings.database_url).removeprefix("sqlite:///"))
    stored = b"".join(f.read_bytes() for f in database.parent.glob(f"{database.name}*"))
    assert api.token.encode() not in stored


def test_a_restart_keeps_the_token_and_a_new_database_gets_a_new_one(
    sqlite_url: str, sqlite_template: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first = next(make_api(sqlite_url, home, files_are_fine)).token
    again = next(make_api(sqlite_url, home, files_are_fine)).token
    assert again == first

    other = tmp_path / "other.db"
    other.write_bytes(sqlite_template.read_bytes())
    url = Settings(home=home, database_url=f"sqlite:///{other}").database_url
    replaced = next(make_api(url, home, files_are_fine)).token
    assert replaced != first
    assert Store(url).verify_token(replaced) is not None


def test_a_site_that_rebinds_its_name_to_loopback_is_turned_away(api: Api) -> None:
    for host in ("evil.example", "evil.example:8642", "127.0.0.1.evil.example", ""):
        response = api.http.get("/v1/health", headers={"Host": host})
        assert response.status_code == 400, host
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8642", "[::1]:8642"):
        assert api.http.get("/v1/health", headers={"Host": host}).status_code == 200, host


def test_a_filter_by_project_is_no_way_into_it(api: Api) -> None:
    api.store.add_project("ours", Quota())
    text = api.store.access.create_token("ours", ("read",), project="ours").token
    ours = {"Authorization": f"Bearer {text}"}
    assert api.post(good_sweep()).status_code == 201
    for query in ("", "?project=default", "?project=ours"):
        listed = api.http.get(f"/v1/sweeps{query}", headers=ours)
        assert (listed.status_code, listed.json()["items"]) == (200, []), query
    assert len(api.http.get("/v1/sweeps?project=default").json()["items"]) == 1
