"""Code that comes with a model runs only where an admin has allowed that very code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.admission.preflight import preflight
from tests.fixtures.own_code import make_model_with_code
from tests.fixtures.tiny_model import sums, write_jsonl
from tests.integration.api.conftest import Api, good_sweep, make_api
from trainer import code
from trainer.errors import ModelError
from trainer.model import check_model, load_model


@pytest.fixture
def real(sqlite_url: str, tmp_path: Path) -> Iterator[Api]:
    """With the check of data and model as it is."""
    check = partial(preflight, cache_dir=str(tmp_path / "cache"))
    yield from make_api(sqlite_url, tmp_path / "home", check)


def sweep_of(folder: Path, **changes: Any) -> dict[str, Any]:
    sweep = good_sweep() | {"model": str(folder / "model")}
    sweep["data"] = {
        "train": [{"path": str(write_jsonl(folder / "train.jsonl", sums(64)))}],
        "eval": [{"path": str(write_jsonl(folder / "eval.jsonl", sums(8, seed=1)))}],
        "max_length": 64,
    }
    return sweep | changes


def test_code_does_not_run_before_it_is_allowed_and_only_as_it_was_then(
    real: Api, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    folder = make_model_with_code(tmp_path / "model", mark)
    sweep = sweep_of(tmp_path, trust_remote_code=True)

    refused = real.post(sweep)
    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert error["pointer"] == "/trust_remote_code"
    digest = code.digest(folder)
    assert f"winnow code allow {folder} --revision {digest}" in error["message"]

    allowed = real.http.put("/v1/allowed-code", json={"model": str(folder)})
    assert allowed.json()["revision"] == digest
    made = real.post(sweep)
    assert made.status_code == 201, made.text
    assert made.json()["spec"]["model_revision"] == digest  # ranks look once more
    assert not mark.exists()  # the check itself runs none of it

    file = folder / "modeling_own.py"
    file.write_text(file.read_text() + "\n# changed\n")
    changed = real.post(sweep)
    assert changed.status_code == 422
    assert changed.json()["errors"][0]["pointer"] == "/trust_remote_code"
    pinned = real.post(sweep | {"model_revision": digest})
    assert pinned.json()["errors"][0]["pointer"] == "/model_revision"
    assert not mark.exists()


def test_a_rank_runs_the_code_that_was_allowed_and_refuses_any_other(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = make_model_with_code(tmp_path / "model", mark)
    digest = code.digest(folder)
    with pytest.raises(ModelError):
        load_model(folder)
    assert not mark.exists()

    loaded = load_model(check_model(str(folder), digest, trusted=True), trusted=digest)
    assert type(loaded).__name__ == "OwnForCausalLM"
    assert mark.exists()

    mark.unlink()
    code.discard()  # as another process
    (folder / "helper.py").write_text("x = 1")
    with pytest.raises(ModelError, match="has changed since it was allowed"):
        check_model(str(folder), digest, trusted=True)
    assert not mark.exists()


def test_permissions_are_listed_and_taken_back(api: Api) -> None:
    entry = {"model": "org/name", "revision": "a" * 40}
    assert api.http.put("/v1/allowed-code", json=entry).status_code == 200
    again = api.http.put("/v1/allowed-code", json=entry)
    [listed] = api.http.get("/v1/allowed-code").json()["items"]
    assert listed == again.json()
    assert (listed["model"], listed["revision"]) == ("org/name", "a" * 40)
    assert listed["allowed_by"]

    sweep = good_sweep() | {"model": "org/name", "trust_remote_code": True}
    assert api.post(sweep | {"model_revision": "a" * 40}).status_code == 201
    assert api.post(sweep | {"model_revision": "b" * 40}).status_code == 422
    branch = api.post(sweep | {"model_revision": "main"}).json()
    assert branch["errors"][0]["pointer"] == "/model_revision"

    assert api.http.delete("/v1/allowed-code", params=entry).status_code == 204
    assert api.http.get("/v1/allowed-code").json()["items"] == []
    assert api.http.delete("/v1/allowed-code", params=entry).status_code == 404
    assert api.post(sweep | {"model_revision": "a" * 40}).status_code == 422
