"""The study's recipes (arXiv 2412.13337, section 3) as fields of `TrainConfig`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_ADAM: dict[str, Any] = {"adam_betas": (0.9, 0.95), "weight_decay": 0.0}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tulu": MappingProxyType(
            {
                "effective_batch_size": 128,
                "learning_rate": 2e-5,
                "schedule": "linear",
                "warmup_ratio": 0.03,
                "epochs": 3.0,
                **_ADAM,
            }
        ),
        "tulu++": MappingProxyType(
            {
                "effective_batch_size": 128,
                "learning_rate": 3e-5,
                "schedule": "linear",
                "warmup_ratio": 0.03,
                "epochs": 4.0,
                **_ADAM,
            }
        ),
        "lab": MappingProxyType(
            {
                "effective_batch_size": 3840,
                "learning_rate": 2e-5,
                "schedule": "constant",
                "warmup_steps": 25,
                "epochs": 10.0,
                **_ADAM,
            }
        ),
    }
)
"""Recipe name to its fields. LAB's other batch size in the study was 7,680."""


def recipe(name: str) -> dict[str, Any]:
    """A fresh copy of the fields of recipe `name`.

    Raises:
        KeyError: there is no such recipe.
    """
    if name not in RECIPES:
        raise KeyError(f"unknown recipe {name!r}; there are {', '.join(sorted(RECIPES))}")
    return dict(RECIPES[name])
