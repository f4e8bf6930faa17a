"""Whatever is wrong with a sweep is refused before it starts, with the field and a way out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.bad_requests import changed, never_opened
from tests.fixtures.bad_sweeps import FAULTS, MISTAKES, UNREADABLE
from tests.integration.api.conftest import Api, make_api


@pytest.fixture(scope="module")
def strict_api(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Shared by all tests here: none of them may leave a sweep behind."""
    folder = tmp_path_factory.mktemp("strict")
    shutil.copy(sqlite_template, folder / "api.db")
    yield from make_api(f"sqlite:///{folder / 'api.db'}", folder / "home", never_opened)


@pytest.mark.parametrize(
    ("path", "value", "pointer", "words"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_fault_is_named_with_its_field_and_a_way_out(
    strict_api: Api, path: str, value: Any, pointer: str, words: str
) -> None:
    response = strict_api.post(changed(path, value))

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == 422
    found = {e["pointer"]: e["message"] for e in problem["errors"]}
    assert pointer in found, found
    assert words in found[pointer]
    assert strict_api.store.list_sweeps().items == []


def test_a_grid_of_a_thousand_million_is_counted_and_refused_at_once(strict_api: Api) -> None:
    sweep = changed("search", {"sampler": "grid"})
    sweep["space"] = {
        "learning_rate": {"choice": [1e-5 * n for n in range(1, 101)]},
        "effective_batch_size": {"int_uniform": [1, 10_000_000]},
    }
    problem = strict_api.post(sweep).json()
    assert [e["pointer"] for e in problem["errors"]] == ["/space"]
    assert "1,000,000,000 configurations" in problem["errors"][0]["message"]


def test_all_faults_come_in_one_answer(strict_api: Api) -> None:
    sweep = changed("search.trials", -1)
    sweep["typo"] = 1
    sweep["data"]["eval"][0]["path"] = ""
    pointers = {e["pointer"] for e in strict_api.post(sweep).json()["errors"]}
    assert pointers == {"/search/trials", "/typo", "/data/eval/0/path"}


def test_more_gpus_than_the_cluster_has_are_refused(strict_api: Api) -> None:
    strict_api.store.report_cluster({"CPU": 8.0, "GPU": 2.0})
    problem = strict_api.post(changed("resources.gpus_per_trial", 4)).json()
    assert problem["errors"] == [
        {
            "pointer": "/resources/gpus_per_trial",
            "message": "a trial asks for 4 GPUs, the cluster has 2; use 2 or fewer, "
            "or add nodes with GPUs",
        }
    ]


def test_more_cpus_than_the_cluster_has_are_refused(strict_api: Api) -> None:
    strict_api.store.report_cluster({"CPU": 2.0})
    problem = strict_api.post(changed("resources.workers_per_trial", 3)).json()
    assert problem["errors"][0]["pointer"] == "/resources/workers_per_trial"
    assert "the cluster has 2" in problem["errors"][0]["message"]


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"), [u[1:] for u in UNREADABLE], ids=[u[0] for u in UNREADABLE]
)
def test_a_body_that_cannot_be_read_is_refused(
    strict_api: Api, kind: str, body: bytes, status: int, words: str
) -> None:
    response = strict_api.http.post("/v1/sweeps", content=body, headers={"Content-Type": kind})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.text


def test_a_yaml_bomb_is_refused_without_being_expanded(strict_api: Api) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    response = strict_api.http.post(
        "/v1/sweeps", content="\n".join(lines), headers={"Content-Type": "application/yaml"}
    )
    assert response.status_code == 400
    assert "aliases" in response.json()["detail"]


def test_a_body_of_more_than_a_megabyte_is_refused_also_if_its_size_is_not_declared(
    strict_api: Api,
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    headers = {"Content-Type": "application/json"}
    declared = strict_api.http.post("/v1/sweeps", content=b" " * 2_000_000, headers=headers)
    streamed = strict_api.http.post("/v1/sweeps", content=chunks(), headers=headers)
    assert [declared.status_code, streamed.status_code] == [413, 413]
    assert "1024 kB" in streamed.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    MISTAKES,
)
def test_every_other_mistake_is_a_problem_too(
    strict_api: Api, method: str, path: str, status: int
) -> None:
    response = strict_api.http.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_a_wrong_method_is_answered_with_the_right_ones(strict_api: Api) -> None:
    assert strict_api.http.delete("/v1/sweeps").headers["allow"] == "GET, HEAD, OPTIONS, POST"
