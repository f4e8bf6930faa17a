"""Judging through a real client and a server of its kind: grades, retries, junk, a judge lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.judge_server import JudgeServer, Reply, judge_server
from tests.fixtures.tiny_model import write_jsonl
from tests.integration.evaluate.conftest import Parts
from trainer.config import Judge
from trainer.errors import ConfigError, TrainerError
from trainer.evaluate import Evaluator, Interrupted
from trainer.evaluate.grader import parse_rating
from trainer.metrics import Evaluation

pytestmark = pytest.mark.deepspeed

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Again, shorter."]},
    {
        "question_id": 101,
        "category": "math",
        "turns": ["2 + 2?", "And 3?"],
        "reference": ["4", "7"],
    },
    {"question_id": 121, "category": "math", "turns": ["5 + 5?"], "reference": None},
]


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with judge_server() as server:
        yield server


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "questions.jsonl", QUESTIONS)


def settings(judge: JudgeServer, questions: Path, **fields: Any) -> Judge:
    values = {"model": "judge-1", "questions": str(questions), "timeout": 20.0, **fields}
    return Judge.model_validate({"base_url": judge.base_url, **values})


def judged(parts: Parts, wanted: Judge, output: Path | None = None, **more: Any) -> Evaluation:
    one = Evaluator(parts.loss, parts.tokenizer, cap=512, packed=True, output=output)
    return one.judged(wanted, step=5, seen=40, **more)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.evaluate.judge.ANSWER_TOKENS", 6)


def test_each_turn_is_graded_and_averaged(
    parts: Parts, judge: JudgeServer, questions: Path, tmp_path: Path
) -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        asked = body["messages"][1]["content"]
        rating = 3 if "Write a line" in asked else 9 if "5 + 5" in asked else 6
        second = "first question]" in asked
        return Reply(f"I explain.\n\nRating: [[{rating - second}]]")

    judge.answer = answer
    found = judged(parts, settings(judge, questions), tmp_path)
    assert (found.split, found.dataset, found.step, found.samples) == ("judge", "mt_bench", 5, 40)
    assert found.scores == {
        "score": pytest.approx((3 + 2 + 6 + 5 + 9) / 5),
        "turn_1": pytest.approx((3 + 6 + 9) / 3),
        "turn_2": pytest.approx((2 + 5) / 2),
        "category/math": pytest.approx((6 + 5 + 9) / 3),
        "category/writing": pytest.approx(2.5),
        "unparsed": 0.0,
    }
    assert found.generated == 5
    assert parts.loss.training

    lines = (tmp_path / "judgments" / "mt_bench-step-5.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["question_id"], row["turn"]) for row in rows] == [
        ("81", 1),
        ("81", 2),
        ("101", 1),
        ("101", 2),
        ("121", 1),
    ]
    assert [row["rating"] for row in rows] == [3, 2, 6, 5, 9]
    assert rows[3]["question"] == "And 3?"
    assert rows[3]["reference"] == "7"
    assert rows[0]["judgment"].startswith("I explain.")


def test_the_judge_sees_questions_answers_and_references(
    parts: Parts, judge: JudgeServer, questions: Path, tmp_path: Path
) -> None:
    judged(parts, settings(judge, questions, concurrency=1), tmp_path)
    lines = (tmp_path / "judgments" / "mt_bench-step-5.jsonl").read_text().splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    write, again, two, three, five = judge.prompts()
    assert "Write a line." in write
    assert "Again" not in write
    assert "Reference" not in write
    assert "Write a line." in again
    assert "Again, shorter." in again
    assert "[Reference answer]\n4\n" in two
    assert "[Reference answer]\n4\n" in three
    assert "[Reference answer]\n7\n" in three
    assert "Reference" not in five
    for prompt, answer in zip(judge.prompts(), answers, strict=True):
        assert answer.strip() in prompt
        assert "[[5]]" in prompt, "the form of the rating is asked for"
    assert {body["model"] for body in judge.bodies} == {"judge-1"}
    assert {body["temperature"] for body in judge.bodies} == {0.0}


def test_the_second_turn_is_answered_with_the_first_in_sight(
    parts: Parts, judge: JudgeServer, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.evaluate import judge as judge_module

    prompts: list[str] = []
    real = judge_module.greedy

    def spy(model: Any, asked: Any, **settings: Any) -> Any:
        prompts.extend(parts.tokenizer.decode(prompt) for prompt in asked)
        return real(model, asked, **settings)

    monkeypatch.setattr(judge_module, "greedy", spy)
    judged(parts, settings(judge, questions))
    assert sorted(prompt.count("<|user|>") for prompt in prompts) == [1, 1, 1, 2, 2]
    assert all(prompt.endswith("<|assistant|>") for prompt in prompts)
    (second,) = [prompt for prompt in prompts if "Again" in prompt]
    assert second.startswith("<|user|>Write a line.\n<|assistant|>")


def test_the_key_comes_from_the_environment_and_none_is_sent_that_was_not_named(
    parts: Parts, judge: JudgeServer, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-someone-else")
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    judged(parts, settings(judge, questions, api_key_env="JUDGE_KEY"))
    assert set(judge.keys) == {"Bearer secret-key"}
    judge.keys.clear()
    judged(parts, settings(judge, questions))
    assert "of-someone-else" not in " ".join(judge.keys)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set") as error:
        judged(parts, settings(judge, questions, api_key_env="JUDGE_KEY"))
    assert error.value.pointer == "/judge/api_key_env"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_judge_that_stumbles_is_asked_again(
    parts: Parts, judge: JudgeServer, questions: Path, status: int
) -> None:
    judge.answer = lambda body, number: Reply("busy", status) if number % 3 < 2 else Reply()
    found = judged(parts, settings(judge, questions, concurrency=1))
    assert (found.scores["score"], found.scores["unparsed"]) == (7.0, 0.0)
    assert len(judge.bodies) == 3 * 5


def test_a_reply_without_a_rating_is_asked_for_again_then_counted_and_left_out(
    parts: Parts, judge: JudgeServer, questions: Path, tmp_path: Path
) -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        asked = body["messages"][1]["content"]
        if "5 + 5" in asked:
            return Reply("I would rather not say.")
        if "2 + 2" in asked and len(body["messages"]) == 2:
            return Reply(raw=b'{"object": "chat.completion", "choices": []}')
        return Reply("[[4]]")

    judge.answer = answer
    found = judged(parts, settings(judge, questions), tmp_path)
    assert found.scores["unparsed"] == 1.0
    assert found.scores["score"] == 4.0
    assert sum("5 + 5" in prompt for prompt in judge.prompts()) == 3
    lines = (tmp_path / "judgments" / "mt_bench-step-5.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert (last["rating"], last["error"]) == (None, "the judge's reply has no rating")
    assert last["judgment"] == "I would rather not say."


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply("overloaded", 500), "HTTP 500: .*overloaded"),
        (Reply("no number"), "the judge's reply has no rating"),
        (Reply(raw=b"<html>gateway</html>"), "the judge's reply is empty or junk"),
        (Reply(hang=True), "no reply within the time limit"),
    ],
    ids=["status", "junk", "html", "silence"],
)
def test_a_judge_that_fails_too_often_ends_the_evaluation_with_its_words(
    parts: Parts, judge: JudgeServer, questions: Path, tmp_path: Path, reply: Reply, message: str
) -> None:
    judge.answer = lambda body, number: reply
    wanted = settings(judge, questions, timeout=0.2 if reply.hang else 20.0, concurrency=2)
    with pytest.raises(TrainerError, match=rf"judge judge-1: 2 of 5 judgments.*{message}"):
        judged(parts, wanted, tmp_path)
    assert (tmp_path / "judgments" / "mt_bench-step-5.jsonl").read_text().count("\n") == 2
    assert parts.loss.training


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_judge_that_refuses_is_not_asked_again(
    parts: Parts, judge: JudgeServer, questions: Path, status: int
) -> None:
    judge.answer = lambda body, number: Reply("no such model", status)
    with pytest.raises(TrainerError, match=f"refuses: HTTP {status}: .*no such model.*check"):
        judged(parts, settings(judge, questions, concurrency=1))
    assert len(judge.bodies) <= 2


def test_a_judge_that_is_not_there(parts: Parts, questions: Path) -> None:
    with judge_server() as server:
        gone = settings(server, questions)
    with pytest.raises(TrainerError, match=r"2 of 5 judgments failed.*Connection error"):
        judged(parts, gone)


def test_a_judge_with_a_fixed_temperature_is_asked_without_one(
    parts: Parts, judge: JudgeServer, questions: Path
) -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        if "temperature" in body:
            return Reply("Unsupported value: 'temperature' does not support 0.0", 400)
        return Reply("[[8]]")

    judge.answer = answer
    assert judged(parts, settings(judge, questions)).scores["score"] == 8.0


def test_no_more_judgments_run_at_once_than_allowed(
    parts: Parts, judge: JudgeServer, questions: Path
) -> None:
    both = threading.Barrier(2)

    def answer(body: dict[str, Any], number: int) -> Reply:
        if number < 4:
            both.wait(120)
        return Reply()

    judge.answer = answer
    judged(parts, settings(judge, questions, concurrency=2))
    assert judge.most_at_once == 2


def test_the_user_is_heard_while_the_judge_thinks(
    parts: Parts, judge: JudgeServer, questions: Path
) -> None:
    thought = threading.Event()

    def answer(body: dict[str, Any], number: int) -> Reply:
        thought.wait(60)
        return Reply()

    judge.answer = answer
    with pytest.raises(Interrupted) as heard:
        judged(
            parts,
            settings(judge, questions, concurrency=1),
            control=lambda: "pause" if judge.bodies else "go",
        )
    assert heard.value.verdict == "pause"
    thought.set()
    for thread in threading.enumerate():
        if thread.name.startswith(("judge", "evaluate-meanwhile")):
            thread.join(60)
    assert len(judge.bodies) == 1, "no more is asked for"


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Fine. [[7]]", 7),
        ("[[ 8.5 ]]", 8.5),
        ("Not [[3]] but [[6]].", 6),
        ("Rating: [[10]]", 10),
        ("[[rating: 4]]", 4),
        ("[[9/10]]", 9),
        ("**Rating: 5**", 5),
        ("Overall rating is 7 out of 10.", 7),
        ("I give it 6/10.", 6),
        ("[8]", 8),
        ("5", 5),
        ("<think>[[2]] at first</think>It is [[9]]", 9),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[100]]", None),
        ("[[rating]]", None),
        ("There are 3 mistakes.", None),
        ("", None),
    ],
)
def test_ratings_are_read_from_what_judges_write(reply: str, rating: float | None) -> None:
    assert parse_rating(reply) == rating
