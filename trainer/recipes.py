"""The study's recipes (arXiv 2412.13337, section 3) as fields of `TrainConfig`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_COMMON: dict[str, Any] = {
    "optimizer": "adamw",
    "adam_betas": (0.9, 0.95),
    "adam_eps": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
}
"""The study gives the betas; the rest is pinned, so that a recipe never moves with a default."""

_LAB: dict[str, Any] = {
    "effective_batch_size": 3840,
    "learning_rate": 2e-5,
    "schedule": "constant",
    "warmup_steps": 25,
    "epochs": 10.0,
    **_COMMON,
}

RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tulu": MappingProxyType(
            {
                "effective_batch_size": 128,
                "learning_rate": 2e-5,
                "schedule": "linear",
                "warmup_ratio": 0.03,
                "epochs": 3.0,
                **_COMMON,
            }
        ),
        "tulu++": MappingProxyType(
            {
                "effective_batch_size": 128,
                "learning_rate": 3e-5,
                "schedule": "linear",
                "warmup_ratio": 0.03,
                "epochs": 4.0,
                **_COMMON,
            }
        ),
        "lab": MappingProxyType(_LAB),
        "lab-7680": MappingProxyType({**_LAB, "effective_batch_size": 7680}),
    }
)
"""Recipe name to its fields. LAB's warmup is 1 % of its steps, which were 25 in the study."""


def recipe(name: str) -> dict[str, Any]:
    """A fresh copy of the fields of recipe `name`.

    Raises:
        KeyError: there is no such recipe.
    """
    if name not in RECIPES:
        raise KeyError(f"unknown recipe {name!r}; there are {', '.join(sorted(RECIPES))}")
    return dict(RECIPES[name])
