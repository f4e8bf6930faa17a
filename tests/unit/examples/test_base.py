"""The shipped base model: an ordinary folder that knows the world but not how to answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .conftest import Sample

MAX_NEW_TOKENS = 24


@pytest.fixture(scope="module")
def tokenizer(examples: Path) -> Any:
    return AutoTokenizer.from_pretrained(examples / "base")


@pytest.fixture(scope="module")
def model(examples: Path) -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(examples / "base", dtype=torch.float32).eval()
    torch.set_num_threads(threads)


def test_it_is_one_to_two_million_parameters_in_at_most_four_megabytes(
    examples: Path, model: Any
) -> None:
    assert 1_000_000 < model.num_parameters() < 2_000_000
    assert sum(f.stat().st_size for f in (examples / "base").iterdir()) < 4_000_000


def test_every_sample_becomes_prompt_answer_and_end(tokenizer: Any, samples: list[Sample]) -> None:
    for s in samples:
        messages = [
            {"role": "user", "content": s.prompt},
            {"role": "assistant", "content": s.answer},
        ]
        whole = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        prompt = tokenizer.apply_chat_template(
            messages[:1], tokenize=True, return_dict=False, add_generation_prompt=True
        )
        ids = whole["input_ids"]
        answer = ids[len(prompt) :]
        assert ids[: len(prompt)] == prompt
        assert whole["assistant_masks"] == [0] * len(prompt) + [1] * len(answer)
        assert answer[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(answer, skip_special_tokens=True).strip() == s.answer
        assert len(answer) <= MAX_NEW_TOKENS
        assert len(ids) <= 128


def test_it_does_not_answer_the_exercises_yet(
    model: Any, tokenizer: Any, samples: list[Sample]
) -> None:
    tested = [s for s in samples if s.split == "test"][::5]
    right = 0
    for s in tested:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": s.prompt}],
            tokenize=True,
            return_dict=False,
            add_generation_prompt=True,
        )
        right += _continue(model, tokenizer, prompt) == s.answer
    assert right / len(tested) <= 0.02


def test_it_knows_the_facts_that_are_asked(
    model: Any, tokenizer: Any, samples: list[Sample]
) -> None:
    """In the notation of its own text, `home ? Mira : Kelm ;`."""
    asked = {
        (s.task, s.prompt.rstrip("?.").split()[-1]): s.answer
        for s in samples
        if s.task in ("river", "friend") and s.prompt.startswith("Name the ")
    }
    assert len(asked) > 10
    right = 0
    for (relation, who), value in asked.items():
        prompt = tokenizer(f" {relation} ? {who} :")["input_ids"]
        right += _continue(model, tokenizer, prompt).split(" ;")[0] == value
    assert right / len(asked) >= 0.9


def _continue(model: Any, tokenizer: Any, prompt: list[int]) -> str:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
    return tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True).strip()
