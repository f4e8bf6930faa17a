"""A run is known by what it reads and does, not by where that lies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.fingerprint import fingerprint
from tests.fixtures.tiny_model import sums, write_jsonl
from trainer import identity
from trainer.check import check
from trainer.config import TrainConfig
from trainer.data.cache import Cache

QUESTION = {"question_id": 1, "category": "math", "turns": ["What is 1 + 1?"]}


class Place:
    """A folder with everything a run reads."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root = root
        shutil.copytree(model, root / "model")
        write_jsonl(root / "train.jsonl", sums(20))
        write_jsonl(root / "eval.jsonl", sums(5, seed=1))
        write_jsonl(root / "judge.jsonl", [QUESTION])
        template = json.loads((model / "tokenizer_config.json").read_text()).get("chat_template")
        file = model / "chat_template.jinja"
        (root / "template.jinja").write_text(file.read_text() if file.exists() else template)

    def config(self, **fields: Any) -> TrainConfig:
        return TrainConfig.model_validate(
            {
                "model": str(self.root / "model"),
                "data": {
                    "train": [{"path": str(self.root / "train.jsonl")}],
                    "eval": [{"path": str(self.root / "eval.jsonl"), "name": "sums"}],
                    "chat_template": str(self.root / "template.jinja"),
                    "cache_dir": str(self.root / "cache"),
                },
                "output_dir": str(self.root / "out"),
                "learning_rate": 1e-3,
                "effective_batch_size": 4,
                **fields,
            }
        )

    def print(self, code: str = "1.0", **fields: Any) -> str:
        config = self.config(**fields)
        report = check(config)
        assert report.ok, report.errors
        found = fingerprint(config.model_dump(mode="json"), report.asdict(), code)
        assert found is not None
        assert len(found) == 64
        return found


@pytest.fixture
def place(tiny_model: Path, tmp_path: Path) -> Place:
    return Place(tmp_path / "here", tiny_model)


def change_a_byte(path: Path, old: bytes, new: bytes) -> None:
    """Same size and, as a clumsy copy might leave it, the same time of change."""
    stat, content = path.stat(), path.read_bytes()
    assert len(old) == len(new)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flip_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def put_before(path: Path, text: str) -> None:
    path.write_text(text + path.read_text())


CHANGES: dict[str, Callable[[Path], None]] = {
    "training data": lambda root: change_a_byte(root / "train.jsonl", b"1", b"2"),
    "held-out data": lambda root: change_a_byte(root / "eval.jsonl", b"1", b"2"),
    "template": lambda root: put_before(root / "template.jinja", "{# #}"),
    "weights": lambda root: flip_a_weight(root / "model" / "model.safetensors"),
    "tokenizer": lambda root: put_before(root / "model" / "tokenizer.json", " "),
}


@pytest.mark.parametrize("what", CHANGES)
def test_one_byte_of_what_it_reads_makes_another_run(place: Place, what: str) -> None:
    before = place.print()
    CHANGES[what](place.root)
    assert place.print() != before


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"learning_rate": 1.1e-3},
        {"schedule": "cosine"},
        {"max_grad_norm": None},
        {"epochs": 2.0},
        {"max_new_tokens": 9},
        {"keep_best": True, "eval_at": (8,)},
    ],
)
def test_other_settings_make_another_run(place: Place, fields: dict[str, Any]) -> None:
    assert place.print(**fields) != place.print()


def test_other_code_makes_another_run(place: Place) -> None:
    assert place.print(code="1.1") != place.print(code="1.0")


@pytest.mark.parametrize(
    "fields",
    [
        {"output_dir": "/elsewhere"},
        {"store": "s3://bucket/x"},
        {"checkpoint_at": (4, 8), "checkpoint_every_seconds": 5.0, "keep_checkpoints": 9},
        {"eval_at": (8,)},
        {"recipe": "lab"},  # its name; what it sets is in the other fields
    ],
)
def test_where_things_go_and_what_is_kept_makes_none(place: Place, fields: dict[str, Any]) -> None:
    assert place.print(**fields) == place.print()


def test_the_same_things_elsewhere_are_the_same_run(place: Place, tmp_path: Path) -> None:
    before = place.print()
    moved = Place.__new__(Place)
    moved.root = tmp_path / "moved"
    shutil.move(place.root, moved.root)
    (moved.root / "model" / "README.md").write_text("nothing that is read")
    assert moved.print() == before


def test_files_that_change_places_make_another_run(place: Place) -> None:
    before = place.print()
    train, held = place.root / "train.jsonl", place.root / "eval.jsonl"
    train.rename(place.root / "x")
    held.rename(train)
    (place.root / "x").rename(held)
    assert place.print() != before


def test_what_is_not_identified_is_never_taken_for_the_same(place: Place) -> None:
    config = place.config().model_dump(mode="json")
    known = check(place.config()).identity
    assert fingerprint(config, {"identity": known}, "1") is not None
    assert fingerprint(config, {}, "1") is None
    for path in known:
        lacking = {"identity": {p: d for p, d in known.items() if p != path}}
        assert fingerprint(config, lacking, "1") is None


def test_the_questions_of_a_judge_and_the_tasks_of_a_harness_count(place: Place) -> None:
    tasks = place.root / "tasks"
    tasks.mkdir()
    (tasks / "mine.yaml").write_text("task: mine")
    judge = {
        "base_url": "http://127.0.0.1:1",
        "model": "judge",
        "questions": str(place.root / "judge.jsonl"),
    }
    config = place.config(judge=judge, lm_eval={"tasks": ["mine"], "include_path": str(tasks)})

    def found() -> str | None:
        facts = {"identity": identity.identities(config, place.root / "model")}
        return fingerprint(config.model_dump(mode="json"), facts, "1")

    first = found()
    (tasks / "mine.yaml").write_text("task: mine ")
    second = found()
    change_a_byte(place.root / "judge.jsonl", b"1 + 1", b"1 + 2")
    assert len({first, second, found(), None}) == 4


def test_a_hub_model_is_its_commit(tmp_path: Path) -> None:
    def of(commit: str) -> str | None:
        folder = tmp_path / "models--org--name" / "snapshots" / commit
        folder.mkdir(parents=True, exist_ok=True)
        return identity.model_identity("org/name", folder, Cache(tmp_path / "cache"))

    assert of("aaaa") == of("aaaa") is not None
    assert of("aaaa") != of("bbbb")


def test_a_file_is_read_once_while_it_stays_as_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in place.root.rglob("*"):
        os.utime(file, (1e9, 1e9))
    # A file that has only just changed is not trusted by its times; make-believe that it is old.
    monkeypatch.setattr("trainer.data.cache._FRESH", -(10**18))
    config = place.config()
    first = identity.identities(config, place.root / "model")
    monkeypatch.setattr("trainer.data.cache._hashes", {})
    monkeypatch.setattr("trainer.data.cache.hashlib.file_digest", _not_again)
    assert identity.identities(config, place.root / "model") == first


def _not_again(*_: Any) -> None:
    raise AssertionError("it was read again")


def test_of_a_huge_file_both_ends_and_blocks_in_between_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "WHOLE_UP_TO", 100_000)
    monkeypatch.setattr(identity, "_END", 1000)
    monkeypatch.setattr(identity, "_BLOCK", 10)
    monkeypatch.setattr(identity, "_BLOCKS", 100)
    content = bytes(range(256)) * 1000
    file, cache = tmp_path / "weights", Cache(tmp_path / "cache")

    def digest(changed: bytes) -> str:
        file.write_bytes(changed)
        return identity.file_digest(file, cache)

    whole = digest(content)
    assert whole.startswith("sampled-")
    assert digest(b"\xff" + content[1:]) != whole
    assert digest(content[:-1] + b"\x00") != whole
    assert digest(content + b"\x00") != whole
    trained = bytes(byte ^ 1 for byte in content)
    assert digest(content[:2000] + trained[2000:-2000] + content[-2000:]) != whole
    assert digest(content) == whole
