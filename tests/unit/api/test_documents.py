"""Which bodies are read, and what is said of others and of parameters that can't be used."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Query
from fastapi.testclient import TestClient

from api.documents import Document
from api.errors import install


@pytest.fixture
def http() -> TestClient:
    app = FastAPI()
    install(app)

    @app.post("/v1/echo")
    def echo(document: Document) -> Any:
        return document

    @app.get("/v1/list")
    def listed(limit: Annotated[int, Query(ge=1)] = 1) -> int:
        return limit

    return TestClient(app)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"a": 1}'),
        ("Application/JSON; charset=utf-8", b'{"a": 1}'),
        ("application/yaml", b"a: 1"),
        ("text/yaml", b"a: 1"),
    ],
)
def test_json_and_yaml_are_read(http: TestClient, kind: str, body: bytes) -> None:
    assert http.post("/v1/echo", content=body, headers={"Content-Type": kind}).json() == {"a": 1}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_types_are_refused_with_those_that_are_taken(http: TestClient, kind: str) -> None:
    """Such as a page of another site can send without asking."""
    answer = http.post("/v1/echo", content=b'{"a": 1}', headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert answer.headers["accept-post"] == "application/json, application/yaml"


def test_a_compressed_body_is_not_unpacked(http: TestClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = http.post("/v1/echo", content=b'{"a": 1}', headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (
        415,
        "urn:winnow:problem:content-encoding",
    )


def test_a_parameter_is_pointed_at_by_its_name(http: TestClient) -> None:
    answer = http.get("/v1/list", params={"limit": "0"})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/limit"]
