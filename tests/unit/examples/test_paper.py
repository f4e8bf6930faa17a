"""The study's comparisons as sweep files: complete, valid, ready to run on the demo's model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.admission.preflight import preflight
from orchestrator.plan import resolve, validate_space
from orchestrator.search.space import SearchSpace
from trainer.config import TrainConfig
from winnow.load import load_sweep_file
from winnow.spec import Choice, SweepSpec

PAPER = Path(__file__).parents[3] / "examples" / "paper"
COMPARISONS = ("batch-by-rate", "warmup", "schedule", "strategy", "difficulty")
MODELS = ("granite-3b", "granite-7b", "llama-3.2-3b", "mistral-7b")
FILES = sorted(path.name for path in PAPER.glob("*.yaml"))
DEMOS = [f"{name}.demo.yaml" for name in COMPARISONS]


def read(name: str) -> SweepSpec:
    return SweepSpec.model_validate(load_sweep_file(PAPER / name))


def runs(spec: SweepSpec) -> list[TrainConfig]:
    """Every trial of the grid."""
    space = SearchSpace.of(spec.space)
    assert space.size is not None
    return [resolve(spec, space.at(i), output_dir="-", cache_dir="-") for i in range(space.size)]


def values(spec: SweepSpec, name: str) -> list[Any]:
    parameter = getattr(spec.space, name)
    assert isinstance(parameter, Choice)
    return list(parameter.choice)


def test_there_is_a_file_for_each_comparison_and_model_and_for_the_demo() -> None:
    full = [f"{comparison}.{model}.yaml" for comparison in COMPARISONS for model in MODELS]
    assert sorted(full + DEMOS) == FILES


def test_the_files_are_what_their_generator_writes(tmp_path: Path) -> None:
    command = [sys.executable, str(PAPER / "generate.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {name: (PAPER / name).read_text() for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_each_is_a_valid_sweep_whose_every_trial_is_a_run(name: str) -> None:
    spec = read(name)
    assert validate_space(spec) == []
    assert spec.scheduler.name == "none"
    configs = runs(spec)
    assert len({c.model_dump_json() for c in configs}) == len(configs)


@pytest.mark.parametrize("model", MODELS)
def test_the_grids_are_the_studys(model: str) -> None:
    grid = read(f"batch-by-rate.{model}.yaml")
    assert values(grid, "effective_batch_size") == [128, 3840, 7680]
    assert values(grid, "learning_rate") == [1e-6, 5e-6, 2e-5, 3e-5, 4e-5, 6e-5, 8e-5, 1e-4]
    assert {c.epochs for c in runs(grid)} == {10.0}
    assert {c.schedule for c in runs(grid)} == {"constant"}
    assert {c.warmup_steps for c in runs(read(f"warmup.{model}.yaml"))} == {0, 25, 100}
    schedules = {c.schedule for c in runs(read(f"schedule.{model}.yaml"))}
    assert schedules == {"constant", "cosine", "linear"}
    phased = [c.data for c in runs(read(f"strategy.{model}.yaml")) if c.data.strategy == "phased"]
    assert {d.phase_order for d in phased} == {None}
    difficulty = [c.data for c in runs(read(f"difficulty.{model}.yaml"))]
    assert {(d.strategy, d.replay) for d in difficulty} == {("stacked", None), ("difficulty", 0.01)}


def test_the_demos_batches_have_the_studys_ratio_and_rates_its_spread() -> None:
    demo, full = read("batch-by-rate.demo.yaml"), read("batch-by-rate.granite-7b.yaml")
    small, middle, large = values(demo, "effective_batch_size")
    assert (middle / small, large / small) == (30, 60)
    ratios = [
        ours / theirs
        for ours, theirs in zip(
            values(demo, "learning_rate"), values(full, "learning_rate"), strict=True
        )
    ]
    assert ratios == pytest.approx([ratios[0]] * 8)


@pytest.mark.parametrize("name", DEMOS)
def test_the_demos_pass_the_check_of_their_data_and_model(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.getbasetemp() / "paper-cache"
    found = preflight(read(name), cache_dir=str(cache))
    assert found.errors == ()
    assert found.facts["train_samples"] == 3840
