"""The study's recipes, as runs can use them."""

from __future__ import annotations

import pytest

from trainer.config import TrainConfig
from trainer.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_valid_run(name: str) -> None:
    config = TrainConfig.model_validate(
        {"model": "m", "output_dir": "o", "data": {"train": [{"path": "t"}]}, **recipe(name)}
    )
    assert config.adam_betas == (0.9, 0.95)
    assert config.weight_decay == 0.0


def test_recipes_have_the_numbers_of_the_paper() -> None:
    tulu, plus, lab = recipe("tulu"), recipe("tulu++"), recipe("lab")
    fields = ("effective_batch_size", "learning_rate", "epochs", "schedule")
    assert [tulu[f] for f in fields] == [128, 2e-5, 3.0, "linear"]
    assert [plus[f] for f in fields] == [128, 3e-5, 4.0, "linear"]
    assert [lab[f] for f in fields] == [3840, 2e-5, 10.0, "constant"]
    assert tulu["warmup_ratio"] == plus["warmup_ratio"] == 0.03
    assert lab["warmup_steps"] == 25


def test_a_recipe_is_a_copy() -> None:
    recipe("lab")["learning_rate"] = 1.0
    assert recipe("lab")["learning_rate"] == 2e-5


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"unknown recipe 'tulip'.*lab.*tulu"):
        recipe("tulip")
