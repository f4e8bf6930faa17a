"""Everything that defines one fine-tuning run, as plain validated values.

A `TrainConfig` is complete: two runs with equal configurations (and equal files behind the paths)
train the same model, whatever the number of ranks. This module imports neither torch nor
transformers, so a server can build and validate configurations without them.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]
Strategy = Literal["stacked", "phased", "difficulty"]
Method = Literal["full", "lora", "qlora"]
Optimizer = Literal["adamw", "adam", "nadam", "radam", "rmsprop", "sgd", "lion", "adamw_8bit"]
Offload = Literal["none", "optimizer", "all"]
Batching = Literal["exact", "paper"]
Attention = Literal["auto", "linear", "padded"]
Unmask = Literal["assistant", "conversation", "all"]
Split = Literal["eval", "test", "general"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^/<>\x00-\x1f]+$")]
REVISION = r"^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$"
"""A commit, branch or tag of the hub, or a digest of code."""


class Strict(BaseModel):
    """Frozen, with unknown keys, NaN and infinities refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- data -------------------------------------------------------------------------------------


class Source(Strict):
    """Conversations: a JSONL or Parquet file, or a data set of the hub by its id.

    `subset` and `split` choose within a data set of the hub, whose default split is `train`.
    """

    path: str = Field(min_length=1)
    subset: str | None = None
    split: str | None = None

    @property
    def key(self) -> str:
        """What tells it from other sources."""
        return source_key(self.path, self.subset, self.split)


def source_key(path: str, subset: str | None = None, split: str | None = None) -> str:
    """A source's path, with its subset and split if they are chosen."""
    chosen = (("subset", subset), ("split", split))
    return "#".join([path, *(f"{name}={value}" for name, value in chosen if value is not None)])


class TrainSet(Source):
    """One training set. `phase` orders curricula; `stacked` mixes all phases.

    `weight` is how often each of its samples occurs in an epoch: 2 is twice, 0.5 a random half,
    drawn anew for each epoch.
    """

    phase: int = 0
    weight: float = Field(default=1.0, gt=0.0, le=1000.0)


class Extract(Strict):
    """What of an answer is compared for exact match, in the reference and in the model's answer.

    `whole`: all of it. `last_number`: the last number (1,000 = 1000.0). `regex`: the last match of
    `pattern`, its first group if it has one. `choice`: the chosen letter, A to Z, after "answer"
    or alone. An answer in which nothing is found is wrong.
    """

    kind: Literal["whole", "last_number", "regex", "choice"] = "whole"
    pattern: str | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _pattern_fits(self) -> Extract:
        if (self.kind == "regex") != (self.pattern is not None):
            raise ValueError("pattern goes with kind: regex, and only with it")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"pattern is not a regular expression: {error}") from None
        return self


class EvalSet(Source):
    """One held-out set; `name` appears in metrics and reports."""

    name: Name
    extract: Extract = Extract()


class DataConfig(Strict):
    """Which samples are trained on, held out and tested on.

    `max_length` is in tokens; a sample that exceeds it is left out and counted. `chat_template`
    names a Jinja file that replaces the tokenizer's own template. `cache_dir` holds tokenised
    samples, keyed by their content, and may be shared by concurrent runs. `general` sets are not
    about the task: their loss before and after training is what the model retained or forgot.
    """

    train: tuple[TrainSet, ...] = Field(min_length=1)
    eval: tuple[EvalSet, ...] = ()
    test: tuple[EvalSet, ...] = ()
    general: tuple[EvalSet, ...] = ()

    strategy: Strategy = "stacked"
    """`stacked` mixes everything. `phased` trains one phase after the other. `difficulty` trains
    the samples with short answers first, then those with long ones."""
    phase_order: tuple[int, ...] | None = None
    """`phased` only: the phases in the order they are trained in; null: ascending."""
    replay: Fraction | None = None
    """`phased`, `difficulty`: how much of what came before is mixed into each later phase, as a
    fraction of the earlier samples. null: 0 for `phased`, 0.01 for `difficulty`."""
    reset_optimizer: bool = False
    """`phased`, `difficulty`: start each phase with fresh optimizer state."""
    difficulty_percentile: float = Field(default=50.0, gt=0.0, lt=100.0)
    """`difficulty` only: the percentile of answer length (in tokens) that parts short from long."""

    unmask: Unmask = "assistant"
    """Which tokens are targets: the assistant's turns; all turns; or everything, the system's turn
    and the template's own tokens included. A message's own `train: true|false` overrides it."""
    max_length: Positive = 2048
    chat_template: str | None = None
    cache_dir: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> DataConfig:
        for field, sets in (("eval", self.eval), ("test", self.test), ("general", self.general)):
            names = [s.name for s in sets]
            if len(set(names)) != len(names):
                raise ValueError(f"data.{field}: each set needs a name of its own, got {names}")
        return self

    @model_validator(mode="after")
    def _strategy_fits(self) -> DataConfig:
        phases = sorted({s.phase for s in self.train})
        if self.phase_order is not None:
            if self.strategy != "phased":
                raise ValueError("phase_order goes with strategy: phased")
            if sorted(self.phase_order) != phases:
                raise ValueError(
                    f"phase_order is {list(self.phase_order)}, but the training sets have phases "
                    f"{phases}; name each of them once"
                )
        if self.strategy == "phased" and len(phases) < 2:
            raise ValueError(
                "strategy phased needs training sets of at least two phases; give each set its "
                "phase, or use strategy: stacked"
            )
        if self.strategy == "stacked":
            given = [f for f in ("replay", "reset_optimizer") if getattr(self, f)]
            if given:
                raise ValueError(f"{given[0]} goes with strategy: phased or difficulty")
        return self


# --- evaluation -------------------------------------------------------------------------------


class LmEval(Strict):
    """Benchmarks of lm-evaluation-harness, run at the end of a run.

    `tasks` are names of its tasks or groups (mmlu, arc_challenge, gsm8k, leaderboard_bbh, …), or of
    task files in the folder `include_path`. `limit`: the first N documents of each task.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    include_path: str | None = None
    num_fewshot: int | None = Field(default=None, ge=0, le=64)
    limit: Positive | None = None
    apply_chat_template: bool = False


class Judge(Strict):
    """Answers graded from 1 to 10 by a model behind an OpenAI-compatible endpoint, as MT-Bench.

    `questions` is a JSONL file in MT-Bench's format: `question_id`, `category`, `turns` (one or
    two), and `reference` (answers to compare with) where there are any. `api_key_env` names the
    environment variable that holds the key: the key itself is never in a configuration.
    """

    base_url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    questions: str = Field(min_length=1)
    name: Name = "mt_bench"
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    concurrency: Positive = 8
    timeout: float = Field(default=120.0, gt=0.0)
    """Seconds that one judgement may take; it is retried twice."""


# --- what it may touch ------------------------------------------------------------------------


class Roots(Strict):
    """Folders that a run may open files in; null: anywhere. See `trainer.roots`.

    `data`: data sets, templates, tasks and questions; `models`: models. `tasks`: the digest that
    the files of benchmark tasks have to have (`trainer.code`), since they can run anything.
    `private_judges`: judges may be at loopback and private addresses.
    """

    data: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    tasks: str | None = None
    private_judges: bool = True


ANYWHERE = Roots()


# --- the run ----------------------------------------------------------------------------------


class TrainConfig(Strict):
    """One fine-tuning run.

    Units: `learning_rate` per optimizer step; `effective_batch_size` and `max_samples` in samples;
    `warmup_steps` in optimizer steps; `warmup_ratio` as a fraction of all optimizer steps;
    `max_tokens_per_microbatch` in tokens per rank; `eval_at` and `checkpoint_at` in samples seen
    (the first optimizer step that reaches the value counts).
    """

    model: str = Field(min_length=1)
    model_revision: str | None = Field(default=None, pattern=REVISION, max_length=64)
    """A commit or tag of a hub model. With `trust_remote_code`: the commit, or the digest of a
    folder's code (`trainer.code`), that may run."""
    trust_remote_code: bool = False
    """Run the code that comes with the model, if it is the code of `model_revision`."""
    roots: Roots = ANYWHERE
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
    optimizer: Optimizer = "adamw"
    """`sgd` uses `adam_betas[0]` as its momentum. `adamw_8bit` needs bitsandbytes and a GPU."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    adam_eps: float = Field(default=1e-8, gt=0.0)
    max_grad_norm: float | None = Field(default=1.0, gt=0.0)
    """Global norm to clip to; null: don't clip. The norm that is logged is the one before."""

    method: Method = "full"
    """All weights; low-rank adapters; or adapters over a base in 4 bits."""
    lora_rank: Positive = 16
    lora_alpha: float = Field(default=32.0, gt=0.0)
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    lora_targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get adapters, as peft matches them."""

    batching: Batching = "exact"
    """`paper` replicates the study's sampler: the effective batch is met on average only."""
    attention: Attention = "auto"
    """`linear` packs samples without padding, `padded` makes rectangles; `auto` packs where that is
    exact for the model."""
    max_tokens_per_microbatch: Positive | Literal["auto"] = 8192
    """`auto`: the most that fits, found by trying before the first step. The update doesn't depend
    on it."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    offload: Offload = "none"
    """Keep optimizer state, or (`all`, ZeRO 3) the weights too, in host memory."""
    precision: Precision = "auto"
    """`auto` is bf16 on a GPU that supports it and fp32 elsewhere."""
    activation_checkpointing: bool = False
    compile: bool = False
    """`torch.compile` the decoder layers."""
    liger: bool = False
    """Use Liger's kernels (GPU, `pip install liger-kernel`)."""

    eval_at: tuple[int, ...] = ()
    eval_at_end: bool = True
    exact_match: bool = True
    """Greedy generation over the eval sets (test sets too, if given) at the end of the run."""
    exact_match_samples: Positive | None = None
    """The first N samples of each set are generated for exact match; null means all."""
    max_new_tokens: Positive = 128
    evaluate_test: bool = False
    """Evaluate `data.test` at the end. Off while recipes are being chosen."""
    lm_eval: LmEval | None = None
    judge: Judge | None = None

    store: str | None = Field(default=None, min_length=1)
    """Where checkpoints and the export go once they are whole: an fsspec address or a folder, of
    this run alone. null: they stay in `output_dir`."""
    checkpoint_at: tuple[int, ...] = ()
    checkpoint_every_seconds: float | None = Field(default=None, gt=0.0)
    keep_checkpoints: Positive = 2
    keep_best: bool = False
    """Also keep the checkpoint with the lowest held-out loss (each point of `eval_at` makes one),
    and export its weights, not the last ones."""
    export: bool = True
    """Write a Hugging Face model folder at the end; with adapters, the merged model, and the
    adapters beside it in `adapter`."""

    @model_validator(mode="after")
    def _one_kind_of_warmup(self) -> TrainConfig:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ValueError("set warmup_steps or warmup_ratio, not both")
        return self

    @model_validator(mode="after")
    def _parts_go_together(self) -> TrainConfig:
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError("offload: all needs zero_stage: 3; offload: optimizer works with all")
        if self.method == "qlora" and self.zero_stage == 3:
            raise ValueError("qlora can't be sharded by ZeRO 3; use zero_stage: 2, or method: lora")
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile doesn't work with zero_stage: 3, which gathers weights inside of the "
                "layers; set compile: false, or zero_stage: 2"
            )
        if self.optimizer == "adamw_8bit" and self.offload != "none":
            raise ValueError("adamw_8bit runs on the GPU; use offload: none, or optimizer: adamw")
        if self.batching == "paper":
            weights = {entry.weight for entry in self.data.train}
            if self.data.strategy != "stacked" or weights != {1.0}:
                raise ValueError(
                    "batching: paper is the study's sampler, which knows neither curricula nor "
                    "weights; use strategy: stacked without weights, or batching: exact"
                )
            if self.max_tokens_per_microbatch == "auto":
                raise ValueError(
                    "batching: paper makes its batches by max_tokens_per_microbatch: give a number"
                )
        if self.keep_best and not (self.eval_at and self.data.eval):
            raise ValueError("keep_best needs eval_at and data.eval: best by held-out loss")
        return self


def trusted_code(config: TrainConfig) -> str | None:
    """The revision of the model's own code that may run; None: none may."""
    return (config.model_revision or "") if config.trust_remote_code else None
