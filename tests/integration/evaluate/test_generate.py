"""Greedy answers: those of transformers' own `generate`, for models of several kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.fixtures.tiny_model import make_tiny_model
from trainer.attention import PACKED
from trainer.evaluate.generate import greedy, stop_tokens, takes_plain_cache

PAD, STOP = 0, 1


def model_of(architecture: str, **settings: Any) -> Any:
    torch.manual_seed(3)
    common = {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
        "eos_token_id": STOP,
        "bos_token_id": None,
        "initializer_range": 0.6,  # so that greedy answers differ, and end at different times
    }
    config = AutoConfig.for_model(architecture, **{**common, **settings})
    return AutoModelForCausalLM.from_config(config).eval()


def prompts(count: int = 9) -> list[list[int]]:
    draw = np.random.default_rng(5)
    return [draw.integers(2, 40, int(draw.integers(1, 20))).tolist() for _ in range(count)]


def one_by_one(model: Any, asked: list[list[int]], new: int, stops: set[int]) -> list[list[int]]:
    answers: list[list[int]] = []
    for prompt in asked:
        made = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=new,
            eos_token_id=sorted(stops),
            pad_token_id=PAD,
        )[0, len(prompt) :].tolist()
        answers.append(made)
    return answers


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("granite", {}),
        ("qwen3", {"head_dim": 8}),
        ("mistral", {"sliding_window": 6}),
        ("gpt2", {"activation_function": "gelu"}),  # its positions are learned, not relative
        ("mamba", {"state_size": 4}),
    ],
)
def test_answers_are_those_of_generate_one_by_one(
    architecture: str, settings: dict[str, Any]
) -> None:
    model = model_of(architecture, **settings)
    stops = {STOP, 5, 9, 17, 30}
    asked = prompts()
    expected = one_by_one(model, asked, 12, stops)
    assert len({len(answer) for answer in expected}) > 2, "answers should end at different times"
    assert takes_plain_cache(model) == (architecture != "mamba")
    made = greedy(model, asked, max_new_tokens=12, stops=stops, pad_id=PAD)
    assert made == [answer[: answer_end(answer, stops)] for answer in expected]


def answer_end(answer: list[int], stops: set[int]) -> int:
    return next((at + 1 for at, token in enumerate(answer) if token in stops), len(answer))


def test_a_model_with_packed_attention_answers_the_same() -> None:
    model = model_of("llama")
    expected = greedy(model, prompts(), max_new_tokens=8, stops={STOP}, pad_id=PAD)
    model.set_attn_implementation(PACKED)
    assert greedy(model, prompts(), max_new_tokens=8, stops={STOP}, pad_id=PAD) == expected


def test_an_answer_ends_where_the_model_has_no_more_positions() -> None:
    model = model_of("llama")
    asked = [[3] * 60, [4, 5], [7] * 64]
    made = greedy(model, asked, max_new_tokens=10, stops=set(), pad_id=PAD)
    assert [len(answer) for answer in made] == [4, 10, 0]
    assert made[1] == greedy(model, asked[1:2], max_new_tokens=10, stops=set(), pad_id=PAD)[0]


def test_an_answer_ends_when_it_is_said_to_be_complete() -> None:
    model = model_of("llama")
    made = greedy(
        model, prompts(), max_new_tokens=10, stops=set(), pad_id=PAD, ended=lambda a: len(a) == 3
    )
    assert {len(answer) for answer in made} == {3}


def test_rows_that_have_ended_are_not_computed_further(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    asked = prompts(8)
    sizes: list[int] = []
    forward = model.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", counted)
    ends = iter(range(1, 100))
    lengths: dict[int, int] = {}

    def ended(answer: list[int]) -> bool:
        lengths.setdefault(id(answer), next(ends))
        return len(answer) >= lengths[id(answer)]

    greedy(model, asked, max_new_tokens=8, stops=set(), pad_id=PAD, ended=ended)
    assert sizes[0] == 8
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_stop_tokens_are_the_tokenizers_and_the_models_own(tmp_path: Path) -> None:
    from trainer.model import load_tokenizer

    tokenizer = load_tokenizer(make_tiny_model(tmp_path / "model"), None)
    model = model_of("llama")
    model.generation_config.eos_token_id = [7, 8]
    assert stop_tokens(model, tokenizer) == {tokenizer.eos_token_id, 7, 8}
