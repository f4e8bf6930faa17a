"""Faults in data and models are found by opening them, before anything starts: the real check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_model import make_tiny_model, sums
from tests.integration.api.conftest import Api, make_api


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def real_api(sqlite_url: str, tmp_path: Path) -> Iterator[Api]:
    yield from make_api(sqlite_url, tmp_path / "home", None)


@pytest.fixture
def sweep(model: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "real",
        "model": str(model),
        "data": {
            "train": [{"path": str(write(tmp_path / "train.jsonl", sums(40)))}],
            "eval": [{"path": str(write(tmp_path / "eval.jsonl", sums(10, seed=1)))}],
        },
        "space": {
            "learning_rate": {"log_uniform": [1e-5, 1e-3]},
            "effective_batch_size": {"choice": [4, 16]},
        },
        "search": {"trials": 4},
    }


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def faults(api: Api, sweep: dict[str, Any]) -> dict[str, str]:
    response = api.post(sweep)
    assert response.status_code == 422, response.text
    assert api.store.list_sweeps().items == []
    return {e["pointer"]: e["message"] for e in response.json()["errors"]}


def test_a_good_sweep_passes_and_its_samples_are_counted(
    real_api: Api, sweep: dict[str, Any]
) -> None:
    response = real_api.post(sweep)
    assert response.status_code == 201, response.text
    assert real_api.store.sweep_rows(response.json()["id"]).facts["train_samples"] == 40


def test_every_bad_file_is_named_in_one_answer(
    real_api: Api, sweep: dict[str, Any], tmp_path: Path
) -> None:
    sample = sums(1)[0]
    question = {"messages": sample["messages"][:1]}
    long = {"messages": [{"role": "user", "content": "9 " * 5000}, sample["messages"][1]]}
    sweep["data"]["train"] += [
        {"path": str(tmp_path / "absent.jsonl")},
        {"path": str(write(tmp_path / "empty.jsonl", []))},
        {"path": str(write(tmp_path / "broken.jsonl", [sample, sample, "{oops"]))},
        {"path": str(write(tmp_path / "silent.jsonl", [question]))},
        {"path": str(write(tmp_path / "long.jsonl", [long]))},
    ]
    found = faults(real_api, sweep)
    assert set(found) == {f"/data/train/{i}/path" for i in range(1, 6)}
    for i, words in enumerate(("no such file", "empty", "3", "assistant", "1"), start=1):
        assert words in found[f"/data/train/{i}/path"], found


def test_an_effective_batch_larger_than_the_data_is_named_where_it_is_set(
    real_api: Api, sweep: dict[str, Any]
) -> None:
    sweep["space"]["effective_batch_size"] = {"choice": [4, 160, 16]}
    found = faults(real_api, sweep)
    assert list(found) == ["/space/effective_batch_size/choice/1"]
    assert "40 usable training samples" in found["/space/effective_batch_size/choice/1"]


@pytest.mark.parametrize("missing", ["folder", "tokenizer", "template"])
def test_a_model_that_lacks_something_is_named(
    real_api: Api, sweep: dict[str, Any], model: Path, tmp_path: Path, missing: str
) -> None:
    broken = tmp_path / "broken-model"
    if missing != "folder":
        shutil.copytree(model, broken)
    if missing == "tokenizer":
        for file in broken.glob("tokenizer*"):
            file.unlink()
    if missing == "template":
        for file in broken.glob("chat_template*"):
            file.unlink()
        config = json.loads((broken / "tokenizer_config.json").read_text())
        config.pop("chat_template", None)
        (broken / "tokenizer_config.json").write_text(json.dumps(config))
    sweep["model"] = str(broken)
    found = faults(real_api, sweep)
    assert list(found) == ["/model"]
    words = {"folder": "does not exist", "tokenizer": "tokenizer", "template": "template"}
    assert words[missing] in found["/model"].lower(), found
