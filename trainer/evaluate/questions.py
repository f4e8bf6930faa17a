"""The judge's questions: a JSONL file in MT-Bench's format, checked line by line.

{"question_id": 81, "category": "writing", "turns": ["Write …", "Now rewrite …"]}
{"question_id": 111, "category": "math", "turns": ["…", "…"], "reference": ["…", "…"]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import roots as confined
from trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Question:
    """One or two turns of a user, and what a good answer to each says, where that is known."""

    id: str
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()


def read_questions(path: Path, roots: Sequence[str] | None = None) -> list[Question]:
    """The questions of a file.

    Args:
        path: the file.
        roots: folders below which it has to lie; None: anywhere.

    Raises:
        DataError: the file is missing or empty, or a line is malformed.
        OutsideError: it lies outside of `roots`.
    """
    if not confined.resolved(path, roots).is_file():
        raise DataError("no such file; it holds the judge's questions", path)
    questions: list[Question] = []
    lines: dict[str, int] = {}
    with confined.opened(path, roots) as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.strip():
                continue
            question = _parse(raw, path, number)
            if question.id in lines:
                raise DataError(
                    f"question_id {question.id} is already that of line {lines[question.id]}",
                    path,
                    number,
                )
            lines[question.id] = number
            questions.append(question)
    if not questions:
        raise DataError("the file is empty; it needs one question a line", path)
    return questions


def _parse(raw: bytes, path: Path, number: int) -> Question:
    try:
        value: Any = json.loads(raw)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text ({error.reason})", path, number) from None
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", path, number) from None
    if not isinstance(value, dict):
        raise DataError('not a JSON object; write {"question_id": …}', path, number)
    identity = value.get("question_id")
    if isinstance(identity, bool) or not isinstance(identity, int | str) or identity == "":
        raise DataError("question_id is missing; give each question a number", path, number)
    category = value.get("category")
    if not isinstance(category, str) or not category:
        raise DataError('category is missing; give it a word such as "math"', path, number)
    turns = _texts(value.get("turns"))
    if not 1 <= len(turns) <= 2:
        raise DataError("turns must be a list of one or two texts", path, number)
    reference: tuple[str, ...] = ()
    if value.get("reference"):  # null, "" and [] are how files say that there is none
        reference = _texts(value["reference"])
        if len(reference) != len(turns):
            raise DataError(
                f"reference must be a list of {len(turns)} texts, one a turn", path, number
            )
    return Question(str(identity), category, turns, reference)


def _texts(value: Any) -> tuple[str, ...]:
    """The texts of a list; () if it is anything else, or one of them is empty."""
    if not isinstance(value, list):
        return ()
    texts = tuple(text for text in value if isinstance(text, str) and text.strip())
    return texts if len(texts) == len(value) else ()
