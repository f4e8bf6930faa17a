"""The pretraining script: text in, an ordinary model folder out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from .conftest import run_script

SMALL = ("--vocab", 300, "--hidden", 16, "--layers", 1, "--heads", 2, "--length", 16, "--batch", 2)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"The cat sat on mat {i}.\n" for i in range(100)))
    return path


@pytest.fixture(scope="module")
def folder(text: Path) -> Path:
    run_script("pretrain.py", "--text", text, "--out", text.parent / "model", *SMALL, "--steps", 3)
    return text.parent / "model"


def test_model_and_tokenizer_open_like_any_other(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "llama"
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_assistant_turn_ends_in_eos_and_only_it_is_marked_as_answer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is the cat?"},
        {"role": "assistant", "content": "On mat 7."},
    ]
    encoded = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    answer = [
        token
        for token, marked in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        if marked
    ]
    assert tokenizer.decode(encoded["input_ids"]) == (
        "<|system|> Be brief.<|user|> Where is the cat?<|assistant|> On mat 7.<|end|>"
    )
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "On mat 7."


def test_prompt_for_generation_is_the_beginning_of_the_whole_conversation(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello  there\n"},
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    prompt = tokenizer.apply_chat_template(
        messages[:1], tokenize=True, return_dict=False, add_generation_prompt=True
    )
    assert whole[: len(prompt)] == prompt


@pytest.mark.parametrize("written", ["naïve 日本 🙂", "a\n\n  b\t", "<user> | end"])
def test_any_text_survives_the_tokenizer(folder: Path, written: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(written)["input_ids"]) == written


def test_equal_seeds_train_equal_models_and_others_do_not(folder: Path, text: Path) -> None:
    weights = []
    for seed in (0, 1):
        out = text.parent / f"again{seed}"
        run_script(
            "pretrain.py", "--text", text, "--out", out, *SMALL, "--steps", 3, "--seed", seed
        )
        weights.append(AutoModelForCausalLM.from_pretrained(out).state_dict())
    first = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(first[name], weights[0][name]) for name in first)
    assert not all(torch.equal(first[name], weights[1][name]) for name in first)


def test_messages_can_be_the_text(tmp_path: Path) -> None:
    source = tmp_path / "chat.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"ask {i}"},
                {"role": "assistant", "content": "zebra"},
            ]
        }
        for i in range(60)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_script("pretrain.py", "--jsonl", source, "--out", tmp_path / "m", *SMALL, "--steps", 2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert len(tokenizer.tokenize(" zebra")) <= 2


def test_bad_json_is_refused_with_its_line(tmp_path: Path) -> None:
    source = tmp_path / "chat.jsonl"
    source.write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"messages": \n')
    with pytest.raises(subprocess.CalledProcessError) as error:
        run_script("pretrain.py", "--jsonl", source, "--out", tmp_path / "m", *SMALL, "--steps", 1)
    assert f"{source}, line 2" in error.value.stderr


def test_line_marks_within_text_do_not_end_a_document(tmp_path: Path) -> None:
    said = {"role": "user", "content": "one\u2028two\u0085three " * 20}
    path = tmp_path / "marks.jsonl"
    path.write_text(json.dumps({"messages": [said]}, ensure_ascii=False) + "\n\n")
    run_script("pretrain.py", "--jsonl", path, "--out", tmp_path / "m", *SMALL, "--steps", 1)
    assert (tmp_path / "m" / "model.safetensors").exists()
