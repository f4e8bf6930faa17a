"""The summed loss of sliced logits equals plain cross-entropy, in value and in gradient."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.fixtures.tiny_model import make_tiny_model
from trainer import loss as loss_module
from trainer.attention import MicroBatch, Sample, collate
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.loss import Head, TokenLoss, head_of
from trainer.model import load_model

CPU = torch.device("cpu")


def model_of(kind: str, **fields: Any) -> Any:
    torch.manual_seed(1)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 211,
    }
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(sizes | fields)))
    with torch.no_grad():  # logits of a few units, so that a cap shows
        model.get_output_embeddings().weight.mul_(20)
    return model


def micro_batch(lengths: tuple[int, ...] = (40, 21, 9), seed: int = 0) -> MicroBatch:
    draw = np.random.default_rng(seed)
    samples: list[Sample] = []
    for length in lengths:
        mask = draw.random(length) < 0.5
        mask[0], mask[-1] = False, True
        samples.append((draw.integers(0, 200, length), mask))
    return collate(samples, packed=False, pad_id=0, device=CPU)


def plain(model: Any, batch: MicroBatch) -> torch.Tensor:
    """As everyone writes it: all logits, then cross-entropy of those that count."""
    logits = model(input_ids=batch.input_ids, use_cache=False).logits.flatten(0, 1)
    return nn.functional.cross_entropy(
        logits.index_select(0, batch.keep).float(), batch.targets, reduction="sum"
    )


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    (loss * 0.01).backward()
    return torch.cat([p.grad.reshape(-1).float() for p in model.parameters() if p.requires_grad])


def check_equal(model: Any, token_loss: TokenLoss, tolerance: float = 1e-5) -> None:
    batch = micro_batch()
    expected = plain(model, batch)
    expected_gradient = gradients(model, expected)
    loss = token_loss(batch)
    gradient = gradients(model, loss)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    assert (gradient - expected_gradient).norm() < tolerance * expected_gradient.norm()


HEADS = {
    "llama": ("llama", {}, Head()),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, Head()),
    "granite": ("granite", {"logits_scaling": 8.0}, Head(scale=0.125)),
    "cohere": ("cohere", {"logit_scale": 0.0625}, Head(scale=0.0625)),
    "gemma2": ("gemma2", {"final_logit_softcapping": 3.0}, Head(cap=3.0)),
}


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("kind", HEADS)
def test_the_loss_is_plain_cross_entropy(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, fields, head = HEADS[kind]
    model = model_of(name, **fields)
    assert head_of(model) == head
    monkeypatch.setattr(loss_module, "MAX_LOGITS", rows * 211)
    check_equal(model, TokenLoss(model, head=head_of(model)))


def test_the_whole_logits_are_never_made() -> None:
    model = model_of("granite", logits_scaling=8.0)
    token_loss, batch = TokenLoss(model, head=head_of(model)), micro_batch((60, 60, 60))
    shapes: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: shapes.append(len(_[2].shape)))
    token_loss(batch).backward()
    assert shapes == [0]  # what comes out of the head is the loss


def test_a_head_with_a_bias_is_plain_too() -> None:
    model = model_of("phi", num_key_value_heads=4)
    assert model.get_output_embeddings().bias is not None
    assert head_of(model) == Head()
    check_equal(model, TokenLoss(model, head=Head()))


def test_a_head_of_another_kind_is_asked_for_all_logits() -> None:
    model = model_of("llama")
    inner = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs = inner(*args, **kwargs)
        outputs.logits = outputs.logits + outputs.logits.roll(1, -1)
        return outputs

    model.forward = forward
    assert head_of(model) is None
    check_equal(model, TokenLoss(model, head=None))


def test_in_bf16_the_loss_is_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3000, 32).to(torch.bfloat16)
    embedding = nn.Linear(32, 500, bias=False).to(torch.bfloat16)
    targets = torch.randint(0, 500, (3000,))

    def run(layer: nn.Linear, states: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        states = states.clone().requires_grad_()
        layer.zero_grad()
        loss = loss_module._summed_by_head(layer, Head(), states, targets, None)
        (loss / 3000).backward()
        assert states.grad is not None
        assert layer.weight.grad is not None
        return loss.item(), states.grad.double(), layer.weight.grad.double().clone()

    exact = nn.Linear(32, 500, bias=False)
    exact.load_state_dict(embedding.state_dict())
    expected, of_hidden, of_weight = run(exact, hidden.float())
    monkeypatch.setattr(loss_module, "MAX_LOGITS", 500 * 20)  # 150 slices
    loss, hidden_gradient, weight_gradient = run(embedding, hidden)
    assert loss == pytest.approx(expected, rel=2e-4)
    # bf16 has 8 bits. Added up in bf16, 150 slices would be off by some 2 %.
    assert (hidden_gradient - of_hidden).norm() < 5e-3 * of_hidden.norm()
    assert (weight_gradient - of_weight).norm() < 5e-3 * of_weight.norm()


def test_an_empty_micro_batch_gives_zero_with_a_graph() -> None:
    model = model_of("llama")
    loss = TokenLoss(model, head=Head())(collate([], packed=False, pad_id=0, device=CPU))
    assert loss.item() == 0.0
    assert not gradients(model, loss).any()


def test_the_loss_without_gradients_is_the_same() -> None:
    model = model_of("gemma2", final_logit_softcapping=3.0)
    token_loss, batch = TokenLoss(model, head=head_of(model)), micro_batch()
    with torch.inference_mode():
        quiet = token_loss(batch).item()
    assert quiet == pytest.approx(token_loss(batch).item(), rel=1e-6)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_adapters_on_and_off_the_head_get_their_gradients(tmp_path: Path, targets: Any) -> None:
    from trainer.adapters import attach

    folder = make_tiny_model(tmp_path / "model")
    config = TrainConfig.model_validate(
        {
            "model": str(folder),
            "data": {"train": [{"path": "train.jsonl"}]},
            "output_dir": str(tmp_path),
            "learning_rate": 1e-4,
            "effective_batch_size": 2,
            "method": "lora",
            "lora_targets": targets,
        }
    )
    model = attach(load_model(folder), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.1)
    assert head_of(model) == Head()
    check_equal(model, TokenLoss(model, head=head_of(model)))


def test_a_frozen_head_gets_no_gradient() -> None:
    model = model_of("llama")
    model.get_output_embeddings().weight.requires_grad_(False)
    check_equal(model, TokenLoss(model, head=Head()))
    assert model.get_output_embeddings().weight.grad is None


def test_backward_twice_is_refused() -> None:
    loss = TokenLoss(model_of("llama"), head=Head())(micro_batch())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already"):
        loss.backward()


def test_liger_without_a_gpu_or_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="needs a GPU"):
            TokenLoss(model, head=Head(), liger=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ConfigError, match="pip install liger-kernel") as refused:
        TokenLoss(model, head=Head(), liger=True)
    assert refused.value.pointer == "/liger"
