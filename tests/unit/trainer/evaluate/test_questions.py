"""The judge's questions: what is accepted, and mistakes told with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.tiny_model import write_jsonl
from trainer.errors import DataError
from trainer.evaluate.questions import Question, read_questions

GOOD: dict[str, Any] = {"question_id": 1, "category": "math", "turns": ["2 + 2?"]}


def test_mt_benchs_own_lines_are_read(tmp_path: Path) -> None:
    file = write_jsonl(
        tmp_path / "question.jsonl",
        [
            {"question_id": 81, "category": "writing", "turns": ["One", "Two"]},
            {"question_id": 111, "category": "math", "turns": ["A", "B"], "reference": ["a", "b"]},
            "",
            {"question_id": "own-1", "category": "coding", "turns": ["C"], "reference": []},
        ],
    )
    assert read_questions(file) == [
        Question("81", "writing", ("One", "Two")),
        Question("111", "math", ("A", "B"), ("a", "b")),
        Question("own-1", "coding", ("C",)),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{not json", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ({**GOOD, "question_id": None}, "question_id is missing"),
        ({**GOOD, "question_id": True}, "question_id is missing"),
        ({**GOOD, "category": ""}, "category is missing"),
        ({**GOOD, "turns": []}, "turns must be a list of one or two texts"),
        ({**GOOD, "turns": ["a", "b", "c"]}, "turns must be a list of one or two texts"),
        ({**GOOD, "turns": "2 + 2?"}, "turns must be a list of one or two texts"),
        ({**GOOD, "turns": ["a", " "]}, "turns must be a list of one or two texts"),
        ({**GOOD, "reference": ["4", "5"]}, "reference must be a list of 1 texts"),
        ({**GOOD, "reference": "4"}, "reference must be a list of 1 texts"),
        ({**GOOD, "question_id": 7}, "question_id 7 is already that of line 1"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, line: Any, words: str) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", [{**GOOD, "question_id": 7}, line])
    with pytest.raises(DataError, match=words) as error:
        read_questions(file)
    assert (error.value.path, error.value.line) == (str(file), 2)


def test_a_file_that_is_missing_or_empty_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="the file is empty"):
        read_questions(tmp_path / "empty.jsonl")


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'{"question_id": 1, "category": "\xff", "turns": ["a"]}\n')
    with pytest.raises(DataError, match="not UTF-8") as error:
        read_questions(tmp_path / "q.jsonl")
    assert error.value.line == 1
