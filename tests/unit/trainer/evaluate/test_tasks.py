"""Mistakes in benchmarks and judge, told before a run, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.harness_tasks import write_harness_tasks
from tests.fixtures.tiny_model import write_jsonl
from trainer.config import TrainConfig
from trainer.evaluate import problems

QUESTION = {"question_id": 1, "category": "math", "turns": ["2 + 2?"]}


def config(**fields: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": "somewhere",
            "data": {"train": [{"path": "train.jsonl"}]},
            "output_dir": "out",
            "learning_rate": 1e-3,
            "effective_batch_size": 4,
            **fields,
        }
    )


def harness(*tasks: str, **fields: Any) -> list[tuple[str, str]]:
    return problems(config(lm_eval={"tasks": tasks, **fields}))


def only(found: list[tuple[str, str]]) -> tuple[str, str]:
    assert len(found) == 1, found
    return found[0]


def test_known_tasks_groups_and_tags_are_accepted() -> None:
    assert harness("mmlu", "arc_challenge", "gsm8k", "leaderboard_bbh", "leaderboard_musr") == []
    assert harness("ai2_arc") == []


def test_without_benchmarks_and_judge_nothing_is_wrong() -> None:
    assert problems(config()) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("arc_chalenge", "arc_challenge"), ("GSM8K", "gsm8k"), ("mmlu_astronmy", "mmlu_astronomy")],
)
def test_an_unknown_task_is_named_with_close_ones(name: str, near: str) -> None:
    pointer, message = only(harness("gsm8k_cot", name))
    assert pointer == "/lm_eval/tasks/1"
    assert f"unknown task '{name}'" in message
    assert near in message.split("did you mean")[1]


def test_an_unknown_task_unlike_any_other(tmp_path: Path) -> None:
    _, message = only(harness("qqqqqqqqqqq"))
    assert "did you mean" not in message
    assert "include_path" in message


def test_a_task_that_is_asked_for_twice(tmp_path: Path) -> None:
    pointer, message = only(harness("mmlu", "mmlu_astronomy"))
    assert pointer == "/lm_eval/tasks/1"
    assert message == "task mmlu_astronomy is in both mmlu and mmlu_astronomy; name it once"


def test_tasks_that_run_code_or_need_eyes_are_refused() -> None:
    assert "runs code that the model writes" in only(harness("humaneval"))[1]


def test_tasks_of_a_folder_are_known(tmp_path: Path) -> None:
    folder = str(write_harness_tasks(tmp_path / "tasks"))
    assert harness("tiny_all", "tiny_text", "gsm8k", include_path=folder) == []
    assert "did you mean tiny_" in only(harness("tiny_tex", include_path=folder))[1]
    message = only(harness("text.yaml", include_path=folder))[1]
    assert "give the name that stands in it" in message


def test_a_folder_that_is_not_there_or_empty(tmp_path: Path) -> None:
    pointer, message = only(harness("gsm8k", include_path=str(tmp_path / "no")))
    assert (pointer, message) == (
        "/lm_eval/include_path",
        f"{tmp_path / 'no'} is not a folder; check the path",
    )
    assert "holds no task file" in only(harness("gsm8k", include_path=str(tmp_path)))[1]


def test_a_broken_task_file_is_told_with_its_line(tmp_path: Path) -> None:
    folder = write_harness_tasks(tmp_path / "tasks")
    (folder / "broken.yaml").write_text("task: broken\nmetric_list: [\ndoc: {a\n")
    pointer, message = only(harness("tiny_sums", include_path=str(folder)))
    assert pointer == "/lm_eval/include_path"
    assert f"{folder / 'broken.yaml'}, line " in message


@pytest.mark.parametrize("name", ["tiny_sums", "tiny_all"])
def test_missing_local_data_is_told_with_where_it_was_looked_for(tmp_path: Path, name: str) -> None:
    folder = write_harness_tasks(tmp_path / "tasks")
    (folder / "sums.jsonl").unlink()
    pointer, message = only(harness("tiny_text", name, include_path=str(folder)))
    assert pointer == "/lm_eval/tasks/1"
    assert "task tiny_sums" in message
    assert "sums.jsonl, which doesn't exist" in message
    assert str(folder) in message


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("dataset_path: ./no_such_folder", True),
        ("dataset_path: org/name", False),
        ("dataset_path: json\ndataset_kwargs: {data_files: 'hf://org/x.json'}", False),
        ("dataset_path: csv\ndataset_kwargs: {data_files: {test: [a.csv, no.csv]}}", True),
        ("dataset_path: csv\ndataset_kwargs: {data_files: '*.csv'}", False),
        ("dataset_path: parquet\ndataset_kwargs: {data_dir: nowhere}", True),
    ],
)
def test_data_is_looked_for_only_where_it_is_local(
    tmp_path: Path, source: str, missing: bool
) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "one.yaml").write_text(f"task: one\n{source}\n")
    assert bool(harness("one", include_path=str(tmp_path))) == missing


def test_without_a_network_data_must_be_in_the_cache(tmp_path: Path) -> None:
    wanted = config(lm_eval={"tasks": ("gsm8k", "mmlu")})
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    found = problems(wanted, environment)
    assert [pointer for pointer, _ in found] == ["/lm_eval/tasks/0", "/lm_eval/tasks/1"]
    assert "gsm8k, which is not in" in found[0][1]
    assert "HF_HUB_OFFLINE is set" in found[0][1]
    (tmp_path / "hub" / "datasets--cais--mmlu").mkdir(parents=True)
    (tmp_path / "datasets" / "openai___gsm8k").mkdir(parents=True)
    (tmp_path / "datasets" / "gsm8k").mkdir(parents=True)
    assert problems(wanted, environment) == []
    assert problems(wanted, {"HF_HOME": str(tmp_path / "empty")}) == [], "it can be downloaded"


# --- the judge --------------------------------------------------------------------------------


def judge(questions: Path, **fields: Any) -> TrainConfig:
    base = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "questions": str(questions)}
    return config(judge={**base, **fields})


def test_a_judge_that_can_be_used(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", [QUESTION])
    assert problems(judge(file)) == []
    assert problems(judge(file, api_key_env="KEY"), {"KEY": "secret"}) == []


def test_a_judge_without_questions_or_key(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", [QUESTION, {**QUESTION, "turns": []}])
    found = dict(problems(judge(file, api_key_env="KEY"), {"KEY": ""}))
    assert found["/judge/questions"].startswith(f"{file}, line 2: question_id 1") or found[
        "/judge/questions"
    ].startswith(f"{file}, line 2: turns")
    assert "KEY is not set" in found["/judge/api_key_env"]
    assert "no such file" in only(problems(judge(tmp_path / "no.jsonl")))[1]


# --- weight -----------------------------------------------------------------------------------


def test_looking_for_mistakes_imports_neither_torch_nor_the_harness(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", [QUESTION])
    both = judge(file).model_copy(update={"lm_eval": {"tasks": ("mmlu",)}})
    program = (
        "import sys, json\n"
        "from trainer.config import TrainConfig\n"
        "from trainer.evaluate import problems\n"
        "assert problems(TrainConfig.model_validate_json(sys.stdin.read())) == []\n"
        "print([m for m in ('torch', 'lm_eval', 'openai', 'transformers') if m in sys.modules])\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", program],
        input=both.model_dump_json(warnings=False),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[4],
        check=True,
    )
    assert made.stdout.strip() == "[]"
