"""The demo's instruction set: reproducible, disjoint, and right in every answer."""

from __future__ import annotations

import filecmp
import re
from collections import Counter
from pathlib import Path

import pytest

from .conftest import Sample, run_script


@pytest.fixture(scope="module")
def facts(pretraining_text: str) -> dict[str, dict[str, set[str]]]:
    """What the pretraining text states: relation -> who -> all values ever given."""
    forms = {
        "home": r"(\w+) lives in (\w+)\.",
        "job": r"(\w+) works as a (\w+)\.",
        "pet": r"(\w+) keeps a (\w+)\.",
        "colour": r"(\w+) has a (\w+) door\.",
        "food": r"(\w+) likes (\w+)\.",
        "friend": r"The friend of (\w+) is (\w+)\.",
        "river": r"(\w+) lies on the (\w+)\.",
        "market": r"(\w+) has a market on (\w+)\.",
        "flag": r"(\w+) has a (\w+) flag\.",
    }
    stated: dict[str, dict[str, set[str]]] = {}
    for relation, form in forms.items():
        for who, value in re.findall(form, pretraining_text):
            stated.setdefault(relation, {}).setdefault(who, set()).add(value)
    return stated


def test_shipped_data_is_what_the_generator_writes(examples: Path, tmp_path: Path) -> None:
    run_script("generate.py", "--out", tmp_path, "--seed", 0)
    shipped = sorted(p.name for p in (examples / "data").glob("*.jsonl"))
    assert shipped == sorted(p.name for p in tmp_path.iterdir())
    _, differing, missing = filecmp.cmpfiles(examples / "data", tmp_path, shipped, shallow=False)
    assert (differing, missing) == ([], [])


def test_another_seed_writes_other_samples(examples: Path, tmp_path: Path) -> None:
    run_script("generate.py", "--out", tmp_path, "--seed", 1)
    name = "phase10_skills.train.jsonl"
    assert (tmp_path / name).read_bytes() != (examples / "data" / name).read_bytes()


def test_no_prompt_occurs_twice(samples: list[Sample]) -> None:
    repeated = [p for p, n in Counter(s.prompt for s in samples).items() if n > 1]
    assert repeated == []


def test_no_exercise_is_in_two_splits_under_another_wording(samples: list[Sample]) -> None:
    """An exercise is its task and what it is about: the names, words and numbers of the prompt."""
    split_of: dict[tuple[str, tuple[str, ...]], str] = {}
    for s in samples:
        about = (s.task, tuple(_subject(s)))
        assert split_of.setdefault(about, s.split) == s.split, s


def test_splits_are_large_enough_to_judge_and_small_enough_to_be_quick(
    samples: list[Sample],
) -> None:
    assert Counter((s.split, s.phase) for s in samples) == {
        (split, phase): n
        for split, n in (("train", 1280), ("eval", 80), ("test", 100))
        for phase in (0, 5, 10)
    }


def test_every_split_has_every_task(samples: list[Sample]) -> None:
    tasks = {split: {s.task for s in samples if s.split == split} for split in ("train", "eval")}
    tasks["test"] = {s.task for s in samples if s.split == "test"}
    assert tasks["train"] == tasks["eval"] == tasks["test"]


def test_instructions_are_answered_correctly(samples: list[Sample]) -> None:
    for s in (s for s in samples if s.phase == 0):
        assert s.answer == _follow(s), s


def test_knowledge_agrees_with_the_text_the_base_model_reads(
    samples: list[Sample], facts: dict[str, dict[str, set[str]]]
) -> None:
    for s in (s for s in samples if s.phase == 5):
        (who,) = _subject(s)
        assert facts[s.task][who] == {s.answer}, s


def test_the_world_contradicts_itself_nowhere(facts: dict[str, dict[str, set[str]]]) -> None:
    for relation, values in facts.items():
        for who, given in values.items():
            assert len(given) == 1, (relation, who, given)
    for who, (friend,) in facts["friend"].items():
        assert friend != who
        assert facts["friend"][friend] == {who}


def test_chains_are_answered_through_both_facts(
    samples: list[Sample], facts: dict[str, dict[str, set[str]]]
) -> None:
    for s in (s for s in samples if s.phase == 10 and s.task.startswith(("friend-", "home-"))):
        link, relation = s.task.split("-")
        (who,) = _subject(s)
        (middle,) = facts[link][who]
        (value,) = facts[relation][middle]
        first, second, answer = re.fullmatch(r"(.+?)\. (.+?)\. Answer: (\w+)", s.answer).groups()  # pyright: ignore[reportOptionalMemberAccess]
        assert answer == value, s
        assert {who, middle} <= set(first.split()), s
        assert {middle, value} <= set(second.split()), s


def test_sums_are_answered_correctly_step_by_step(samples: list[Sample]) -> None:
    operations = {"add-subtract": "+-", "subtract-subtract": "--", "times-add": "*+"}
    for s in (s for s in samples if s.task in operations):
        a, b, c = map(int, re.findall(r"\d+", s.prompt))
        one, two = operations[s.task]
        middle = {"+": a + b, "-": a - b, "*": a * b}[one]
        result = {"+": middle + c, "-": middle - c}[two]
        assert result >= 0, s
        assert s.answer == (
            f"{a} {one} {b} = {middle}. {middle} {two} {c} = {result}. Answer: {result}"
        ), s


def test_pretraining_text_holds_no_exercise(samples: list[Sample], pretraining_text: str) -> None:
    assert len(pretraining_text) > 1_000_000
    leaked = [s.prompt for s in samples if s.prompt in pretraining_text]
    assert leaked == []


def test_pretraining_text_states_every_fact_that_is_asked(
    samples: list[Sample], facts: dict[str, dict[str, set[str]]]
) -> None:
    asked = {(s.task, *_subject(s)) for s in samples if s.phase == 5}
    stated = {(relation, who) for relation, values in facts.items() for who in values}
    assert asked <= stated


def _subject(s: Sample) -> list[str]:
    """The words of a list, the numbers and names of a story, or whom a question is about."""
    if s.phase == 0:
        return re.split(r": |\? ", s.prompt, maxsplit=1)[1].split()
    if s.phase == 10 and re.search(r"\d", s.prompt):
        return re.findall(r"\b[A-Z]\w+|\d+", s.prompt)
    question = re.split(r"(?<=[?.]) ", s.prompt)[0]
    return re.findall(r" ([A-Z]\w+)", question)


def _follow(s: Sample) -> str:
    words = _subject(s)
    match s.task:
        case "repeat":
            return " ".join(words)
        case "reverse":
            return " ".join(words[::-1])
        case "first":
            return words[0]
        case "last":
            return words[-1]
        case "count":
            return str(len(words))
        case "sort":
            return " ".join(sorted(words))
        case "drop-first":
            return " ".join(words[1:])
        case "commas":
            return ", ".join(words)
        case "upper":
            return " ".join(words).upper()
        case "letters":
            return " ".join(str(len(w)) for w in words)
    raise AssertionError(f"no check for {s.task}")
