"""The engine on one and on two ranks: every stage, precision and method makes the same steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.engine_runs import launch
from tests.fixtures.tiny_model import make_tiny_model

pytestmark = pytest.mark.deepspeed

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "bf16": {"precision": "bf16"},
    "lora": {"method": "lora", "lora_rank": 3},
}
STAGES = (1, 2, 3)
RESUMED = {
    ("full", 1): (2, 3),
    ("full", 2): (1, 3),
    ("full", 3): (1, 1),
    ("bf16", 1): (1, 2),
    ("bf16", 2): (2, 1),
    ("bf16", 3): (2, 2),
    ("lora", 1): (1, 3),
    ("lora", 3): (2, 1),
}
"""What was saved by two ranks, and the number of ranks and the stage that go on from it."""
OFFLOADED = {
    "optimizer-1": ("bf16", 1, "optimizer"),
    "optimizer-2": ("fp32", 2, "optimizer"),
    "optimizer-2-bf16": ("bf16", 2, "optimizer"),
    "optimizer-3": ("fp32", 3, "optimizer"),
    "all-3": ("bf16", 3, "all"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine-ranks")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[int, dict[str, Any]]:
    """By number of ranks, then by run."""
    # An odd size: some adapters can't be halved, so that slices are padded.
    plain = str(make_tiny_model(folder / "plain", intermediate=75))
    tied = str(make_tiny_model(folder / "tied", architecture="qwen3", tied=True))

    two: dict[str, Any] = {}
    one: dict[str, Any] = {}
    for method, fields in METHODS.items():
        for stage in STAGES:
            name = f"{method}-{stage}"
            two[name] = {
                "model": plain,
                "fields": {**fields, "zero_stage": stage},
                "save": str(folder / name),
            }
        one[method] = {"model": plain, "fields": fields}
    for (method, stage), (ranks, other) in RESUMED.items():
        run = {"model": plain, "fields": {**METHODS[method], "zero_stage": other}}
        run["resume"] = str(folder / f"{method}-{stage}")
        (one if ranks == 1 else two)[f"resumed-{method}-{stage}"] = run
    for name, (precision, stage, offload) in OFFLOADED.items():
        fields = {"zero_stage": stage, "offload": offload, "precision": precision}
        two[name] = {"model": plain, "fields": fields}
    one["tied"] = {"model": tied, "fields": {}}
    two["tied"] = {
        "model": tied,
        "fields": {"zero_stage": 3},
        "export": str(folder / "exported-tied"),
    }
    packed = str(make_tiny_model(folder / "packed", hidden=64))
    one["qlora"] = {"model": packed, "fields": {"method": "qlora"}}
    two["qlora"] = {"model": packed, "fields": {"method": "qlora", "zero_stage": 2}}
    two["lora-3"]["export"] = str(folder / "exported")
    two["checkpointed"] = {
        "model": plain,
        "fields": {"zero_stage": 3, "activation_checkpointing": True},
    }
    made_on_two = launch(folder, 2, two)
    return {1: launch(folder, 1, one), 2: made_on_two}


def assert_same(one: dict[str, Any], other: dict[str, Any], rel: float = 3e-5) -> None:
    assert other["losses"] == pytest.approx(one["losses"], rel=rel)
    assert other["norms"] == pytest.approx(one["norms"], rel=rel)
    assert other["evaluated"] == pytest.approx(one["evaluated"], rel=rel)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_at_any_stage_make_the_steps_of_one(
    results: dict[int, dict[str, Any]], method: str, stage: int
) -> None:
    # Under bf16 ranks sum gradients that were rounded in other micro-batches.
    rel = 5e-3 if method == "bf16" else 3e-5
    assert len(results[1][method]["losses"]) == 4
    assert_same(results[1][method], results[2][f"{method}-{stage}"], rel)


@pytest.mark.parametrize(("method", "stage"), RESUMED)
def test_a_checkpoint_is_resumed_by_another_stage_and_number_of_ranks(
    results: dict[int, dict[str, Any]], method: str, stage: int
) -> None:
    whole = results[2][f"{method}-{stage}"]
    rest = results[RESUMED[method, stage][0]][f"resumed-{method}-{stage}"]
    rel = 5e-3 if method == "bf16" else 3e-5
    assert rest["losses"] == pytest.approx(whole["losses"][2:], rel=rel)
    assert rest["norms"] == pytest.approx(whole["norms"][2:], rel=rel)


@pytest.mark.parametrize("name", OFFLOADED)
def test_offloading_changes_nothing(results: dict[int, dict[str, Any]], name: str) -> None:
    here = results[2]["full-1" if OFFLOADED[name][0] == "fp32" else "bf16-1"]
    assert_same(here, results[2][name])


def test_tied_embeddings_are_spread_and_gathered_as_one(
    results: dict[int, dict[str, Any]],
) -> None:
    assert_same(results[1]["tied"], results[2]["tied"])


def test_a_base_in_4_bits_is_the_same_on_every_rank(results: dict[int, dict[str, Any]]) -> None:
    assert_same(results[1]["qlora"], results[2]["qlora"])


def test_activation_checkpointing_changes_nothing_under_zero_3(
    results: dict[int, dict[str, Any]],
) -> None:
    assert_same(results[1]["full"], results[2]["checkpointed"])


def test_weights_are_gathered_on_rank_0_only(results: dict[int, dict[str, Any]]) -> None:
    for stage in STAGES:
        assert results[2][f"full-{stage}"]["gathered_on"] == [True, False]


@pytest.mark.parametrize("name", ["exported", "exported-tied"])
def test_what_two_ranks_export_loads(
    results: dict[int, dict[str, Any]], folder: Path, name: str
) -> None:
    from transformers import AutoModelForCausalLM

    assert results
    opening: Any = AutoModelForCausalLM.from_pretrained
    _, problems = opening(folder / name, output_loading_info=True)
    assert not any(problems.values())
