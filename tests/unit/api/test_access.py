"""No route comes into being that nobody thought about who may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import FastAPI

from api.access import ADMIN, PUBLIC, READ, check_every_route


@pytest.mark.parametrize(("dependencies", "right"), [([], False), ([READ], True)])
def test_a_route_says_which_scope_it_needs_or_the_server_does_not_start(
    dependencies: Sequence[Any], right: bool
) -> None:
    app = FastAPI()

    @app.get("/v1/things", dependencies=dependencies)
    def things() -> None: ...

    if right:
        check_every_route(app, public=lambda path: path in PUBLIC)
        return
    with pytest.raises(RuntimeError, match=r"/v1/things does not name the scope"):
        check_every_route(app, public=lambda path: path in PUBLIC)


def test_two_scopes_of_one_route_are_a_mistake() -> None:
    app = FastAPI()

    @app.get("/v1/things", dependencies=[READ, ADMIN])
    def things() -> None: ...

    with pytest.raises(RuntimeError, match="does not name the scope"):
        check_every_route(app, public=lambda path: False)


def test_what_is_answered_without_a_token_is_little() -> None:
    assert {"/v1/health", "/v1/ready", "/v1/openapi.json"} == PUBLIC
