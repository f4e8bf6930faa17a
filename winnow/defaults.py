"""What a parameter is where the sweep's space doesn't set it: `training`, else the recipe, else the
trainer's default. Conditions are about the values in force, so they see these.

The trainer's own tables are `trainer.recipes` and `trainer.config`; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winnow.space import Scalar, Space
from winnow.training import Data, Training

TRAINER: Mapping[str, Scalar] = {
    "schedule": "linear",
    "warmup_steps": None,
    "warmup_ratio": None,
    "epochs": 1.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 0,
    "optimizer": "adamw",
    "adam_beta2": 0.95,
    "batching": "exact",
    "lora_rank": 16,
    "lora_alpha": 32.0,
    "lora_dropout": 0.0,
}
"""The trainer's defaults. `learning_rate` and `effective_batch_size` have none."""

_TULU = {"effective_batch_size": 128, "schedule": "linear", "warmup_ratio": 0.03}
_LAB = {"schedule": "constant", "warmup_steps": 25, "epochs": 10.0, "learning_rate": 2e-5}
RECIPES: Mapping[str, Mapping[str, Scalar]] = {
    "tulu": {**_TULU, "learning_rate": 2e-5, "epochs": 3.0},
    "tulu++": {**_TULU, "learning_rate": 3e-5, "epochs": 4.0},
    "lab": {**_LAB, "effective_batch_size": 3840},
    "lab-7680": {**_LAB, "effective_batch_size": 7680},
}
"""What each recipe sets of the parameters that can vary, where it isn't the trainer's default."""


def values_in_force(recipe: str | None, training: Training, data: Data) -> dict[str, Scalar]:
    """Each parameter's value where the space doesn't set it; those without one are left out."""
    values: dict[str, Scalar] = {**TRAINER, **(RECIPES[recipe] if recipe else {})}
    given: dict[str, Any] = training.overrides()
    for one, other in (("warmup_steps", "warmup_ratio"), ("warmup_ratio", "warmup_steps")):
        if given.get(one) is not None:
            values[other] = None  # one kind of warmup replaces the other
    values |= {name: value for name, value in given.items() if name in Space.model_fields}
    if training.adam_betas is not None:
        values["adam_beta2"] = training.adam_betas[1]
    values |= {"strategy": data.strategy, "replay": data.replay}
    return values
