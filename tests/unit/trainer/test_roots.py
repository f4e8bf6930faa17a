"""Files are opened only below the folders that a run is confined to, whatever paths turn into."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import roots
from trainer.config import Source
from trainer.data.sources import open_source
from trainer.errors import TrainerError
from trainer.model import check_model, load_tokenizer


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A root with a file, and a secret outside of it."""
    inside, outside = tmp_path / "root", tmp_path / "root-of-others"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "x.jsonl").write_text('{"text": "a"}\n')
    return inside, outside


def test_a_file_below_a_root_is_opened(places: tuple[Path, Path]) -> None:
    inside, _ = places
    with roots.opened(inside / "x.jsonl", [str(inside)]) as stream:
        assert stream.read() == b'{"text": "a"}\n'


LINKS: dict[str, Callable[[Path, Path], Path]] = {
    "a path beside": lambda inside, outside: outside / "x.jsonl",
    "a path up": lambda inside, outside: inside / ".." / outside.name / "x.jsonl",
    "a link to a file": lambda inside, outside: _link(inside / "l.jsonl", outside / "x.jsonl"),
    "a link to a folder": lambda inside, outside: _link(inside / "l", outside) / "x.jsonl",
    "a link to a link": lambda inside, outside: _link(
        inside / "l2", _link(inside / "l1", outside / "x.jsonl")
    ),
    "a link with a step up": lambda inside, outside: _link(
        inside / "l", Path("..") / outside.name / "x.jsonl"
    ),
    "a link through /proc": lambda inside, outside: Path(f"/proc/self/root{outside}/x.jsonl"),
    "a relative path": lambda inside, outside: Path("x.jsonl"),
}


def _link(at: Path, to: Path) -> Path:
    at.symlink_to(to)
    return at


@pytest.mark.parametrize("name", LINKS)
def test_what_leads_out_of_the_roots_is_not_opened(places: tuple[Path, Path], name: str) -> None:
    inside, outside = places
    path = LINKS[name](inside, outside)
    with pytest.raises(roots.OutsideError):
        roots.opened(path, [str(inside)])
    with pytest.raises(TrainerError):
        open_source(Source(path=str(path)), [str(inside)])


def test_a_link_turned_between_the_look_and_the_use_is_noticed(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by somebody who may write below the root and wins the race."""
    inside, outside = places
    (inside / "sub").mkdir()
    (inside / "sub" / "x.jsonl").write_text("")
    look = roots.resolved

    def look_then_turn(path: str | Path, allowed: list[str] | None) -> Path:
        found = look(path, allowed)
        (inside / "sub" / "x.jsonl").unlink()
        (inside / "sub").rmdir()
        (inside / "sub").symlink_to(outside)
        return found

    monkeypatch.setattr(roots, "resolved", look_then_turn)
    with pytest.raises(roots.OutsideError):
        roots.opened(inside / "sub" / "x.jsonl", [str(inside)])


def test_a_pipe_in_place_of_a_file_holds_nobody_up(places: tuple[Path, Path]) -> None:
    inside, _ = places
    os.mkfifo(inside / "pipe")
    with roots.opened(inside / "pipe", [str(inside)]) as stream:
        assert stream.read() == b""


def test_a_folder_from_which_a_link_leads_out_is_refused(places: tuple[Path, Path]) -> None:
    inside, outside = places
    (inside / "model").mkdir()
    assert roots.folder(inside / "model", [str(inside)]) == inside / "model"
    (inside / "model" / "config.json").symlink_to(outside / "x.jsonl")
    with pytest.raises(roots.OutsideError, match="leads out"):
        check_model(str(inside / "model"), roots=[str(inside)])


def test_a_hub_id_is_not_a_folder_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TrainerError, match="neither an existing folder nor a hub id"):
        check_model("org/name", roots=[])


def test_a_template_outside_of_the_roots_is_not_read(places: tuple[Path, Path]) -> None:
    inside, outside = places
    with pytest.raises(roots.OutsideError):
        load_tokenizer(inside, str(outside / "x.jsonl"), roots=[str(inside)])


def test_without_roots_anything_is_opened(places: tuple[Path, Path]) -> None:
    _, outside = places
    with roots.opened(outside / "x.jsonl", None) as stream:
        assert stream.read()
