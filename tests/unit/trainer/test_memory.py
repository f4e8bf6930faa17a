"""The estimate is what the engine allocates, and what can't fit is refused with what would."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.trainer.test_flops import LLAMA_3B, LLAMA_8B
from trainer.config import TrainConfig
from trainer.memory import GIB, estimate, problems

SEVEN_B = LLAMA_8B | {"vocab_size": 32000, "num_key_value_heads": 32, "intermediate_size": 11008}


def config(tmp_path: Path, **fields: Any) -> TrainConfig:
    settings = {
        "model": str(tmp_path),
        "data": {"train": [{"path": "train.jsonl"}]},
        "output_dir": str(tmp_path / "out"),
        "learning_rate": 1e-5,
        "effective_batch_size": 8,
    }
    return TrainConfig.model_validate(settings | fields)


def folder_of(tmp_path: Path, model_config: dict[str, Any]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(model_config), encoding="utf-8")
    return tmp_path


def refusals(tmp_path: Path, gpu: float, *, ranks: int = 1, **fields: Any) -> list[tuple[str, str]]:
    """Of a 3B model whose longest sample has 2,048 tokens, on GPUs of so many GiB."""
    return problems(
        config(tmp_path, **fields),
        folder_of(tmp_path, LLAMA_3B),
        2048,
        gpu_bytes=int(gpu * GIB),
        ranks=ranks,
        disk_free=2**60,
        parameters=3_212_000_000,
    )


def test_a_7b_full_fine_tune_takes_the_known_bytes_a_parameter(tmp_path: Path) -> None:
    # Mixed-precision Adam: 2 + 2 + 4 + 4 + 4 = 16 (ZeRO's paper, section 3.1), and 4 for exact
    # accumulation in fp32.
    size = 6_738_000_000
    needed = estimate(config(tmp_path), SEVEN_B, size, ranks=1)
    kept = needed.weights + needed.gradients + needed.optimizer
    assert kept / size == pytest.approx(20, abs=0.01)
    assert kept - 4 * size == pytest.approx(108e9, rel=0.01)
    assert needed.checkpoint / size == pytest.approx(12, abs=0.01)


@pytest.mark.parametrize(
    ("stage", "bytes_per_parameter"), [(0, 9.5), (1, 9.5), (2, 4.0), (3, 2.25)]
)
def test_sharding_divides_what_its_stage_divides(
    tmp_path: Path, stage: int, bytes_per_parameter: float
) -> None:
    size = 8_030_000_000
    needed = estimate(config(tmp_path, zero_stage=stage), LLAMA_8B, size, ranks=8)
    kept = needed.weights + needed.gradients + needed.optimizer
    assert kept / size == pytest.approx(bytes_per_parameter, rel=0.01)


def test_a_3b_full_fine_tune_on_24_gb_is_refused_with_what_fits(tmp_path: Path) -> None:
    ((pointer, message),) = refusals(tmp_path, 24)
    assert pointer == "/offload"
    assert "3.2B" in message
    assert "24.0 GiB" in message
    assert "method: lora" in message
    assert "offload: optimizer" in message
    assert message.index("offload") < message.index("lora") < message.index("qlora")


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "lora"},
        {"method": "qlora"},
        {"offload": "optimizer", "zero_stage": 2, "max_tokens_per_microbatch": 2048},
        {"offload": "all", "zero_stage": 3, "max_tokens_per_microbatch": 2048},
    ],
)
def test_what_is_said_to_fit_is_not_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    ((_, message),) = refusals(tmp_path, 24)
    for name, value in fields.items():
        assert f"{name}: {value}" in message
    assert refusals(tmp_path, 24, **fields) == []


def test_several_ranks_are_told_to_shard(tmp_path: Path) -> None:
    ((pointer, message),) = refusals(tmp_path, 24, ranks=8)
    assert pointer == "/zero_stage"
    assert "zero_stage: 2" in message
    assert "each of 8 GPUs" in message


def test_a_micro_batch_alone_is_told_to_shrink(tmp_path: Path) -> None:
    ((pointer, _),) = refusals(tmp_path, 80, zero_stage=2)
    assert pointer == "/max_tokens_per_microbatch"
    # Under ZeRO 1 the run itself finds a cap that fits.
    assert refusals(tmp_path, 80, zero_stage=1) == []


def test_what_nothing_helps_is_said_so(tmp_path: Path) -> None:
    ((pointer, message),) = refusals(tmp_path, 1)
    assert pointer == "/model"
    assert "smaller model" in message


def test_nothing_is_refused_where_no_gpu_can_be_asked(tmp_path: Path) -> None:
    huge = folder_of(tmp_path, LLAMA_8B)
    run = config(tmp_path)
    found = problems(run, huge, 2048, disk_free=2**60, parameters=10**13, device=None)
    assert found == [] or "GPU" in found[0][1]  # this machine may have one
    ((pointer, message),) = problems(
        run, huge, 2048, disk_free=2**60, parameters=10**13, device="cpu"
    )
    assert pointer == "/model"
    assert "on CPU" in message


def test_a_full_disk_is_refused(tmp_path: Path) -> None:
    run = config(tmp_path, checkpoint_at=[100, 200, 300])
    folder = folder_of(tmp_path, LLAMA_3B)
    size = 3_212_000_000
    needed = estimate(run, LLAMA_3B, size, ranks=1)
    enough = 3 * needed.checkpoint + needed.export  # two are kept while the next is written

    def on_disk(free: int) -> list[tuple[str, str]]:
        return problems(run, folder, 2048, gpu_bytes=2**60, disk_free=free, parameters=size)

    assert on_disk(enough) == []
    ((pointer, message),) = on_disk(enough - 1)
    assert pointer == "/output_dir"
    assert "keep_checkpoints: 1" in message


def test_the_summary_names_every_part(tmp_path: Path) -> None:
    text = estimate(config(tmp_path), LLAMA_8B, 8_030_000_000, ranks=1).summary()
    for part in ("weights", "gradients", "optimizer", "activations", "per GPU", "checkpoint"):
        assert part in text


@pytest.mark.deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("process_group")
def test_the_engine_allocates_what_is_estimated(tmp_path: Path, precision: str, stage: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainer import engine
    from trainer.attention import collate
    from trainer.loss import Head, TokenLoss

    before = _tensors()
    sizes = LlamaConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        vocab_size=256,
    )
    model: Any = LlamaForCausalLM(sizes)
    if precision == "bf16":
        model = model.to(torch.bfloat16)
    run = config(tmp_path, precision=precision, zero_stage=stage, offload="none")
    trained = engine.Engine(TokenLoss(model, head=Head()), run)
    size = trained.parameters
    ids = np.arange(40)
    for step in range(2):
        for _ in range(2):
            batch = collate([(ids, ids > 2)], packed=False, pad_id=0, device=engine.device())
            trained.backward(trained.forward(batch), 74)
        if step == 0:
            trained.step(1e-5)  # makes the optimizer's state
    held = _tensors()
    bucket = 2 * size * 4  # the buffer that gradients are reduced from, not one of the parts
    measured = sum(n for key, n in held.items() if key not in before and n != bucket)
    trained.close()
    needed = estimate(run, sizes.to_dict(), size, ranks=1, device="cpu")
    kept = needed.weights + needed.gradients + needed.optimizer
    assert kept == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_autograd_keeps(
    tmp_path: Path, precision: str, checkpointing: bool
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainer.attention import collate
    from trainer.loss import Head, TokenLoss

    sizes = LlamaConfig(
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=32 if checkpointing else 8,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=16,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    model: Any = LlamaForCausalLM(sizes)
    model.to(torch.bfloat16 if precision == "bf16" else torch.float32).train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = np.arange(512) % 16
    batch = collate([(ids, ids >= 0)], packed=False, pad_id=0, device=torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = TokenLoss(model, head=Head())(batch)
    assert loss.requires_grad
    run = config(tmp_path, precision=precision, activation_checkpointing=checkpointing)
    needed = estimate(run, sizes.to_dict(), 10**6, ranks=1, tokens=512).activations
    if checkpointing:  # one layer's are made again, during the backward pass
        run = config(tmp_path, precision=precision)
        one = sizes.to_dict() | {"num_hidden_layers": 1}
        needed -= estimate(run, one, 10**6, ranks=1, tokens=512).activations
        assert needed == pytest.approx(sum(kept.values()), rel=0.2)
    else:
        assert needed == pytest.approx(sum(kept.values()), rel=0.1)


def _tensors() -> dict[int, int]:
    """Bytes of each storage that a tensor or a gradient lies in, by address."""
    import torch

    gc.collect()
    found: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thing in gc.get_objects():
            if type(thing) in (torch.Tensor, torch.nn.Parameter):  # no fakes of the compiler's
                for tensor in (thing, thing.grad if thing.is_leaf else None):
                    if tensor is not None:
                        storage = tensor.untyped_storage()
                        found[storage.data_ptr()] = storage.nbytes()
    return found
