"""Evaluation on two ranks: the figures of one rank, one wish stops both, no rank left waiting.

Run by itself, this file is a rank's program: it makes each evaluation that is listed in a JSON file
in turn, in one process group, and writes what came of it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.harness_tasks import write_harness_tasks
from tests.fixtures.judge_server import Reply, judge_server
from tests.fixtures.ranks import run_ranks_well
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl

pytestmark = pytest.mark.deepspeed

QUESTIONS = [
    {
        "question_id": n,
        "category": "math",
        "turns": [f"What is {n} + 1?", "And twice that?"][: n % 3],
    }
    for n in range(1, 6)
    if n % 3
]


def act(scenario: dict[str, Any]) -> dict[str, Any]:
    """One run that only evaluates; its last report. On every rank."""
    import trainer.evaluate.evaluator as module
    from trainer import engine
    from trainer.config import TrainConfig
    from trainer.loop import Run

    config = TrainConfig.model_validate(scenario["config"])
    mine = scenario.get("rank") == engine.rank()
    asked = 0

    def control() -> Any:
        nonlocal asked
        asked += 1
        return "stop" if mine and asked > scenario.get("after", 10**9) else "go"

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("no words come to this rank")

    run = Run(config)
    real = module.greedy
    if scenario.get("fail") and mine:
        module.greedy = fail
    try:
        batches = [run.advance(100.0, control)]
        while batches[-1].status == "running":
            batches.append(run.advance(100.0, control))
    finally:
        module.greedy = real
        run.close()
    found = [asdict(one) for batch in batches for one in batch.evaluations]
    for one in found:
        del one["seconds"]
    failure = batches[-1].failure
    return {
        "status": batches[-1].status,
        "evaluations": found,
        "failure": asdict(failure) if failure is not None else None,
    }


def rank_main(scenarios: Path) -> None:
    import torch
    from datasets import config as datasets_config

    import trainer.evaluate.judge
    from trainer import engine

    trainer.evaluate.judge.ANSWER_TOKENS = 6
    torch.set_num_threads(1)
    datasets_config.HF_DATASETS_CACHE = scenarios.parent / "datasets"
    rank = int(os.environ["RANK"])
    engine.join(
        rank,
        int(os.environ["WORLD_SIZE"]),
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        int(os.environ["LOCAL_RANK"]),
    )
    results = {name: act(scenario) for name, scenario in json.loads(scenarios.read_text()).items()}
    scenarios.with_suffix(f".rank{rank}.json").write_text(json.dumps(results))
    engine.leave()


def launch(folder: Path, ranks: int, scenarios: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of the scenarios by rank."""
    file = folder / f"on-{ranks}.json"
    file.write_text(json.dumps(scenarios))
    run_ranks_well(__file__, file, ranks=ranks)
    return [json.loads(file.with_suffix(f".rank{rank}.json").read_text()) for rank in range(ranks)]


def half_right(model_folder: Path, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples; every other one has the model's own greedy answer as its reference."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder)
    for sample in samples[::2]:
        asked = tokenizer.apply_chat_template(
            sample["messages"][:1],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        made = model.generate(**asked, do_sample=False, max_new_tokens=4)[0]
        answer = tokenizer.decode(made[asked["input_ids"].shape[1] :], skip_special_tokens=True)
        sample["messages"][1]["content"] = answer
    return samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate-ranks")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """By number of ranks, then by rank, then by scenario."""
    model = make_tiny_model(folder / "model")
    train = write_jsonl(folder / "train.jsonl", sums(20))
    held = write_jsonl(folder / "eval.jsonl", half_right(model, sums(13, seed=1)))
    general = write_jsonl(folder / "general.jsonl", sums(5, seed=2))
    tasks = write_harness_tasks(folder / "tasks", documents=5)
    questions = write_jsonl(folder / "questions.jsonl", QUESTIONS)

    def config(name: str, **fields: Any) -> dict[str, Any]:
        return {
            "model": str(model),
            "data": {
                "train": [{"path": str(train)}],
                "eval": [{"path": str(held), "name": "sums"}],
                "general": [{"path": str(general), "name": "plain"}],
                "cache_dir": str(folder / f"cache-{name}"),
            },
            "output_dir": str(folder / name),
            "learning_rate": 3e-3,
            "effective_batch_size": 4,
            "max_samples": 0,
            "max_tokens_per_microbatch": 64,
            "max_new_tokens": 4,
            "export": False,
            **fields,
        }

    with judge_server() as judge:
        judge.answer = lambda body, number: Reply(f"[[{1 + len(str(body)) % 10}]]")
        benchmarks = {
            # limit 1: fewer documents than ranks
            "lm_eval": {"tasks": ["tiny_all", "tiny_text"], "include_path": str(tasks)},
            "judge": {"base_url": judge.base_url, "model": "j", "questions": str(questions)},
        }
        scarce = {"lm_eval": {"tasks": ["tiny_sums"], "include_path": str(tasks), "limit": 1}}

        def alike(ranks: int) -> dict[str, Any]:
            return {
                "zero-1": {"config": config(f"one-{ranks}", **benchmarks)},
                "zero-3": {"config": config(f"three-{ranks}", zero_stage=3, **benchmarks)},
                "scarce": {"config": config(f"scarce-{ranks}", **scarce)},
            }

        one = launch(folder, 1, alike(1))
        only_two = {
            "stopped": {"config": config("stopped", **benchmarks), "rank": 1, "after": 12},
            "failed": {"config": config("failed"), "rank": 1, "fail": True},
            "after": {"config": config("after")},
        }
        two = launch(folder, 2, {**alike(2), **only_two})
    return {1: one, 2: two}


@pytest.mark.parametrize("stage", ["zero-1", "zero-3"])
def test_every_figure_is_that_of_one_rank(
    results: dict[int, list[dict[str, Any]]], stage: str
) -> None:
    expected = results[1][0]["zero-1"]["evaluations"]
    kinds = [(one["split"], one["dataset"]) for one in expected]
    assert kinds == [
        ("eval", "sums"),
        ("general", "plain"),
        ("lm_eval", "tiny_choice"),
        ("lm_eval", "tiny_sums"),
        ("lm_eval", "tiny_text"),
        ("lm_eval", "tiny_all"),
        ("judge", "mt_bench"),
    ]
    for ranks in (1, 2):
        for rank in range(ranks):
            found = results[ranks][rank][stage]
            assert found["status"] == "completed", found["failure"]
            assert len(found["evaluations"]) == len(expected)
            for one, other in zip(expected, found["evaluations"], strict=True):
                assert other == {
                    **one,
                    "loss": one["loss"] and pytest.approx(one["loss"], rel=1e-5),
                    "scores": pytest.approx(one["scores"], rel=1e-5),
                }


def test_answers_are_compared_and_kept_once(
    results: dict[int, list[dict[str, Any]]], folder: Path
) -> None:
    (found,) = [e for e in results[2][0]["zero-1"]["evaluations"] if e["split"] == "eval"]
    assert (found["exact_match"], found["generated"]) == (pytest.approx(7 / 13), 13)
    kept = [
        (folder / name / "generations" / "eval-sums-step-0.jsonl").read_text()
        for name in ("one-1", "one-2", "three-2")
    ]
    assert kept[0] == kept[1] == kept[2]
    assert [json.loads(line)["sample"] for line in kept[0].splitlines()] == list(range(13))


def test_each_question_is_judged_once(folder: Path) -> None:
    turns = sum(len(question["turns"]) for question in QUESTIONS)
    kept = [
        (folder / name / "judgments" / "mt_bench-step-0.jsonl").read_text().splitlines()
        for name in ("one-1", "one-2", "three-2")
    ]
    assert [len(lines) for lines in kept] == [turns] * 3
    assert kept[0] == kept[1] == kept[2]


def test_a_rank_without_documents_is_no_special_case(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    one, two = (results[ranks][0]["scarce"] for ranks in (1, 2))
    assert one["status"] == two["status"] == "completed", two["failure"]
    assert two["evaluations"][-1]["dataset"] == "tiny_sums"
    assert two["evaluations"][-1]["scores"] == one["evaluations"][-1]["scores"]


def test_one_ranks_wish_ends_the_evaluation_of_both(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    ends = [results[2][rank]["stopped"] for rank in (0, 1)]
    assert [end["status"] for end in ends] == ["yielded", "yielded"]
    assert "judge" not in [one["split"] for one in ends[0]["evaluations"]]


def test_one_ranks_error_fails_both_and_the_next_run_is_well(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    ends = [results[2][rank]["failed"] for rank in (0, 1)]
    assert [end["status"] for end in ends] == ["failed", "failed"]
    assert ends[0]["failure"]["message"] == "ValueError: no words come to this rank (rank 1)"
    assert ends[1]["failure"]["message"] == "ValueError: no words come to this rank"
    assert [results[2][rank]["after"]["status"] for rank in (0, 1)] == ["completed"] * 2


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]))
