"""A folder is sent as an archive: the files of its own, from below the sweep's folder, whole."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import pytest

from orchestrator.views.archive import ArchiveError, archive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint below `tmp_path/home`."""
    made = tmp_path / "home" / "step-1"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "weights").write_bytes(b"w" * 1000)
    return made


def read(location: str, *within: Path | str) -> dict[str, bytes]:
    """The archive's files."""
    made = archive(location, "top", [str(w) for w in within])
    sent = b"".join(made.chunks())
    assert len(sent) == made.size
    with tarfile.open(fileobj=io.BytesIO(sent)) as tar:
        found = {m.name: tar.extractfile(m) for m in tar}
        return {name: file.read() for name, file in found.items() if file is not None}


def test_only_what_lies_below_a_root_is_sent(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert read(str(folder), home) == {"top/config.json": b"{}", "top/weights": b"w" * 1000}
    beside = tmp_path / "home-of-another" / "step-1"
    beside.mkdir(parents=True)
    (beside / "key").write_text("private")
    (home / "link").symlink_to(folder)
    for location in (beside, home, home / ".." / beside.relative_to(tmp_path), home / "link"):
        with pytest.raises(ArchiveError, match="not below the folders of this sweep"):
            archive(str(location), "top", [str(home)])
    with pytest.raises(ArchiveError, match="there is nothing at"):
        archive(str(home / "gone"), "top", [str(home)])


def test_a_file_that_becomes_a_link_while_it_is_sent_is_not_followed(
    folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 1000)
    made = archive(str(folder), "top", [str(tmp_path / "home")])
    (folder / "weights").unlink()
    (folder / "weights").symlink_to(secret)
    sent: list[bytes] = []
    with pytest.raises(OSError, match="symbolic"):
        sent.extend(made.chunks())
    assert b"sss" not in b"".join(sent)


def test_a_file_that_has_become_shorter_ends_the_archive_with_an_error(
    folder: Path, tmp_path: Path
) -> None:
    made = archive(str(folder), "top", [str(tmp_path / "home")])
    (folder / "weights").write_bytes(b"w")
    with pytest.raises(ArchiveError, match="has become shorter"):
        list(made.chunks())


def test_addresses_are_compared_part_by_part() -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/ours/step-1/weights", b"w")
    system.pipe("/ours-not/step-1/weights", b"theirs")
    try:
        assert read("memory://ours/step-1", "memory://ours") == {"top/weights": b"w"}
        for location in (
            "memory://ours-not/step-1",
            "memory://ours/../ours-not/step-1",
            "memory://ours",
        ):
            with pytest.raises(ArchiveError, match="not below the addresses of this sweep"):
                archive(location, "top", ["memory://ours"])
    finally:
        system.rm("/ours", recursive=True)
        system.rm("/ours-not", recursive=True)
