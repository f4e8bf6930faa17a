"""Checkpoints in a store: a real S3 server, memory and a plain folder behind the same code."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from tests.fixtures.s3_server import BUCKET, s3_server
from trainer import checkpoint, storage
from trainer.errors import TrainerError
from trainer.storage import StoreError

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as variables:
        yield variables


KINDS = ("s3", "memory", "folder")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The folder of one attempt in a store."""
    name = uuid.uuid4().hex
    if request.param == "s3":
        request.getfixturevalue("server")
        return f"s3://{BUCKET}/{name}/a1"
    return f"memory://{name}/a1" if request.param == "memory" else str(tmp_path / "mounted" / name)


@pytest.fixture
def bucket(server: dict[str, str]) -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/a1"


def save(run: Path, step: int, store: str, **options: Any) -> str:
    shard = {
        "spans": torch.tensor([[0, 6]]),
        "master": torch.full((6,), float(step)),
        "step": torch.tensor(float(step)),
    }
    state = {"step": step, "samples": 10 * step}
    return checkpoint.save(run / "checkpoints", shard, state, store=store, **options).path


def weights(found: str | None, into: Path) -> list[float]:
    assert found is not None
    with checkpoint.reader(found, into=into) as state:
        return state.read("master", 0, 6).tolist()


def change(path: str, content: bytes | None) -> None:
    """Replace a file of the store, or delete it."""
    system, where = fsspec.url_to_fs(path)
    system.invalidate_cache()
    if content is None:
        system.rm_file(where)
    else:
        system.pipe_file(where, content)


def test_a_checkpoint_goes_up_and_comes_back(tmp_path: Path, store: str) -> None:
    path = save(tmp_path / "run", 3, store)
    assert path == f"{store}/checkpoints/step-3"
    assert storage.names(path) == ["manifest.json", "rank-00000.safetensors", "state.json"]
    into = tmp_path / "copies"
    for where in (store, f"{store}/checkpoints", path):
        assert checkpoint.latest(where, into=into) == path
    assert checkpoint.read_state(path, into=into) == {"step": 3, "samples": 30}
    assert weights(path, into) == [3.0] * 6


def test_only_the_store_keeps_it_and_there_the_newest_and_the_best_stay(
    tmp_path: Path, store: str
) -> None:
    run = tmp_path / "run"
    for step in range(1, 6):
        save(run, step, store, keep=2, best=step == 2)
    assert storage.names(f"{store}/checkpoints") == ["best", "step-2", "step-4", "step-5"]
    assert checkpoint.best(store, into=tmp_path / "copies") == f"{store}/checkpoints/step-2"
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == ["best", "step-2"]


def test_a_path_keeps_working_though_it_loses_a_slash(tmp_path: Path, bucket: str) -> None:
    path = save(tmp_path / "run", 3, bucket)
    found = checkpoint.latest(Path(bucket), into=tmp_path / "copies")
    assert found is not None
    assert storage.address(found) == path
    assert checkpoint.read_state(found, into=tmp_path / "copies")["step"] == 3


def rewritten(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("store", ["memory", "folder"], indirect=True)
@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("rank-00000.safetensors", rewritten),
        ("rank-00000.safetensors", lambda content: content[:-1]),
        ("rank-00000.safetensors", None),
        ("state.json", lambda _: b"{}"),
        ("manifest.json", lambda content: content[: len(content) // 2]),
        ("manifest.json", lambda _: b'{"format": 2, "files": {"../../x": "0"}}'),
        ("manifest.json", None),
    ],
    ids=["bit", "cut", "gone", "state", "half a manifest", "foreign manifest", "no manifest"],
)
def test_a_damaged_one_gives_way_to_the_one_before(
    tmp_path: Path, store: str, file: str, damage: Any
) -> None:
    before = save(tmp_path / "run", 2, store)
    newest = save(tmp_path / "run", 3, store)
    system, path = fsspec.url_to_fs(f"{newest}/{file}")
    change(f"{newest}/{file}", None if damage is None else damage(system.cat_file(path)))
    into = tmp_path / "copies"
    assert not checkpoint.is_whole(newest, into=into)
    assert checkpoint.latest(store, into=into) == checkpoint.latest(newest, into=into) == before
    assert weights(before, into) == [2.0] * 6
    if storage.is_remote(store):
        with pytest.raises(TrainerError, match="is damaged, or isn't there"):
            checkpoint.read_state(newest, into=into)


def test_an_address_of_a_file_system_here_is_a_folder(tmp_path: Path) -> None:
    path = save(tmp_path / "run", 3, f"file://{tmp_path}/mounted/a1")
    assert path == f"{tmp_path}/mounted/a1/checkpoints/step-3"
    assert checkpoint.latest(tmp_path / "mounted" / "a1") == Path(path)


def test_a_bucket_with_a_damaged_one_gives_the_one_before(tmp_path: Path, bucket: str) -> None:
    before = save(tmp_path / "run", 2, bucket)
    newest = save(tmp_path / "run", 3, bucket)
    change(f"{newest}/rank-00000.safetensors", b"something else")
    assert checkpoint.latest(bucket, into=tmp_path / "copies") == before
    change(f"{before}/manifest.json", None)
    assert checkpoint.latest(bucket, into=tmp_path / "copies") is None


def test_a_copy_that_was_damaged_here_is_not_used(tmp_path: Path, bucket: str) -> None:
    path, into = save(tmp_path / "run", 3, bucket), tmp_path / "copies"
    assert checkpoint.is_whole(path, into=into)
    (shard,) = into.glob("*/rank-00000.safetensors")
    shard.write_bytes(b"")
    assert not checkpoint.is_whole(path, into=into)


def test_a_new_save_removes_what_was_fetched_for_it(tmp_path: Path, bucket: str) -> None:
    run = tmp_path / "run"
    path = save(run, 1, bucket)
    copies = run / "checkpoints" / checkpoint.FETCHED
    assert checkpoint.latest(path, into=copies) == path
    assert copies.exists()
    save(run, 2, bucket)
    assert not copies.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from trainer import storage

folder, target, survive = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
upload = storage.upload

def counted(file, location):
    global survive
    if survive == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    survive -= 1
    upload(file, location)

storage.upload = counted
storage._THREADS = 1
files = storage.hashes(folder, ["rank-00000.safetensors", "state.json"])
storage.send(folder, target, files, format=2)
"""


def test_killed_in_the_middle_of_an_upload_the_one_before_is_used(
    tmp_path: Path, bucket: str, server: dict[str, str]
) -> None:
    before = save(tmp_path / "run", 2, bucket)
    source = storage.fetch(before, tmp_path / "source")
    for uploads in (1, 2, 3):  # the weights; all but the manifest; everything
        target = f"{bucket}/checkpoints/step-3"
        command = [sys.executable, "-c", KILLED, str(source), target, str(uploads)]
        done = subprocess.run(command, env=os.environ | server, check=False, timeout=240)
        assert (done.returncode == 0) == storage.is_sealed(target) == (uploads == 3)
        newest = target if uploads == 3 else before
        assert checkpoint.latest(bucket, into=tmp_path / "copies") == newest
    # What was left over is cleared away by the next one.
    save(tmp_path / "run", 4, bucket, keep=1)
    assert storage.names(f"{bucket}/checkpoints") == ["step-4"]


def test_saving_over_a_checkpoint_that_is_there_never_mixes_the_two(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "run", 3, bucket)

    def unreachable(*_: Any, **__: Any) -> None:
        raise StoreError("the network is down")

    monkeypatch.setattr(storage, "seal", unreachable)
    with pytest.raises(TrainerError, match="the network is down"):
        save(tmp_path / "run", 3, bucket)
    assert not checkpoint.is_whole(path, into=tmp_path / "copies")


def test_a_hiccup_of_the_network_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(storage, "_FIRST_WAIT", 0.001)
    original, failures = MemoryFileSystem.put_file, [ConnectionError("reset")] * 3

    def flaky(self: Any, *args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "put_file", flaky)
    path = save(tmp_path / "run", 1, f"memory://{uuid.uuid4().hex}/a1")
    assert checkpoint.is_whole(path, into=tmp_path / "copies")
    assert not failures


def test_half_a_file_that_arrived_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(storage, "_FIRST_WAIT", 0.001)
    original, cut = MemoryFileSystem.put_file, [True]

    def cutting(self: Any, lpath: str, rpath: str, **kwargs: Any) -> Any:
        original(self, lpath, rpath, **kwargs)
        if rpath.endswith(".safetensors") and cut.pop(0) if cut else False:
            self.pipe_file(rpath, Path(lpath).read_bytes()[:-1])

    monkeypatch.setattr(MemoryFileSystem, "put_file", cutting)
    path = save(tmp_path / "run", 1, f"memory://{uuid.uuid4().hex}/a1")
    assert checkpoint.is_whole(path, into=tmp_path / "copies")


def test_a_store_that_is_away_is_an_error_and_no_empty_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    """Else a resumed trial would begin again from nothing."""
    monkeypatch.setattr(storage, "TRIES", 1)
    with pytest.raises(TrainerError, match=r"s3://no-such-bucket/x.*check the address"):
        save(tmp_path / "run", 1, "s3://no-such-bucket/x")
    save(tmp_path / "run", 1, bucket)
    monkeypatch.setattr(storage, "_open", _away)
    with pytest.raises(StoreError, match="ConnectionError"):
        checkpoint.latest(bucket, into=tmp_path / "copies")


def _away(_: str) -> tuple[Any, str]:
    raise ConnectionError("no route to host")


def test_an_unknown_kind_of_store_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="pip install 'adlfs'"):
        save(tmp_path / "run", 1, "abfs://container/x")


def test_a_folder_is_deleted_with_all_that_is_in_it(tmp_path: Path, store: str) -> None:
    path = save(tmp_path / "run", 1, store)
    other = save(tmp_path / "run", 2, store)
    storage.remove(path)
    storage.remove(path)  # it is gone already
    assert storage.names(path) == []
    assert checkpoint.latest(store, into=tmp_path / "copies") == other


def test_a_whole_bucket_is_not_deleted(bucket: str) -> None:
    with pytest.raises(StoreError, match="whole bucket"):
        storage.remove(f"s3://{BUCKET}")
    with pytest.raises(StoreError, match="whole bucket"):
        storage.remove(f"s3://{BUCKET}/")
