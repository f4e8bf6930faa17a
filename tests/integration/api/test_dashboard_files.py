"""The built dashboard is served under a strict policy, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api.conftest import Api, files_are_fine, make_api


@pytest.fixture
def built(sqlite_url: str, tmp_path: Path) -> Iterator[Api]:
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<title>winnow</title>")
    (static / "assets" / "app-1a2b.js").write_text("start()")
    (tmp_path / "secret.txt").write_text("hunter2")
    yield from make_api(sqlite_url, tmp_path / "home", files_are_fine, static=static)


def test_every_page_of_the_dashboard_is_its_index(built: Api) -> None:
    for path in ("/", "/sweeps/abc123", "/index.html"):
        response = built.http.get(path)
        assert (response.status_code, response.text) == (200, "<title>winnow</title>")
        assert "script-src 'self'" in response.headers["content-security-policy"]
        assert "'unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"


def test_assets_may_be_kept_and_the_index_may_not(built: Api) -> None:
    asset = built.http.get("/assets/app-1a2b.js")
    assert asset.headers["content-type"].startswith("text/javascript")
    assert "immutable" in asset.headers["cache-control"]
    assert built.http.get("/").headers["cache-control"] == "no-cache"
    assert built.http.get("/assets/gone.js").status_code == 404


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt"])
def test_nothing_outside_its_folder_is_served(built: Api, path: str) -> None:
    assert "hunter2" not in built.http.get(path).text


def test_without_a_build_it_says_how_to_make_one(sqlite_url: str, tmp_path: Path) -> None:
    for api in make_api(sqlite_url, tmp_path / "home", files_are_fine, static=tmp_path / "none"):
        response = api.http.get("/")
        assert response.status_code == 503
        assert "make dashboard" in response.text
