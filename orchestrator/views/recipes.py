"""The trainer's recipes, as the API tells of them."""

from __future__ import annotations

from orchestrator.errors import NotFound
from trainer.config import TrainConfig
from trainer.recipes import RECIPES
from winnow.training import Training
from winnow.types import Recipe


def known() -> list[Recipe]:
    """All recipes, in the order of the study."""
    return [get(name) for name in RECIPES]


def get(name: str) -> Recipe:
    """One recipe. Raises NotFound."""
    if name not in RECIPES:
        raise NotFound("recipe", name)
    fields = dict(RECIPES[name])
    warmup = {"warmup_steps", "warmup_ratio"}
    others = [
        field
        for field in Training.model_fields
        if field not in fields and not (field in warmup and warmup & fields.keys())
    ]
    config = {field: TrainConfig.model_fields[field].get_default() for field in others}
    return Recipe(name=name, fields=fields, defaults=config)
