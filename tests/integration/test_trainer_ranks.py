"""Runs on two ranks: the same curve as on one, and no rank left waiting for another.

Run by itself, this file is a rank's program: it makes each run that is listed in a JSON file in
turn, in one process group, as warm workers do, and writes what `advance` returned.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.ranks import run_ranks_well
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl

pytestmark = pytest.mark.deepspeed

RANKS = 2


def act(scenario: dict[str, Any]) -> list[Any]:
    """Make one run as `scenario` says; what each `advance` returned. On every rank."""
    import trainer.batches
    import trainer.loop
    from trainer import engine
    from trainer.config import TrainConfig

    config = TrainConfig.model_validate(scenario["config"])
    resume = scenario.get("resume_from")
    run = trainer.loop.Run(config, resume_from=Path(resume) if resume else None)
    mine = scenario.get("rank") == engine.rank()
    asked = 0

    def control() -> Any:
        nonlocal asked
        asked += 1
        return scenario["wish"] if mine and asked > scenario["after"] else "go"

    original = trainer.batches.collate
    if scenario.get("fail") and mine:

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise ValueError("this rank's memory is full of eels")

        trainer.batches.collate = fail
    try:
        batches = []
        while not batches or batches[-1].status == "running":
            batches.append(run.advance(100.0, control if "wish" in scenario else None))
    finally:
        trainer.batches.collate = original
        run.close()
    return [asdict(batch) for batch in batches]


def rank_main(scenarios: Path) -> None:
    from trainer import engine

    rank = int(os.environ["RANK"])
    engine.join(
        rank,
        int(os.environ["WORLD_SIZE"]),
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        int(os.environ["LOCAL_RANK"]),
    )
    results: dict[str, Any] = {}
    for name, scenario in json.loads(scenarios.read_text()).items():
        began = time.monotonic()
        results[name] = {"batches": act(scenario), "seconds": time.monotonic() - began}
    scenarios.with_suffix(f".rank{rank}.json").write_text(json.dumps(results))
    engine.leave()


def launch(folder: Path, ranks: int, scenarios: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of the scenarios by rank."""
    file = folder / f"on-{ranks}.json"
    file.write_text(json.dumps(scenarios))
    run_ranks_well(__file__, file, ranks=ranks)
    return [json.loads(file.with_suffix(f".rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """By number of ranks, then by rank, then by scenario."""
    model = make_tiny_model(folder / "model")
    train = write_jsonl(folder / "train.jsonl", sums(60))
    held = write_jsonl(folder / "eval.jsonl", sums(13, seed=1))

    def config(name: str, **fields: Any) -> dict[str, Any]:
        return {
            "model": str(model),
            "data": {
                "train": [{"path": str(train)}],
                "eval": [{"path": str(held), "name": "sums"}],
                "cache_dir": str(folder / "cache"),
            },
            "output_dir": str(folder / name),
            "learning_rate": 3e-3,
            "effective_batch_size": 7,
            "max_samples": 45,
            "max_tokens_per_microbatch": 64,
            "exact_match_samples": 5,
            "max_new_tokens": 4,
            "export": False,
            **fields,
        }

    alike = {f"zero-{stage}": {"config": config("z", zero_stage=stage)} for stage in (0, 1, 2)}
    alike |= {
        f"small-{stage}": {
            "config": config("s", zero_stage=stage, effective_batch_size=1, max_samples=3)
        }
        for stage in (1, 2)
    }
    only_two = {
        "paused": {
            "config": config("paused", zero_stage=2),
            "rank": 1,
            "wish": "pause",
            "after": 3,
        },
        "resumed": {
            "config": config("resumed", zero_stage=1),
            "resume_from": str(folder / "paused"),
        },
        "stopped": {"config": config("stopped"), "rank": 1, "wish": "stop", "after": 5},
        "failed": {"config": config("failed"), "rank": 1, "fail": True},
        "exported": {"config": config("exported", export=True, exact_match=False)},
    }
    few = write_jsonl(folder / "few.jsonl", sums(7, seed=4))
    data = {"train": [{"path": str(few)}], "eval": [{"path": str(few), "name": "few"}]}
    only_two["memorised"] = {
        "config": config(
            "memorised",
            data={**data, "cache_dir": str(folder / "cache")},
            max_samples=7 * 80,
            max_tokens_per_microbatch=8192,
            learning_rate=1e-2,
            schedule="constant",
            exact_match_samples=None,
            max_new_tokens=8,
        )
    }
    two = launch(folder, 2, {**alike, **only_two})
    elsewhere = {
        "config": config("elsewhere", zero_stage=1),
        "resume_from": str(folder / "paused"),
    }
    one = launch(folder, 1, {**alike, "elsewhere": elsewhere})
    return {1: one, 2: two}


def steps(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for batch in result["batches"] for step in batch["steps"]]


def assert_same_curve(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert [s["samples"] for s in one] == [s["samples"] for s in other]
    assert [s["tokens"] for s in one] == [s["tokens"] for s in other]
    for a, b in zip(one, other, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_losses_and_norms_do_not_depend_on_ranks_or_stage(
    results: dict[int, list[dict[str, Any]]], stage: int
) -> None:
    reference = steps(results[1][0]["zero-1"])
    assert len(reference) == 7
    for ranks in (1, 2):
        assert_same_curve(reference, steps(results[ranks][0][f"zero-{stage}"]))


@pytest.mark.parametrize("stage", [1, 2])
def test_a_batch_smaller_than_the_number_of_ranks_is_exact(
    results: dict[int, list[dict[str, Any]]], stage: int
) -> None:
    reference = steps(results[1][0]["small-1"])
    assert len(reference) == 3
    assert_same_curve(reference, steps(results[2][0][f"small-{stage}"]))


def test_evaluations_do_not_depend_on_ranks(results: dict[int, list[dict[str, Any]]]) -> None:
    (one,) = results[1][0]["zero-1"]["batches"][-1]["evaluations"]
    (two,) = results[2][0]["zero-1"]["batches"][-1]["evaluations"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert (two["tokens"], two["generated"]) == (one["tokens"], 5)
    assert two["exact_match"] == one["exact_match"]


def test_each_answer_is_judged_once(results: dict[int, list[dict[str, Any]]]) -> None:
    (evaluation,) = results[2][0]["memorised"]["batches"][-1]["evaluations"]
    assert (evaluation["exact_match"], evaluation["generated"]) == (1.0, 7)


def test_one_ranks_pause_pauses_both_and_the_run_can_go_on(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    whole = steps(results[2][0]["zero-1"])
    ends = [results[2][rank]["paused"]["batches"][-1] for rank in range(RANKS)]
    assert [end["status"] for end in ends] == ["yielded", "yielded"]
    assert ends[0]["checkpoints"][0]["kind"] == "state"
    made = steps(results[2][0]["paused"])
    assert 0 < len(made) < 7
    rest = steps(results[2][0]["resumed"])
    assert_same_curve(whole, [*made, *rest])


def test_two_ranks_checkpoint_is_resumed_on_one(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    whole = steps(results[2][0]["zero-1"])
    rest = steps(results[1][0]["elsewhere"])
    assert len(rest) < 7
    assert_same_curve(whole[-len(rest) :], rest)


def test_one_ranks_stop_stops_both_at_the_same_step(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    ends = [results[2][rank]["stopped"] for rank in range(RANKS)]
    assert [end["batches"][-1]["status"] for end in ends] == ["yielded", "yielded"]
    assert [s["step"] for s in steps(ends[0])] == [s["step"] for s in steps(ends[1])]


def test_one_ranks_error_fails_both_at_once_and_rank_0_says_why(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    ends = [results[2][rank]["failed"] for rank in range(RANKS)]
    assert [end["batches"][-1]["status"] for end in ends] == ["failed", "failed"]
    failure = ends[0]["batches"][-1]["failure"]
    assert failure["code"] == "error"
    assert "full of eels (rank 1)" in failure["message"]
    assert "Traceback" in failure["detail"]
    assert max(end["seconds"] for end in ends) < 30


def test_the_next_run_in_the_group_is_not_harmed_by_a_failed_one(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    result = results[2][0]["exported"]
    assert result["batches"][-1]["status"] == "completed"
    assert_same_curve(steps(results[2][0]["zero-1"]), steps(result))
    (record,) = result["batches"][-1]["checkpoints"]
    assert (Path(record["path"]) / "model.safetensors").is_file()


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]))
