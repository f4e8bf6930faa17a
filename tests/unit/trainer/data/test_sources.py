"""Files, folders and hub ids: the same rows give the same samples, and errors say where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.fixtures.hub import COMMIT, serve_dataset
from tests.fixtures.tiny_model import sums, write_jsonl
from trainer.config import Source
from trainer.data.cache import Cache
from trainer.data.sources import open_source
from trainer.errors import DataError


@pytest.fixture(autouse=True)
def hub_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No hub can be reached, and nothing is left in the user's own cache."""
    import datasets.config
    from huggingface_hub import constants

    hub = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return hub


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def rows_of(path: Path | str, **fields: Any) -> list[Any]:
    return [row.value for row in open_source(Source(path=str(path), **fields))]


def refusal(path: Path | str, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        rows_of(path, **fields)
    return str(caught.value)


# --- files ------------------------------------------------------------------------------------


def test_parquet_gives_the_rows_that_json_lines_give(tmp_path: Path) -> None:
    rows = sums(1000)
    lines = write_jsonl(tmp_path / "a.jsonl", rows)
    table = write_parquet(tmp_path / "a.parquet", [{**r, "id": 1} for r in rows], row_group_size=64)
    assert rows_of(lines) == rows_of(table) == rows


def test_a_row_is_known_by_its_line_or_its_number(tmp_path: Path) -> None:
    lines = open_source(Source(path=str(write_jsonl(tmp_path / "a.jsonl", ["{}", "", "{}"]))))
    assert [row.number for row in lines] == [1, 3]
    assert str(lines.error("is bad", 3)) == f"{tmp_path}/a.jsonl, line 3: is bad"
    table = open_source(Source(path=str(write_parquet(tmp_path / "a.parquet", sums(3)))))
    assert [row.number for row in table] == [1, 2, 3]
    assert str(table.error("is bad", 3)) == f"{tmp_path}/a.parquet, row 3: is bad"


def test_text_keeps_its_rare_line_separators(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b\u0085c\x0bd"}, {"text": "e"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    assert rows_of(path) == rows


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n{"text": "y"}\r\n')
    assert rows_of(path) == [{"text": "x"}, {"text": "y"}]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[\n{}\n]\n", "line 1: begins a list of many lines; write one JSON object a line"),
        (b"{'a': 1}\n", "line 1: not valid JSON"),
        (b'{"a": "\xe9"}\n', "line 1: not UTF-8 text"),
        (b"[" * 100_000 + b"\n", "line 1: "),
        (b"\x1f\x8b\x08\x00more", "is compressed (gzip); unpack it"),
    ],
)
def test_what_is_not_json_lines_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert complaint in refusal(path)


def test_a_table_without_the_right_columns_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"question": "x", "prompt": "y"}])
    assert (
        f"{path}: has the columns question, prompt; it needs messages, conversations, prompt and "
        "completion, or text: rename one" in refusal(path)
    )


def test_half_a_parquet_file_is_refused(tmp_path: Path) -> None:
    whole = write_parquet(tmp_path / "a.parquet", sums(100)).read_bytes()
    path = tmp_path / "half.parquet"
    path.write_bytes(whole[: len(whole) // 2])
    assert "can't be read as Parquet" in refusal(path)
    path.write_bytes(whole[len(whole) // 2 :])
    assert "is not a Parquet file, or only a part of one" in refusal(path)


def test_a_file_has_no_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", sums(1))
    assert "is a file, which has no split; leave split out" in refusal(path, split="train")
    assert "has no subset" in refusal(path, subset="main", split="train")


@pytest.mark.parametrize("path", ["./data", "~/nowhere/data", "a/b/c", "x.jsonl", "/etc/none.json"])
def test_a_path_that_is_not_there_is_no_hub_id(path: str) -> None:
    assert "no such file; check the path" in refusal(path)


# --- folders and the hub ----------------------------------------------------------------------


def dataset_folder(folder: Path) -> Path:
    """Two splits, as they lie in a repository of the hub."""
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", sums(30, seed=1))
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", sums(5, seed=2))
    return folder


def test_a_folder_is_loaded_as_a_data_set_of_the_hub_is(tmp_path: Path) -> None:
    folder = dataset_folder(tmp_path / "repository")
    assert rows_of(folder) == sums(30, seed=1)
    assert rows_of(folder, split="test") == sums(5, seed=2)
    assert rows_of(folder, split="train[:10]") == sums(30, seed=1)[:10]
    assert "dev" in refusal(folder, split="dev")
    assert "check path, subset and split" in refusal(folder, subset="nowhere")


def test_a_data_set_that_was_saved_is_loaded(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list(sums(4))
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "dev": one.select([2])}).save_to_disk(tmp_path / "two")
    assert rows_of(tmp_path / "one") == sums(4)
    assert rows_of(tmp_path / "two", split="dev") == sums(4)[2:3]
    assert "has no split 'test'; it has train, dev" in refusal(tmp_path / "two", split="test")


def test_a_hub_id_without_a_hub_is_refused_with_a_way_out() -> None:
    for path in ("openai/gsm8k", "imdb"):
        source = open_source(Source(path=path, subset="main"))
        with pytest.raises(DataError) as caught:
            source.identity(Cache(Path("unused")))
        assert f"{path}:main: is not a file, nor a data set of the hub" in str(caught.value)
        assert "HF_HUB_OFFLINE is set" in str(caught.value)


# --- identity ---------------------------------------------------------------------------------


def test_a_folders_identity_is_its_files(tmp_path: Path) -> None:
    folder, cache = dataset_folder(tmp_path / "repository"), Cache(tmp_path / "cache")

    def identity(**fields: Any) -> str:
        return open_source(Source(path=str(folder), **fields)).identity(cache)

    before = identity()
    assert identity() == before != identity(split="test")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("x")
    assert identity() == before
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", sums(31, seed=1))
    assert identity() != before


def test_a_hub_data_sets_identity_is_its_commit(tmp_path: Path, hub_of_our_own: Path) -> None:
    """Offline, that of the last fetch; `datasets` need not be imported for it."""
    snapshots = hub_of_our_own / "datasets--openai--gsm8k" / "snapshots"
    for commit, time in (("0123abc", 2), ("4567def", 1)):
        (snapshots / commit).mkdir(parents=True)
        os.utime(snapshots / commit, (time, time))
    source = open_source(Source(path="openai/gsm8k", subset="main"))
    assert source.identity(Cache(tmp_path)) == "hub:openai/gsm8k:0123abc:main:None"


FETCH = """
import json, sys
from pathlib import Path
from trainer.config import Source
from trainer.data.cache import Cache
from trainer.data.sources import open_source
source = open_source(Source(path="some/sums", split="test"))
identity = source.identity(Cache(Path("unused")))
print(json.dumps([identity, [row.value for row in source]]))
"""


def test_a_data_set_of_the_hub_is_fetched_once_with_the_users_settings(tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_TOKEN and HF_HOME are in force; then it is there without the hub."""

    def fetch(**environment: str) -> tuple[str, list[Any]]:
        done = subprocess.run(
            [sys.executable, "-c", FETCH],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"HF_HOME": str(tmp_path / "home")} | environment,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    folder = dataset_folder(tmp_path / "repository")
    with serve_dataset("some/sums", folder) as (address, asked):
        online = fetch(HF_ENDPOINT=address, HF_TOKEN="hf_secret", HF_HUB_OFFLINE="0")
        tokens = {token for path, token in asked if "some/sums" in path}
    assert online == [f"hub:some/sums:{COMMIT}:None:test", sums(5, seed=2)]
    assert tokens == {"Bearer hf_secret"}
    assert fetch(HF_HUB_OFFLINE="1") == online
