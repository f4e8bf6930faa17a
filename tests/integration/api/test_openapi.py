"""The API's description: complete, right, and the one that is committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from api.access import PUBLIC
from api.documents import SENT
from api.examples import BODIES
from api.openapi import PROBLEM, text
from tests.integration.api.conftest import Api

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture
def described(api: Api) -> dict[str, Any]:
    return api.http.get("/v1/openapi.json").json()


def operations(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_committed_description_is_this_one(described: dict[str, Any]) -> None:
    assert text(described) == COMMITTED.read_text(), (
        "the API has changed: run `python -m api.openapi > docs/openapi.json`, and look at what "
        "changed for clients"
    )


def test_every_operation_says_what_it_takes_answers_and_refuses(described: dict[str, Any]) -> None:
    for path, method, operation in operations(described):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        answers = operation["responses"]
        assert "default" not in answers, where
        assert any(status.startswith("2") for status in answers), where
        wanted = {"404", "429", "500", "503"} | (set() if path in PUBLIC else {"401", "403"})
        if "requestBody" in operation:
            wanted |= {"400", "413", "415", "422"}
        assert wanted <= set(answers), where
        assert bool(operation["security"]) == (path not in PUBLIC), where


def test_every_problem_is_one_by_rfc_9457(described: dict[str, Any]) -> None:
    for name, response in described["components"]["responses"].items():
        assert list(response["content"]) == [PROBLEM], name


def test_examples_are_what_the_schemas_say(described: dict[str, Any]) -> None:
    seen = set()
    for content in contents(described):
        for example in content.get("examples", {}).values():
            schema = {**content["schema"], "components": described["components"]}
            jsonschema.Draft202012Validator(schema).validate(example["value"])
            seen.add(content["schema"]["$ref"].rsplit("/", 1)[-1])
    assert seen >= {"Problem", "SweepSpec", *BODIES}
    for name, body in BODIES.items():
        SENT[name].model_validate(body)


def contents(described: dict[str, Any]) -> list[dict[str, Any]]:
    found = [
        c for r in described["components"]["responses"].values() for c in r["content"].values()
    ]
    for _, _, operation in operations(described):
        found += operation.get("requestBody", {}).get("content", {}).values()
    return found
