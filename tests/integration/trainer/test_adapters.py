"""LoRA and QLoRA: what gets adapters, what is trained, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from tests.fixtures.engine_runs import configure, opened, save, train
from tests.fixtures.tiny_model import make_tiny_model
from trainer import adapters, checkpoint, model
from trainer.attention import supports_packing
from trainer.errors import ConfigError
from trainer.loss import head_of

pytestmark = [pytest.mark.deepspeed, pytest.mark.usefixtures("process_group")]

LAST = 5
"""Steps of a run that is resumed after two: the optimizer's state shows from the fourth on."""

ARCHITECTURES = ("llama", "granite", "mistral", "qwen3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    # 4-bit weights share a scale by 64.
    return {
        name: make_tiny_model(folder / name, hidden=64, architecture=name) for name in ARCHITECTURES
    }


def trained_names(language_model: Any) -> list[str]:
    return [name for name, p in language_model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adapted_model_is_still_what_it_was(folders: dict[str, Path], name: str) -> None:
    plain = model.load_model(folders[name])
    adapted = model.load_model(folders[name])
    assert adapters.attach(adapted, configure(folders[name], method="lora")) is adapted
    assert type(adapted) is type(plain)
    assert type(adapted.base_model) is type(plain.base_model)
    assert head_of(adapted) == head_of(plain)
    assert supports_packing(adapted)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(adapted(ids).logits, plain(ids).logits)
    # Two factors for each of seven linear layers in each of two blocks, and none for the head.
    assert len(trained_names(adapted)) == 2 * 7 * 2
    assert all("lora_" in name for name in trained_names(adapted))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_decoder_layers_are_found(folders: dict[str, Path], name: str) -> None:
    adapted = model.load_model(folders[name])
    adapters.attach(adapted, configure(folders[name], method="lora"))
    assert model.decoder_layers(adapted) == list(adapted.model.layers)


def test_the_layers_can_be_chosen(folders: dict[str, Path]) -> None:
    adapted = model.load_model(folders["llama"])
    config = configure(folders["llama"], method="lora", lora_targets=("q_proj", "mlp.up_proj"))
    adapters.attach(adapted, config)
    names = trained_names(adapted)
    assert len(names) == 2 * 2 * 2
    assert all("q_proj" in name or "up_proj" in name for name in names)


def test_layers_that_there_are_not_are_refused_with_those_there_are(
    folders: dict[str, Path],
) -> None:
    config = configure(folders["llama"], method="lora", lora_targets=("q_proj", "c_attn", "norm"))
    with pytest.raises(ConfigError, match=r"c_attn, norm can't.*down_proj.*q_proj") as refused:
        adapters.attach(model.load_model(folders["llama"]), config)
    assert refused.value.pointer == "/lora_targets"


def test_a_head_that_is_also_the_embedding_gets_no_adapter(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, tied=True)
    config = configure(folder, method="lora", lora_targets=("lm_head",))
    with pytest.raises(ConfigError, match="lm_head can't get adapters"):
        adapters.attach(model.load_model(folder), config)


def test_the_seed_draws_the_adapters_and_leaves_the_stream_of_numbers_alone(
    folders: dict[str, Path],
) -> None:
    def factors(seed: int) -> list[torch.Tensor]:
        config = configure(folders["llama"], method="lora", seed=seed)
        adapted = adapters.attach(model.load_model(folders["llama"]), config)
        return [p.detach() for p in adapted.parameters() if p.requires_grad]

    torch.manual_seed(3)
    undisturbed = torch.rand(1)
    torch.manual_seed(3)
    first = factors(1)
    assert torch.rand(1) == undisturbed
    assert all(torch.equal(a, b) for a, b in zip(first, factors(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, factors(2), strict=True))


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "lora", "zero_stage": 1},
        {"method": "lora", "zero_stage": 1, "precision": "bf16"},
        {"method": "lora", "zero_stage": 2, "offload": "optimizer"},
        {"method": "lora", "zero_stage": 3, "precision": "bf16"},
        {"method": "qlora", "zero_stage": 1},
        {"method": "qlora", "zero_stage": 2, "precision": "bf16"},
    ],
    ids=lambda fields: "-".join(str(v) for v in fields.values()),
)
def test_adapters_train_and_resume_exactly_and_only_they_are_saved(
    folders: dict[str, Path], tmp_path: Path, fields: dict[str, Any]
) -> None:
    config = configure(folders["llama"], **fields)
    with opened(config) as running:
        whole = train(
            running,
            last=LAST,
            after=lambda step: step == 1 and save(running, tmp_path, 2),
        )
        trained = running.parameters
    assert len(set(whole.losses)) == LAST
    with opened(config) as running:
        with checkpoint.reader(tmp_path / "step-2") as state:
            assert state.size == trained < 40_000
        running.load(checkpoint.reader(tmp_path / "step-2"))
        rest = train(running, first=2, last=LAST)
    assert (rest.losses, rest.norms) == (whole.losses[2:], whole.norms[2:])


def test_the_base_of_qlora_is_in_4_bits_and_a_little_off(folders: dict[str, Path]) -> None:
    plain = model.load_model(folders["llama"])
    small = model.load_model(folders["llama"], four_bits="fp32")
    packed = small.model.layers[0].mlp.up_proj.weight
    exact = plain.model.layers[0].mlp.up_proj.weight
    assert (packed.dtype, packed.numel()) == (torch.uint8, exact.numel() // 2)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        trained, evaluated = small.train()(ids).logits, small.eval()(ids).logits
    assert torch.equal(trained, evaluated)
    stands_for = dequantize_4bit(packed.data, packed.quant_state)
    # The widest gap between two of NF4's values is 0.3 of a block's largest.
    assert 0 < (stands_for - exact).abs().max() < 0.16 * exact.abs().max()


def test_without_bitsandbytes_qlora_is_refused_with_a_way_out(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.four_bit_problem() is None
    monkeypatch.setattr(model, "find_spec", lambda name: None if name == "bitsandbytes" else name)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes.*or use method: lora") as refused:
        model.load_model(folders["llama"], four_bits="fp32")
    assert refused.value.pointer == "/method"


def test_a_second_run_finds_the_base_in_memory(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    first = adapters.attach(
        model.load_model(folders["llama"]), configure(folders["llama"], method="lora")
    )
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(7.0)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("read from disk")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    second = model.load_model(folders["llama"])
    assert not adapters.has_adapters(second)
    assert not any((parameter == 7.0).all() for parameter in second.parameters())
