"""Counted FLOPs agree with published throughput, and with a count by hand."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.flops import FlopCounter, peak_flops, shape_of, training_flops, utilisation

H100 = 989.4e12
LLAMA_1B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
LLAMA_3B = LLAMA_1B | {
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "head_dim": 128,
}
LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
MISTRAL_7B = LLAMA_8B | {"model_type": "mistral", "vocab_size": 32000, "sliding_window": 4096}
MIXTRAL = MISTRAL_7B | {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA_1B, 1.2358e9),
        (LLAMA_3B, 3.2128e9),
        (LLAMA_8B, 8.0303e9),
        (MISTRAL_7B, 7.2417e9),
        (MIXTRAL, 46.703e9),
        ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257},
         123.5e6),
    ],
)  # fmt: skip
def test_a_shape_has_the_published_number_of_weights(
    config: dict[str, Any], parameters: float
) -> None:
    shape = shape_of(config)
    assert shape is not None
    assert shape.parameters == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize(
    ("config", "tokens_per_second"),
    [(LLAMA_1B, 66_000), (LLAMA_3B, 25_000), (LLAMA_8B, 10_000)],
)
def test_half_of_an_h100_is_the_published_throughput(
    config: dict[str, Any], tokens_per_second: float
) -> None:
    lengths = [512] * 64
    flops = training_flops(config, lengths)
    seconds = sum(lengths) / tokens_per_second
    peak = peak_flops("NVIDIA H100 80GB HBM3", "bf16")
    # The published figures are rounded, and count 8B's input embedding (7 %), which is looked up.
    assert utilisation(flops, seconds, peak) == pytest.approx(0.5, rel=0.09)


def test_attention_adds_a_tenth_at_four_thousand_tokens() -> None:
    short = training_flops(LLAMA_1B, [1] * 4096)
    long = training_flops(LLAMA_1B, [4096])
    assert long / short - 1 == pytest.approx(0.11, abs=0.005)


def test_a_count_by_hand() -> None:
    config = {
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 10,
    }
    # q, o: 4 x 4; k, v: 4 x 2; three of 4 x 8. Products of 2 heads of 2, both, half of 5 x 5.
    body = 2 * (2 * 16 + 2 * 8 + 3 * 32)
    expected = 6 * (body * 8 + 40 * 3) + 3 * 2 * (2 * (2 * 2) * (5 * 5 + 3 * 3))
    assert training_flops(config, [5, 3], targets=3) == expected


def test_a_window_counts_what_is_inside() -> None:
    within = training_flops(MISTRAL_7B, [4096])
    assert within == training_flops(MISTRAL_7B | {"sliding_window": None}, [4096])
    pairs = sum(min(i + 1, 100) for i in range(1000))
    few = MISTRAL_7B | {"sliding_window": 100}
    attention = training_flops(few, [1000]) - training_flops(few, [1] * 1000)
    assert attention == pytest.approx(3 * 4 * 4096 * 32 * (pairs - 1000), rel=2e-2)


def test_only_the_experts_of_a_token_count() -> None:
    dense = training_flops(MIXTRAL | {"num_local_experts": 2}, [64])
    assert training_flops(MIXTRAL, [64]) == dense


def test_frozen_weights_need_no_gradient() -> None:
    lora = FlopCounter.of(LLAMA_1B, adapters=10_000_000)
    full = FlopCounter.of(LLAMA_1B)
    assert lora is not None
    assert full is not None
    weights = full.body + full.head
    assert full.step([8]) - lora.step([8]) == 8 * (2 * weights - 6 * 10_000_000)


def test_known_parameters_override_the_shape() -> None:
    counter = FlopCounter.of(LLAMA_1B, parameters=1_300_000_000)
    assert counter is not None
    assert counter.body == 1_300_000_000 - 128256 * 2048


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 311.9e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362.1e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("AMD Instinct MI300X", 1307.4e12),
        ("Tesla V100-SXM2-16GB", None),
        ("Tesla T4", None),
        ("cpu", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_are_found_by_device_name(name: str, peak: float | None) -> None:
    assert peak_flops(name, "bf16") == peak


def test_there_is_no_utilisation_without_a_peak() -> None:
    assert utilisation(1e12, 1.0, peak_flops("cpu", "fp32")) is None
    assert utilisation(H100, 2.0, H100, ranks=4) == pytest.approx(0.125)
