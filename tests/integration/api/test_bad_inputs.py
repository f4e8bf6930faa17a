"""Whatever is sent, the answer is a problem: short, with the field, and nothing of it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.bad_places import make_places
from tests.fixtures.bad_requests import (
    BadInput,
    bad_places,
    bad_requests,
    fault_of,
    never_opened,
    send,
)
from tests.fixtures.doors import UNLIMITED
from tests.integration.api.conftest import Api, make_api

ALL = [bad for bad in bad_requests() if bad.family != "faults in a sweep"]
"""Those have tests of their own, in test_bad_sweeps.py."""


@pytest.fixture(scope="module")
def strict(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Shared by all requests of this file: none of them may leave anything behind."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "api.db").write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{folder / 'api.db'}"
    yield from make_api(url, folder / "home", never_opened, settings=UNLIMITED)


def kept(api: Api) -> tuple[int, ...]:
    """How much there is of everything that a request can make."""
    pages = ("sweeps", "projects", "webhooks", "tokens", "allowed-code")
    return tuple(len(api.http.get(f"/v1/{name}").json()["items"]) for name in pages)


@pytest.mark.parametrize("bad", ALL, ids=str)
def test_a_bad_input_is_refused_before_any_file_is_opened_and_nothing_is_kept(
    strict: Api, bad: BadInput
) -> None:
    assert fault_of(send(strict, bad), bad.at) is None
    assert strict.store.list_sweeps(1).items == []


def test_after_all_that_the_server_answers_and_nothing_was_kept(strict: Api) -> None:
    before = kept(strict)
    for bad in ALL:
        if bad.family == "addresses and bodies":
            send(strict, bad)
    assert kept(strict) == before
    assert before == (0, 1, 0, 1, 0)
    assert strict.http.get("/v1/health").status_code == 200


def test_a_server_that_confines_refuses_what_leads_out_of_its_roots(
    sqlite_url: str, tmp_path: Path
) -> None:
    root, settings = make_places(tmp_path / "files")
    for api in make_api(sqlite_url, tmp_path / "home", never_opened, settings=settings):
        bad = bad_places(root)
        faults = {b.name: fault_of(send(api, b), b.at) for b in bad}
        assert {name: fault for name, fault in faults.items() if fault} == {}
        assert kept(api) == (0, 1, 0, 1, 0)
        assert len(bad) >= 30
