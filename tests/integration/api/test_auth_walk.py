"""Every route, asked by everyone who must not (`tests/fixtures/doors.py` says who and how)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.fixtures.doors import (
    MARK,
    UNLIMITED,
    Project,
    Visit,
    bearer,
    lists,
    of_another_project,
    populated,
    routes,
    that_do_not_hold,
    without_the_scope,
)
from tests.integration.api.conftest import Api, files_are_fine, good_sweep, make_api
from winnow.types import Quota


@dataclass
class Town:
    """A server with three projects; `neighbours` has nothing."""

    api: Api
    ours: Project
    theirs: Project


@pytest.fixture(scope="module")
def town(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """On each database, one for all tests here: what is refused changes nothing."""
    home = tmp_path_factory.mktemp("town")
    for api in make_api(shared_url, home, files_are_fine, settings=UNLIMITED):
        api.store.add_project("neighbours", Quota())
        yield Town(api, populated(api, "ours", "our-own"), populated(api, "theirs", MARK))


def faults(visits: list[Visit]) -> list[Visit]:
    return [visit for visit in visits if visit.fault is not None]


def test_no_route_lets_in_who_has_no_token_that_holds(town: Town) -> None:
    visits = list(that_do_not_hold(town.api, town.theirs))
    assert faults(visits) == []
    assert len(visits) == 7 * len(routes(town.api.app))
    assert len(visits) >= 7 * 70


def test_every_route_refuses_a_token_without_its_scope(town: Town) -> None:
    visits = list(without_the_scope(town.api, town.theirs))
    assert faults(visits) == []
    assert len(visits) >= 20


def test_what_is_another_projects_is_not_there(town: Town) -> None:
    key = bearer(town.api, "admin", project="neighbours")
    visits = list(of_another_project(town.api, town.theirs, key))
    assert faults(visits) == []
    assert len(visits) >= 30


def test_no_list_tells_of_another_project(town: Town) -> None:
    for project in (town.theirs, town.ours):
        answer = town.api.http.post(f"/v1/sweeps/{project.ids['sweep_id']}:pause")
        assert answer.status_code < 300, answer.text
    key = bearer(town.api, "admin", project="ours")
    read = list(lists(town.api, town.ours, town.theirs, key))
    assert faults([visit for visit, _ in read]) == []
    told = {visit.route.path: text for visit, text in read}
    for path in ("/v1/sweeps", "/v1/projects", "/v1/tokens", "/v1/webhooks", "/v1/audit"):
        assert "our" in told[path], path


def test_nothing_can_be_put_into_another_project(town: Town) -> None:
    api = town.api
    headers = {"Authorization": bearer(api, "admin", project="ours")}
    before = len(api.store.list_sweeps().items), len(api.store.access.tokens())
    hook = {"url": "https://example.com/", "project": "theirs", "events": ["sweep.finished"]}
    for path, body in (
        ("/v1/sweeps", good_sweep() | {"project": "theirs"}),
        ("/v1/sweeps:validate", good_sweep() | {"project": "theirs"}),
        ("/v1/tokens", {"name": "a way in", "project": "theirs"}),
        ("/v1/webhooks", hook),
        ("/v1/projects", {"id": "more"}),
    ):
        answer = api.http.post(path, json=body, headers=headers)
        refused = answer.status_code in (403, 422) or answer.json().get("valid") is False
        assert refused, (path, answer.status_code, answer.text)
        assert MARK not in answer.text
    assert (len(api.store.list_sweeps().items), len(api.store.access.tokens())) == before
