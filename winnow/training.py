"""What a user writes about one run: its data, its training, its benchmarks.

These are the fields of the trainer's `TrainConfig`, under the same names and with the same rules;
`tests/unit/orchestrator/test_mirror.py` compares the two.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

from pydantic import (
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from winnow.space import Strict

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^/<>\x00-\x1f]+$")]


def _tokens_or_auto(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"give a whole number of tokens above 0, or auto; got {value!r}")
    return value


def _names_or_all(value: Any) -> tuple[str, ...] | Literal["all-linear"]:
    if value == "all-linear":
        return "all-linear"
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) for name in cast("list[Any]", value)
    ):
        raise ValueError(f"give a list of layer names, or all-linear; got {value!r}")
    return tuple(cast("list[str]", value))


TokensOrAuto = Annotated[
    int | Literal["auto"],
    PlainValidator(_tokens_or_auto, json_schema_input_type=Positive | Literal["auto"]),
]
NamesOrAll = Annotated[
    tuple[str, ...] | Literal["all-linear"],
    PlainValidator(_names_or_all, json_schema_input_type=tuple[str, ...] | Literal["all-linear"]),
]


# --- data -------------------------------------------------------------------------------------


class Source(Strict):
    """Conversations: a JSONL or Parquet file, or a data set of the hub by its id.

    `subset` and `split` choose within a data set of the hub, whose default split is `train`.
    """

    path: str = Field(min_length=1)
    subset: str | None = None
    split: str | None = None


class TrainFile(Source):
    """Data to train on. `phase` orders curricula; `weight` is how often each of its samples occurs
    in an epoch: 2 is twice, 0.5 a random half."""

    phase: int = 0
    weight: float = Field(default=1.0, gt=0.0, le=1000.0)


class Extract(Strict):
    """What of an answer is compared for exact match, in the reference and in the model's answer.

    `whole`: all of it. `last_number`: the last number. `regex`: the last match of `pattern`, its
    first group if it has one. `choice`: the chosen letter.
    """

    kind: Literal["whole", "last_number", "regex", "choice"] = "whole"
    pattern: str | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _pattern_fits(self) -> Extract:
        if self.kind == "regex" and self.pattern is None:
            raise ValueError("pattern: kind regex needs one, e.g. 'The answer is (\\w+)'")
        if self.kind != "regex" and self.pattern is not None:
            raise ValueError(f"pattern: goes with kind: regex, not with {self.kind}")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"pattern: is not a regular expression: {error}") from None
        return self


class EvalFile(Source):
    """Data to judge on. `name` defaults to the file's stem, or the end of the hub id."""

    name: str = Field(default="", max_length=64, pattern=r"^[^/<>\x00-\x1f]*$")
    extract: Extract = Extract()

    @model_validator(mode="after")
    def _default_name(self) -> EvalFile:
        if not self.name:
            last = self.path.rstrip("/").rsplit("/", 1)[-1]
            stem = last.rsplit(".", 1)[0] or "eval"
            object.__setattr__(self, "name", stem[:64])
        return self


class Data(Strict):
    """What is trained and judged on.

    The winner is chosen on `eval` and reported on `test`. `general` sets are not about the task:
    their loss before and after training tells what the model has forgotten.
    """

    train: tuple[TrainFile, ...] = Field(min_length=1)
    eval: tuple[EvalFile, ...] = Field(min_length=1)
    test: tuple[EvalFile, ...] = ()
    general: tuple[EvalFile, ...] = ()

    strategy: Literal["stacked", "phased", "difficulty"] = "stacked"
    """`stacked` mixes everything; `phased` trains one phase after the other; `difficulty` trains
    the samples with short answers first, then those with long ones."""
    phase_order: tuple[int, ...] | None = None
    """`phased`: the phases in the order they are trained in; null: ascending."""
    replay: Fraction | None = None
    """`phased`, `difficulty`: how much of what came before is mixed into each later phase."""
    reset_optimizer: bool = False
    """`phased`, `difficulty`: start each phase with fresh optimizer state."""
    difficulty_percentile: float = Field(default=50.0, gt=0.0, lt=100.0)
    """`difficulty`: the percentile of answer length that parts short from long."""

    unmask: Literal["assistant", "conversation", "all"] = "assistant"
    """Which tokens are targets: the assistant's turns, all turns, or everything."""
    max_length: Positive = 2048
    chat_template: str | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Data:
        for field, files in (("eval", self.eval), ("test", self.test), ("general", self.general)):
            names = [f.name for f in files]
            if len(set(names)) != len(names):
                twice = next(n for n in names if names.count(n) > 1)
                raise ValueError(
                    f"{field}: two sets are named '{twice}'; give each a `name` of its own"
                )
        return self


# --- training ---------------------------------------------------------------------------------


class Training(Strict):
    """Settings that every trial shares, over the recipe's. See `trainer.config.TrainConfig`.

    A field that is not given, or null, keeps the recipe's or the trainer's value; only
    `max_grad_norm: null` says something: don't clip.
    """

    learning_rate: float | None = Field(default=None, gt=0.0, le=1e3)
    effective_batch_size: Positive | None = None
    schedule: Literal["constant", "linear", "cosine"] | None = None
    warmup_steps: int | None = Field(default=None, ge=0)
    warmup_ratio: Fraction | None = None
    epochs: float | None = Field(default=None, gt=0.0, le=1000.0)
    max_samples: Positive | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**31)

    optimizer: (
        Literal["adamw", "adam", "nadam", "radam", "rmsprop", "sgd", "lion", "adamw_8bit"] | None
    ) = None
    weight_decay: float | None = Field(default=None, ge=0.0)
    adam_betas: tuple[Fraction, Fraction] | None = None
    adam_eps: float | None = Field(default=None, gt=0.0)
    max_grad_norm: float | None = Field(default=None, gt=0.0)

    method: Literal["full", "lora", "qlora"] | None = None
    lora_rank: Positive | None = None
    lora_alpha: float | None = Field(default=None, gt=0.0)
    lora_dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    lora_targets: NamesOrAll | None = None

    batching: Literal["exact", "paper"] | None = None
    attention: Literal["auto", "linear", "padded"] | None = None
    max_tokens_per_microbatch: TokensOrAuto | None = None

    zero_stage: Literal[0, 1, 2, 3] | None = None
    offload: Literal["none", "optimizer", "all"] | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None
    activation_checkpointing: bool | None = None
    compile: bool | None = None
    liger: bool | None = None

    exact_match: bool | None = None
    exact_match_samples: Positive | None = None
    max_new_tokens: Positive | None = None
    keep_checkpoints: Positive | None = None

    def overrides(self) -> dict[str, Any]:
        """The settings that were given."""
        given = [name for name in type(self).model_fields if name in self.model_fields_set]
        values = {name: getattr(self, name) for name in given}
        return {n: v for n, v in values.items() if v is not None or n == "max_grad_norm"}

    @model_serializer(mode="wrap")
    def _only_what_was_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """So that what is read back says the same: a null is not the same as nothing."""
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if name in self.model_fields_set}


# --- benchmarks -------------------------------------------------------------------------------


class LmEval(Strict):
    """Benchmarks of lm-evaluation-harness, run at the end of training.

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

    `questions` is a JSONL file in MT-Bench's format. `api_key_env` names the environment variable
    of the winnow server that holds the key: the key itself is never in a sweep file.
    """

    base_url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    questions: str = Field(min_length=1)
    name: Name = "mt_bench"
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    concurrency: Positive = 8
    timeout: float = Field(default=120.0, gt=0.0)

    @model_validator(mode="after")
    def _no_secret_in_the_address(self) -> Judge:
        if "@" in self.base_url.split("://", 1)[1].split("/", 1)[0] or "?" in self.base_url:
            raise ValueError(
                "base_url: holds a user name, password or query; leave them out, and name the "
                "variable that holds the key in api_key_env"
            )
        return self


class Evaluation(Strict):
    """Benchmarks beside the data sets. `trials`: after every trial, or only for the model before
    training and the winner."""

    lm_eval: LmEval | None = None
    judge: Judge | None = None
    trials: Literal["all", "winner"] = "all"
