"""Everything that defines one fine-tuning run, as plain validated values.

A `TrainConfig` is complete: two runs with equal configurations (and equal files behind the paths)
train the same model, whatever the number of ranks. This module imports neither torch nor
transformers, so a server can build and validate configurations without them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]
Strategy = Literal["stacked"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """Frozen, with unknown keys, NaN and infinities refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainSet(Strict):
    """One training file of messages JSONL. `phase` orders curricula; `stacked` mixes all phases."""

    path: str = Field(min_length=1)
    phase: int = 0


class EvalSet(Strict):
    """One held-out file of messages JSONL; `name` appears in metrics and reports."""

    path: str = Field(min_length=1)
    name: str = Field(min_length=1, max_length=64)


class DataConfig(Strict):
    """Which samples are trained on, held out and tested on.

    `max_length` is in tokens; a sample that exceeds it is left out and counted. `chat_template`
    names a Jinja file that replaces the tokenizer's own template. `cache_dir` holds tokenised
    samples, keyed by their content, and may be shared by concurrent runs.
    """

    train: tuple[TrainSet, ...] = Field(min_length=1)
    eval: tuple[EvalSet, ...] = ()
    test: tuple[EvalSet, ...] = ()
    strategy: Strategy = "stacked"
    max_length: Positive = 2048
    chat_template: str | None = None
    cache_dir: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> DataConfig:
        for field, sets in (("eval", self.eval), ("test", self.test)):
            names = [s.name for s in sets]
            if len(set(names)) != len(names):
                raise ValueError(f"data.{field}: each set needs a name of its own, got {names}")
        return self


class TrainConfig(Strict):
    """One fine-tuning run.

    Units: `learning_rate` per optimizer step; `effective_batch_size` and `max_samples` in samples;
    `warmup_steps` in optimizer steps; `warmup_ratio` as a fraction of all optimizer steps;
    `max_tokens_per_microbatch` in tokens per rank; `eval_at` and `checkpoint_at` in samples seen
    (the first optimizer step that reaches the value counts).
    """

    model: str = Field(min_length=1)
    data: DataConfig
    output_dir: str = Field(min_length=1)
    recipe: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)

    learning_rate: float = Field(gt=0.0, le=1e3)
    effective_batch_size: Positive
    schedule: Schedule = "linear"
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_ratio: Fraction | None = None
    epochs: float = Field(default=1.0, gt=0.0, le=1000.0)
    max_samples: int | None = Field(default=None, ge=0)
    """Budget in samples; overrides `epochs`. 0 trains nothing: the model is only evaluated."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    adam_eps: float = Field(default=1e-8, gt=0.0)
    max_grad_norm: float | None = Field(default=1.0, gt=0.0)
    """Global norm to clip to; null: don't clip. The norm that is logged is the one before."""

    zero_stage: Literal[0, 1, 2] = 1
    precision: Precision = "auto"
    """`auto` is bf16 on a GPU that supports it and fp32 elsewhere."""
    activation_checkpointing: bool = False
    max_tokens_per_microbatch: Positive = 8192

    eval_at: tuple[int, ...] = ()
    eval_at_end: bool = True
    exact_match: bool = True
    """Greedy generation over the eval sets (test sets too, if given) at the end of the run."""
    exact_match_samples: Positive | None = None
    """The first N samples of each set are generated for exact match; null means all."""
    max_new_tokens: Positive = 128
    evaluate_test: bool = False
    """Evaluate `data.test` at the end. Off while recipes are being chosen."""
    checkpoint_at: tuple[int, ...] = ()
    checkpoint_every_seconds: float | None = Field(default=None, gt=0.0)
    export: bool = True
    """Write a Hugging Face model folder at the end."""

    @model_validator(mode="after")
    def _one_kind_of_warmup(self) -> TrainConfig:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("set warmup_steps or warmup_ratio, not both")
        return self
