"""Memory that runs out: the run goes on in smaller micro-batches and makes the same updates.

A guard plays the device that is too small: it refuses micro-batches above a number of tokens. Run
by itself, this file is a rank's program.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.ranks import run_ranks
from tests.fixtures.tiny_model import make_tiny_model, sums, write_jsonl

pytestmark = pytest.mark.deepspeed


def refuse_above(limit: int) -> Callable[[Any], None]:
    """A device that holds `limit` tokens."""
    import torch

    def guard(batch: Any) -> None:
        if batch.input_ids.numel() > limit:
            raise torch.OutOfMemoryError(f"tried to hold {batch.input_ids.numel()} tokens")

    return guard


def make_material(folder: Path) -> dict[str, Any]:
    return {
        "model": str(make_tiny_model(folder / "model")),
        "data": {
            "train": [{"path": str(write_jsonl(folder / "train.jsonl", sums(60)))}],
            "eval": [{"path": str(write_jsonl(folder / "eval.jsonl", sums(9, seed=1)))}],
            "cache_dir": str(folder / "cache"),
        },
        "learning_rate": 3e-3,
        "effective_batch_size": 12,
        "max_samples": 60,
        "exact_match": False,
        "export": False,
    }


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = make_material(tmp_path_factory.mktemp("material"))
    made["data"]["eval"][0]["name"] = "sums"
    return made


def train(config: dict[str, Any], limit: int | None = None) -> Any:
    """All batches of one run in this process."""
    from trainer.config import TrainConfig
    from trainer.loop import Run

    run = Run(
        TrainConfig.model_validate(config),
        guard=refuse_above(limit) if limit else None,
    )
    batches = []
    while not batches or batches[-1].status == "running":
        batches.append(run.advance(100.0))
    run.close()
    return batches


def curve(batches: list[dict[str, Any]]) -> list[tuple[int, float, float]]:
    return [(s["step"], s["loss"], s["grad_norm"]) for b in batches for s in b["steps"]]


def notes(batches: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for b in batches for name, value in b["notes"].items()}


def assert_same(one: list[tuple[int, float, float]], other: list[tuple[int, float, float]]) -> None:
    assert [step for step, _, _ in one] == [step for step, _, _ in other]
    for a, b in zip(one, other, strict=True):
        assert b[1:] == pytest.approx(a[1:], rel=2e-5)


@pytest.mark.usefixtures("process_group")
class TestOnOneRank:
    @pytest.mark.parametrize("attention", ["linear", "padded"])
    def test_a_step_that_does_not_fit_is_made_again_in_smaller_parts(
        self, material: dict[str, Any], tmp_path: Path, attention: str
    ) -> None:
        config = {**material, "output_dir": str(tmp_path), "attention": attention}
        free = [asdict(b) for b in train(config)]
        tight = [asdict(b) for b in train(config, limit=150)]
        assert tight[-1]["status"] == "completed"
        assert_same(curve(free), curve(tight))
        told = notes(tight)
        assert told["max_tokens_per_microbatch"] == 128  # 8,192 halved until it held
        assert told["out_of_memory"].startswith("at step ")
        assert "out_of_memory" not in notes(free)

    def test_a_sample_that_does_not_fit_at_all_ends_the_run(
        self, material: dict[str, Any], tmp_path: Path
    ) -> None:
        (last,) = train({**material, "output_dir": str(tmp_path)}, limit=20)
        assert last.status == "failed"
        assert last.failure.code == "oom"
        assert "max_length" in last.failure.message

    def test_auto_finds_the_cap_before_the_first_step(
        self, material: dict[str, Any], tmp_path: Path
    ) -> None:
        config = {**material, "output_dir": str(tmp_path)}
        free = [asdict(b) for b in train(config)]
        found = [
            asdict(b) for b in train({**config, "max_tokens_per_microbatch": "auto"}, limit=190)
        ]
        assert_same(curve(free), curve(found))
        told = notes(found)
        assert 120 <= told["max_tokens_per_microbatch"] <= 190
        assert "out_of_memory" not in told
        assert told["probe_seconds"] > 0

    def test_auto_is_no_larger_than_a_step_needs(
        self, material: dict[str, Any], tmp_path: Path
    ) -> None:
        config = {**material, "output_dir": str(tmp_path), "max_tokens_per_microbatch": "auto"}
        told = notes([asdict(b) for b in train(config)])
        assert told["max_tokens_per_microbatch"] < 12 * 60


# --- two ranks --------------------------------------------------------------------------------


def rank_main(plan: Path) -> None:
    """Train as told; only rank 1's device is small."""
    from trainer import engine
    from trainer.errors import RankFailed

    rank = int(os.environ["RANK"])
    engine.join(rank, 2, "127.0.0.1", int(os.environ["MASTER_PORT"]), rank)
    told = json.loads(plan.read_text())
    try:
        batches = train(told["config"], told["limit"] if rank == 1 else None)
    except RankFailed as error:
        print(json.dumps(asdict(error.failure)), flush=True)
        os._exit(7)  # the other rank is inside a reduction that will never end
    if rank == 0:
        print(json.dumps([asdict(b) for b in batches]))
    engine.leave()


def launch(folder: Path, config: dict[str, Any], limit: int) -> tuple[int, Any]:
    """Rank 1's exit code, and rank 0's batches; or, if it failed, rank 1's failure."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"config": config, "limit": limit}))
    first, second = run_ranks(__file__, plan, ranks=2)
    return second.code, json.loads(second.out if second.code else first.out)


@pytest.mark.usefixtures("process_group")
def test_one_ranks_lack_of_memory_makes_both_redo_the_step(
    material: dict[str, Any], tmp_path: Path
) -> None:
    config = {**material, "output_dir": str(tmp_path / "run"), "zero_stage": 1}
    code, tight = launch(tmp_path, config, 70)
    assert code == 0
    assert tight[-1]["status"] == "completed"
    assert notes(tight)["ranks"] == 2
    assert notes(tight)["max_tokens_per_microbatch"] == 64
    alone = train({**config, "output_dir": str(tmp_path / "alone")})
    assert_same(curve([asdict(b) for b in alone]), curve(tight))


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.usefixtures("process_group")
def test_where_gradients_are_reduced_on_the_way_the_next_process_uses_half_the_cap(
    material: dict[str, Any], tmp_path: Path, stage: int
) -> None:
    config = {
        **material,
        "output_dir": str(tmp_path / "run"),
        "zero_stage": stage,
        "max_tokens_per_microbatch": 256,
        "effective_batch_size": 30,
    }
    code, failure = launch(tmp_path, config, 140)
    assert code == 7
    assert failure["code"] == "oom"
    assert "max_tokens_per_microbatch = 128" in failure["message"]
    code, again = launch(tmp_path, config, 140)
    assert code == 0
    assert notes(again)["max_tokens_per_microbatch"] == 128
    alone = train({**config, "output_dir": str(tmp_path / "alone"), "zero_stage": 1})
    assert_same(curve([asdict(b) for b in alone]), curve(again))


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]))
