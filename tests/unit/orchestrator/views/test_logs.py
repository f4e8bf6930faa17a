"""Logs are read piece by piece: by position, by text, whatever is in them and however long."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.views.logs import LONGEST, Source, of_trial, read


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source("rank 0", tmp_path / "rank-0.log")


def texts(source: Source, **wanted: str | int) -> list[str]:
    return [line.text for line in read(source, **wanted).items]  # type: ignore[arg-type]


def test_a_line_of_megabytes_hides_nothing_that_comes_after_it(source: Source) -> None:
    source.path.write_bytes(b"before\n" + b"x" * 200_000 + b"\nafter\n")
    found = read(source)
    assert [t for t in texts(source) if "x" not in t] == ["before", "after"]
    assert max(len(line.text) for line in found.items) <= LONGEST + 2
    # Who reads on from a position comes past it as well.
    position, seen = found.items[0].position, []
    while page := read(source, tail=1, since=position).items:
        position = page[0].position
        seen.append(page[0].text)
    assert seen[-1] == "after"


def test_a_line_is_told_once_it_has_ended(source: Source) -> None:
    source.path.write_bytes(b"one\nhal")
    page = read(source)
    assert [line.text for line in page.items] == ["one"]
    with source.path.open("ab") as log:
        log.write(b"f\n")
    assert texts(source, since=page.position or "") == ["half"]


def test_a_search_does_not_mind_capitals(source: Source) -> None:
    source.path.write_text("ERROR: out of Memory\nfine\n")
    assert texts(source, search="error: OUT") == ["ERROR: out of Memory"]


def test_a_position_in_a_file_that_is_gone_is_the_logs_start(source: Source) -> None:
    source.path.write_text("gone\n")
    position = read(source).position
    assert position is not None
    # Made beside it, so that it can't have the number of the one that goes.
    other = source.path.with_name("other")
    other.write_text("one\ntwo\nthree\n")
    other.replace(source.path)
    page = read(source, since=position)
    assert ([line.text for line in page.items], page.truncated) == (["one", "two", "three"], True)


def test_the_latest_attempt_is_shown_unless_one_is_named(tmp_path: Path) -> None:
    for attempt in (1, 2, 10):
        log = tmp_path / f"sweeps/abc/trial-3/attempt-{attempt}/logs/rank-0.log"
        log.parent.mkdir(parents=True)
        log.write_text(f"attempt {attempt}\n")
    latest, second = (of_trial(tmp_path, "abc", 3, attempt=number) for number in (None, 2))
    assert latest is not None
    assert second is not None
    assert (texts(latest), texts(second)) == (["attempt 10"], ["attempt 2"])
    assert of_trial(tmp_path, "abc", 3, rank=1) is None
