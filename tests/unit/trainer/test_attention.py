"""Packed and padded micro-batches give the loss and gradient of samples taken one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.fixtures.tiny_model import make_tiny_model
from trainer import loss as loss_module
from trainer.attention import (
    PACKED,
    Sample,
    attending,
    choose,
    collate,
    packed_attention,
    packing_obstacle,
    supports_packing,
)
from trainer.errors import ConfigError
from trainer.loss import Head, TokenLoss, head_of
from trainer.model import load_model

CPU = torch.device("cpu")


def samples(lengths: list[int], seed: int = 0) -> list[Sample]:
    draw = np.random.default_rng(seed)
    made: list[Sample] = []
    for length in lengths:
        mask = draw.random(length) < 0.5
        mask[0], mask[-1] = False, True
        made.append((draw.integers(0, 300, length), mask))
    return made


def loss_and_gradient(model: Any, batches: list[list[Sample]], packed: bool) -> tuple[float, Any]:
    model.zero_grad()
    token_loss = TokenLoss(model, head=head_of(model))
    total = 0.0
    for batch in batches:
        micro_batch = collate(batch, packed=packed, pad_id=0, device=CPU)
        with attending(micro_batch.segments):
            part = token_loss(micro_batch)
            part.backward()
        total += part.item()
    return total, torch.cat([p.grad.reshape(-1) for p in model.parameters()])


def by_hand(model: Any, items: list[Sample]) -> float:
    """Mean-free loss from transformers' own logits, a sample at a time."""
    total = 0.0
    with torch.no_grad():
        for ids, mask in items:
            logits = model(input_ids=torch.tensor(ids)[None]).logits[0].log_softmax(-1)
            total -= sum(float(logits[t - 1, ids[t]]) for t in range(1, len(ids)) if mask[t])
    return total


@pytest.mark.parametrize(
    "lengths", [[9], [7, 7, 7], [40, 33, 12, 11, 5, 2], [64, 2, 2], [4, 3, 1 + 1], [16, 8, 8, 3]]
)
def test_packed_padded_and_single_samples_agree(tiny_model: Path, lengths: list[int]) -> None:
    items = samples(lengths)
    model = load_model(tiny_model)
    expected = by_hand(model, items)
    single, gradient = loss_and_gradient(model, [[item] for item in items], packed=False)
    padded, padded_gradient = loss_and_gradient(model, [items], packed=False)
    assert supports_packing(model)
    packed, packed_gradient = loss_and_gradient(model, [items], packed=True)
    assert single == pytest.approx(expected, rel=1e-5)
    assert padded == pytest.approx(expected, rel=1e-5)
    assert packed == pytest.approx(expected, rel=1e-5)
    scale = gradient.abs().max()
    assert (padded_gradient - gradient).abs().max() < 1e-5 * scale
    assert (packed_gradient - gradient).abs().max() < 1e-5 * scale


def test_a_packed_sample_does_not_see_its_neighbour(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    assert supports_packing(model)
    token_loss = TokenLoss(model, head=Head())
    first, second, third = samples([20, 14, 9])
    muted = [(ids, np.zeros_like(mask)) for ids, mask in samples([20, 14, 9], seed=5)]
    with torch.no_grad():
        one = token_loss(collate([first, muted[1], muted[2]], packed=True, pad_id=0, device=CPU))
        other = token_loss(
            collate(
                [first, (second[0], muted[1][1]), (third[0], muted[2][1])],
                packed=True,
                pad_id=0,
                device=CPU,
            )
        )
    assert one.item() == other.item()


def test_an_empty_micro_batch_adds_nothing(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    assert supports_packing(model)
    for packed in (True, False):
        loss, gradient = loss_and_gradient(model, [[]], packed=packed)
        assert loss == 0.0
        assert not gradient.any()


def test_activation_checkpointing_changes_nothing(tiny_model: Path) -> None:
    items = samples([30, 12, 11])
    model = load_model(tiny_model).train()
    assert supports_packing(model)
    loss, gradient = loss_and_gradient(model, [items], packed=True)
    model.activation_checkpointing_enable({"use_reentrant": False})
    again, again_gradient = loss_and_gradient(model, [items], packed=True)
    assert again == loss
    assert torch.allclose(gradient, again_gradient, atol=1e-7)


def test_logits_in_slices_give_the_same_loss(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = samples([30, 12, 11])
    model = load_model(tiny_model)
    loss, gradient = loss_and_gradient(model, [items], packed=False)
    monkeypatch.setattr(loss_module, "MAX_LOGITS", 5 * model.config.vocab_size)
    sliced, sliced_gradient = loss_and_gradient(model, [items], packed=False)
    assert sliced == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(gradient, sliced_gradient, atol=1e-5)


def test_a_model_that_scales_its_logits_keeps_doing_so(tmp_path: Path) -> None:
    model = load_model(make_tiny_model(tmp_path / "granite", architecture="granite"))
    model.config.logits_scaling = 4.0
    assert head_of(model) != Head()
    items = samples([20, 9])
    assert supports_packing(model)
    packed, _ = loss_and_gradient(model, [items], packed=True)
    assert packed == pytest.approx(by_hand(model, items), rel=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "mamba"])
def test_models_that_cannot_be_packed_are_padded(tmp_path: Path, architecture: str) -> None:
    model = load_model(make_tiny_model(tmp_path / architecture, architecture=architecture))
    packable = supports_packing(model)
    items = samples([20, 9, 4])
    expected = by_hand(model, items)
    if architecture == "mamba":
        assert not packable
    for packed in {False, packable}:
        loss, _ = loss_and_gradient(model, [items], packed=packed)
        assert loss == pytest.approx(expected, rel=1e-4)


def tiny(kind: str, **fields: Any) -> Any:
    """A random model of a kind, with a hidden width of 32."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 300,
    }
    config = AutoConfig.for_model(kind, **(sizes | fields))
    return AutoModelForCausalLM.from_config(config)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "granite": ("granite", {"attention_multiplier": 0.05, "logits_scaling": 3.0}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 5}),
    "mistral with a wide window": ("mistral", {"sliding_window": 4096}),
    "qwen3": ("qwen3", {}),
    "qwen3 with windows": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "gemma3": ("gemma3_text", {"sliding_window": 7, "query_pre_attn_scalar": 8}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_packs_exactly(kind: str) -> None:
    name, fields = KINDS[kind]
    model = tiny(name, **fields)
    items = samples([90, 40, 33, 12, 11, 5, 2])
    expected = by_hand(model, items)
    single, gradient = loss_and_gradient(model, [[item] for item in items], packed=False)
    assert choose(model, "linear")
    assert model.config._attn_implementation == PACKED
    packed, packed_gradient = loss_and_gradient(model, [items], packed=True)
    assert packed == pytest.approx(expected, rel=1e-5)
    assert packed == pytest.approx(single, rel=1e-5)
    assert (packed_gradient - gradient).abs().max() < 1e-5 * gradient.abs().max()


def test_packing_in_bf16_agrees_within_its_precision() -> None:
    model = tiny("llama").to(torch.bfloat16)
    items = samples([90, 40, 33, 12])
    single, gradient = loss_and_gradient(model, [[item] for item in items], packed=False)
    assert choose(model, "linear")
    packed, packed_gradient = loss_and_gradient(model, [items], packed=True)
    assert packed == pytest.approx(single, rel=2e-3)
    difference = (packed_gradient.float() - gradient.float()).norm() / gradient.float().norm()
    assert difference < 2e-2


@pytest.mark.parametrize("kind", ["llama", "mistral with a window", "granite"])
def test_hidden_states_do_not_move_when_a_neighbour_changes(kind: str) -> None:
    name, fields = KINDS[kind]
    model = tiny(name, **fields).eval()
    assert choose(model, "auto")
    items, others = samples([60, 44, 30, 29, 7]), samples([60, 44, 30, 29, 7], seed=9)

    def hidden(chosen: list[Sample]) -> torch.Tensor:
        batch = collate(chosen, packed=True, pad_id=0, device=CPU)
        with torch.no_grad(), attending(batch.segments):
            return model.base_model(input_ids=batch.input_ids, position_ids=batch.position_ids)[0]

    before = hidden(items)[0].split([60, 44, 30, 29, 7])
    for changed in range(len(items)):
        mixed = [others[i] if i == changed else item for i, item in enumerate(items)]
        after = hidden(mixed)[0].split([60, 44, 30, 29, 7])
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            assert torch.equal(one, other) == (i != changed)


def test_the_first_token_of_a_sample_is_no_target_of_the_one_before() -> None:
    ids = np.arange(5)
    everything = np.ones(5, np.bool_)
    for packed in (True, False):
        batch = collate([(ids, everything)] * 3, packed=packed, pad_id=0, device=CPU)
        assert batch.targets.tolist() == [1, 2, 3, 4] * 3


def test_linear_attention_is_refused_where_it_is_not_exact(tmp_path: Path) -> None:
    model = load_model(make_tiny_model(tmp_path / "mamba", architecture="mamba"))
    assert not choose(model, "auto")
    with pytest.raises(ConfigError, match="attention to auto or padded") as refused:
        choose(model, "linear")
    assert refused.value.pointer == "/attention"
    eager = tiny("llama", attn_implementation="eager")
    with pytest.raises(ConfigError, match="eager"):
        choose(eager, "linear")
    assert eager.config._attn_implementation == "eager"


def test_a_window_that_layers_keep_to_themselves_is_not_packed() -> None:
    model = tiny("mistral", sliding_window=5)

    class Silent:
        """The model's configuration, as a layer that doesn't pass its window on would read it."""

        sliding_window = None

        def __getattr__(self, name: str) -> Any:
            return getattr(model.config, name)

    for layer in model.model.layers:
        layer.self_attn.config = Silent()
    assert "window" in (packing_obstacle(model) or "")
    assert model.config._attn_implementation == "sdpa"


def test_padded_attention_is_left_alone() -> None:
    model = tiny("llama")
    assert not choose(model, "padded")
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the flash kernel needs a GPU")
@pytest.mark.parametrize("window", [None, 5, 64])
def test_the_flash_kernel_agrees_with_rectangles(window: int | None) -> None:
    device = torch.device("cuda")
    batch = collate(samples([90, 40, 33, 12, 5]), packed=True, pad_id=0, device=device)
    made: list[tuple[torch.Tensor, ...]] = []
    for by_kernel in (True, False):
        torch.manual_seed(0)
        shapes = [(1, heads, 180, 64) for heads in (8, 2, 2)]
        query, key, value = (
            torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_()
            for shape in shapes
        )
        assert batch.segments is not None
        if not by_kernel:
            batch.segments.cu_seq_lens = None
        assert (batch.segments.cu_seq_lens is not None) == by_kernel
        with attending(batch.segments):
            out, _ = packed_attention(
                torch.nn.Module(), query, key, value, None, scaling=0.1, sliding_window=window
            )
            out.float().square().sum().backward()
        inputs = (query, key, value)
        made.append((out.detach(), *(i.grad for i in inputs if i.grad is not None)))
    for one, other in zip(*made, strict=True):
        assert (one.float() - other.float()).norm() < 2e-2 * other.float().norm()
