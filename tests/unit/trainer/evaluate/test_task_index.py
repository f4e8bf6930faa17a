"""Names of benchmarks: those that the harness finds itself, and those of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.harness_tasks import write_harness_tasks
from trainer.evaluate.task_index import (
    folder_index,
    harness_tasks,
    read_index,
    read_task,
    task_names,
)


@pytest.mark.parametrize(
    "folder", ["mmlu", "arc", "gsm8k", "leaderboard", "bbh", "scrolls", "acpbench", "wikitext"]
)
def test_names_kinds_and_tags_are_those_that_the_harness_finds(folder: str) -> None:
    from lm_eval.tasks._index import Kind, TaskIndex

    own = harness_tasks()
    assert own is not None
    theirs = TaskIndex.build([own / folder])
    kinds = {Kind.TASK: "task", Kind.PY_TASK: "python", Kind.GROUP: "group", Kind.TAG: "tag"}
    assert theirs
    assert {
        name: (entry.kind, entry.file, entry.members if entry.kind == "tag" else None)
        for name, entry in folder_index(own / folder).items()
    } == {
        name: (kinds[e.kind], e.yaml_path, e.tags if e.kind is Kind.TAG else None)
        for name, e in theirs.items()
    }


def test_groups_and_tags_are_followed_to_their_tasks() -> None:
    index = read_index()
    assert len(task_names(index, "mmlu")) == 57
    assert task_names(index, "mmlu") >= {"mmlu_astronomy", "mmlu_world_religions"}
    assert task_names(index, "ai2_arc") == {"arc_challenge", "arc_easy"}
    assert task_names(index, "gsm8k") == {"gsm8k"}
    assert task_names(index, "no_such_task") == set()


def test_a_folders_tasks_come_before_the_harnesss_own(tmp_path: Path) -> None:
    folder = write_harness_tasks(tmp_path / "tasks")
    (folder / "sub").mkdir()
    (folder / "sub" / "own.yaml").write_text("task: gsm8k\ntag: [mine, yours]\n")
    index = read_index(folder)
    assert index["gsm8k"].file == folder / "sub" / "own.yaml"
    assert task_names(index, "mine") == {"gsm8k"}
    assert task_names(index, "tiny_all") == {"tiny_choice", "tiny_sums"}
    assert read_index()["gsm8k"].file != index["gsm8k"].file


def test_a_task_file_is_read_with_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "base.txt").write_text("output_type: multiple_choice\ntask: base\ntag: shared\n")
    (tmp_path / "one.yaml").write_text(
        "include: base.txt\ntask: 'one'\ndoc_to_text: !function utils.text\n"
    )
    assert read_task(tmp_path / "one.yaml") == {
        "output_type": "multiple_choice",
        "task": "one",
        "tag": "shared",
        "doc_to_text": "utils.text",
    }
    assert task_names(folder_index(tmp_path), "shared") == {"one"}


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("include: one.yaml\ntask: one\n")
    with pytest.raises(ValueError, match="includes itself"):
        read_task(tmp_path / "one.yaml")
    assert set(folder_index(tmp_path)) <= {"one"}
