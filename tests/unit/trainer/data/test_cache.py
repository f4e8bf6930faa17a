"""What the cache promises: whole entries only, one maker at a time, files hashed once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.data import cache as module
from trainer.data.cache import Cache
from trainer.errors import DataError

MAKE = """
import sys, time
from pathlib import Path
from trainer.data.cache import Cache

def read(entry):
    return entry.joinpath("whole").read_text() if entry.joinpath("whole").exists() else None

def make(draft):
    draft.joinpath("part").write_text("x")
    print("making", flush=True)
    sys.stdin.readline()
    draft.joinpath("whole").write_text(sys.argv[2])

print(Cache(Path(sys.argv[1])).get("key", read, make), flush=True)
"""


def read(entry: Path) -> str | None:
    whole = entry / "whole"
    return whole.read_text() if whole.exists() else None


def write(draft: Path) -> None:
    (draft / "whole").write_text("made here")


def start_maker(folder: Path, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKE, str(folder), text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path / "cache"), []

    def make(draft: Path) -> None:
        made.append(draft)
        write(draft)

    assert [cache.get("key", read, make) for _ in range(3)] == ["made here"] * 3
    assert len(made) == 1
    assert oct((tmp_path / "cache" / "key").stat().st_mode & 0o700) == "0o700"


def test_a_killed_maker_leaves_nothing_and_holds_up_nobody(tmp_path: Path) -> None:
    with start_maker(tmp_path, "never") as maker:
        assert line_of(maker) == "making"
        assert list(tmp_path.glob(".key-*/part"))
        assert read(tmp_path / "key") is None
        maker.send_signal(signal.SIGKILL)
    assert Cache(tmp_path).get("key", read, write) == "made here"
    assert not list(tmp_path.glob(".key-*"))


def test_a_second_process_waits_for_the_first_ones_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAY_AFTER", 0.01)
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(Cache(tmp_path).get("key", read, write)))
    with start_maker(tmp_path, "made there") as maker:
        assert line_of(maker) == "making"
        waiting.start()
        deadline = time.monotonic() + 20
        while "waiting for another process" not in caplog.text and time.monotonic() < deadline:
            waiting.join(0.02)
        assert found == []
        assert maker.stdin is not None
        maker.stdin.write("go on\n")
        maker.stdin.flush()
        waiting.join(120)
        assert found == [line_of(maker)] == ["made there"]


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(draft: Path) -> None:
        (draft / "part").write_text("x")
        raise DataError("is bad", "train.jsonl", 3)

    with pytest.raises(DataError, match="line 3: is bad"):
        Cache(tmp_path).get("key", read, fail)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.get("key", read, write)
    (tmp_path / "key" / "whole").unlink()
    (tmp_path / "key" / "other").write_text("x")
    assert cache.get("key", read, write) == "made here"
    assert not (tmp_path / "key" / "other").exists()


def test_a_full_disk_is_told_with_a_way_out(tmp_path: Path) -> None:
    def fill(draft: Path) -> None:
        del draft
        with open("/dev/full", "wb", buffering=0) as stream:
            stream.write(b"x")

    with pytest.raises(DataError) as caught:
        Cache(tmp_path).get("key", read, fill)
    assert str(tmp_path) in str(caught.value)
    assert "no space left for tokenised data" in str(caught.value)
    assert "set data.cache_dir to another disk" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_told_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"can't be written .* set data\.cache_dir"):
        Cache(tmp_path / "file" / "cache").get("key", read, write)


# --- known files ------------------------------------------------------------------------------


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process has hashed is not remembered, as if each call came from another one."""

    class Nothing(dict[tuple[object, ...], str]):
        def __contains__(self, key: object) -> bool:
            return False

    monkeypatch.setattr(module, "_hashes", Nothing())


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be hashed."""
    names: list[str] = []
    digest = module.hashlib.file_digest

    def count(stream: object, algorithm: str) -> object:
        names.append(Path(stream.name).name)  # type: ignore[attr-defined]
        return digest(stream, algorithm)  # type: ignore[arg-type]

    monkeypatch.setattr(module.hashlib, "file_digest", count)
    return names


def written_long_ago(path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.write_text(content)
    monkeypatch.setattr(module, "_FRESH", -(10**18))
    return path


@pytest.mark.usefixtures("forgetful")
def test_an_unchanged_file_is_read_once_by_all_processes(
    tmp_path: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written_long_ago(tmp_path / "a.jsonl", "one", monkeypatch)
    first = Cache(tmp_path / "cache").file_hash(file)
    assert Cache(tmp_path / "cache").file_hash(file) == first
    assert readings == ["a.jsonl"]
    file.write_text("two")
    assert Cache(tmp_path / "cache").file_hash(file) != first
    assert readings == ["a.jsonl", "a.jsonl"]


@pytest.mark.usefixtures("forgetful")
def test_a_change_that_keeps_size_and_time_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written_long_ago(tmp_path / "a.jsonl", "one", monkeypatch)
    stat = file.stat()
    first = Cache(tmp_path / "cache").file_hash(file)
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Cache(tmp_path / "cache").file_hash(file) != first


@pytest.mark.usefixtures("forgetful")
def test_a_file_that_was_just_written_is_not_trusted_by_its_times(
    tmp_path: Path, readings: list[str]
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("one")
    for _ in range(2):
        Cache(tmp_path / "cache").file_hash(file)
    assert readings == ["a.jsonl", "a.jsonl"]


@pytest.mark.usefixtures("forgetful")
def test_a_damaged_note_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written_long_ago(tmp_path / "a.jsonl", "one", monkeypatch)
    first = Cache(tmp_path / "cache").file_hash(file)
    (note,) = (tmp_path / "cache" / "files").iterdir()
    note.write_text('{"file": [')
    assert Cache(tmp_path / "cache").file_hash(file) == first
