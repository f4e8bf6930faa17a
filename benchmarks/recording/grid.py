"""The recorded sweeps: which configurations, and each one's `TrainConfig`.

Every sweep crosses learning rate (decades, to divergence) and effective batch (factor 60) fully.
Around its middle rate, warmup and schedule are changed one at a time at the smallest and the
largest batch, so each has a twin that differs in nothing else. The curriculum sweep has stacked
and phased twins throughout. Each configuration runs with two seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.recording.sources import Source
from trainer.config import TrainConfig

SEEDS = (0, 1)
RUNGS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
"""Fractions of the budget at which held-out loss is measured, besides the start and the end."""
FULL = (3e-5, 2e-4, 1e-3, 4e-3, 2e-2, 1e-1)
LORA = (1e-4, 6e-4, 3e-3, 1.2e-2, 6e-2, 3e-1)


@dataclass(frozen=True)
class Recipe:
    """What one configuration sets."""

    learning_rate: float
    effective_batch_size: int
    schedule: str = "linear"
    warmup_ratio: float = 0.03
    strategy: str = "stacked"

    @property
    def name(self) -> str:
        parts = f"r{self.learning_rate:g}-b{self.effective_batch_size}"
        return f"{parts}-{self.schedule}-w{self.warmup_ratio:g}-{self.strategy}"


@dataclass(frozen=True)
class RecordedSweep:
    """One homogeneous sweep: a base model, a data set, a parameterisation."""

    name: str
    source: str
    method: str = "full"
    rates: tuple[float, ...] = FULL
    middle: int = 2
    """Index of the rate at which warmup and schedule are varied."""
    strategies: tuple[str, ...] = ("stacked",)
    vary: bool = True
    more: dict[str, Any] = field(default_factory=dict)

    def recipes(self, source: Source) -> list[Recipe]:
        """All configurations, in a fixed order."""
        crossed = [
            Recipe(rate, batch, strategy=strategy)
            for rate in self.rates
            for batch in source.batches
            for strategy in self.strategies
        ]
        varied: list[Recipe] = []
        for batch in (source.batches[0], source.batches[-1]) if self.vary else ():
            centre = Recipe(self.rates[self.middle], batch, strategy=self.strategies[0])
            varied += [replace(centre, warmup_ratio=ratio) for ratio in (0.0, 0.12)]
            varied += [replace(centre, schedule=schedule) for schedule in ("constant", "cosine")]
        return crossed + varied


SWEEPS = (
    RecordedSweep("demo-full", "demo"),
    RecordedSweep("words-full", "words"),
    RecordedSweep("demo-lora", "demo", "lora", LORA),
    RecordedSweep(
        "demo-curricula",
        "demo",
        rates=(2e-4, 1e-3, 4e-3, 2e-2),
        middle=1,
        strategies=("stacked", "phased"),
    ),
    RecordedSweep("gsm8k-full", "gsm8k"),
    RecordedSweep("words-lora", "words", "lora", LORA),
    RecordedSweep("skills-full", "skills"),
    RecordedSweep("knowledge-full", "demo-knowledge"),
)


@dataclass(frozen=True)
class Planned:
    """One run: a recipe of a sweep with a seed."""

    sweep: RecordedSweep
    source: Source
    recipe: Recipe
    seed: int

    @property
    def name(self) -> str:
        return f"{self.sweep.name}/{self.recipe.name}/{self.seed}"

    def config(self, output: Path) -> TrainConfig:
        source, recipe = self.source, self.recipe
        evals = [_held_out(p, source) for p in source.eval]
        tests = [_held_out(p, source) for p in source.test]
        return TrainConfig.model_validate(
            {
                "model": str(source.base),
                "output_dir": str(output),
                "data": {
                    "train": [{"path": str(p), "phase": phase} for p, phase in source.train],
                    "eval": evals,
                    "test": tests,
                    "general": [{"path": str(source.general), "name": "pretraining"}],
                    "strategy": recipe.strategy,
                    "max_length": 256,
                },
                "seed": self.seed,
                "learning_rate": recipe.learning_rate,
                "effective_batch_size": recipe.effective_batch_size,
                "schedule": recipe.schedule,
                "warmup_ratio": recipe.warmup_ratio,
                "max_samples": source.samples,
                "method": self.sweep.method,
                "lora_rank": 8,
                "lora_alpha": 16.0,
                "precision": "fp32",
                "zero_stage": 0,
                "eval_at": [round(r * source.samples) for r in RUNGS],
                "exact_match_samples": source.generated,
                "max_new_tokens": source.max_new_tokens,
                "evaluate_test": True,
                "export": False,
            }
        )


def plan(sweep: RecordedSweep, source: Source) -> Iterator[Planned]:
    """All runs of a sweep, both seeds of a configuration one after the other."""
    for recipe in sweep.recipes(source):
        for seed in SEEDS:
            yield Planned(sweep, source, recipe, seed)


def _held_out(path: Path, source: Source) -> dict[str, Any]:
    name = path.name.split(".")[0]
    return {"path": str(path), "name": name, "extract": {"kind": source.extract}}
