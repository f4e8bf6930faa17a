"""What a recipe's fields mean: their units, and where their values come from."""

from __future__ import annotations

STUDY = "arXiv 2412.13337"
PINNED = "pinned"
"""The study doesn't give it; written into the recipe so that it never moves with a default."""

UNITS = {
    "effective_batch_size": "samples a step",
    "learning_rate": "a step, after warmup",
    "schedule": "after warmup",
    "warmup_steps": "steps, linear",
    "warmup_ratio": "of all steps, linear",
    "epochs": "passes over the data",
    "adam_betas": "decay of the moments",
    "weight_decay": "a step, times the rate",
    "max_grad_norm": "global L2 norm",
    "max_tokens_per_microbatch": "tokens a rank",
    "max_samples": "samples, instead of epochs",
    "exact_match_samples": "samples of each set",
    "max_new_tokens": "tokens an answer",
    "keep_checkpoints": "to resume from",
}
_PINNED = frozenset({"optimizer", "adam_eps", "weight_decay", "max_grad_norm"})


def unit(field: str) -> str:
    """What a field counts; empty if its name says it."""
    return UNITS.get(field, "")


def source(field: str) -> str:
    """Where the value of a recipe's field comes from."""
    return PINNED if field in _PINNED else STUDY
