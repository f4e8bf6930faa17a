"""Low-rank adapters (LoRA, QLoRA) by peft: put into a model, merged out of it, saved beside it.

They are injected in place, so the model stays the class that it was: its `base_model`, its output
embedding and its attention are found where they always are. The base is frozen and keeps its own
precision; DeepSpeed sees only the adapters as trained weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.config import TrainConfig
from trainer.errors import ConfigError

_NAME = "default"
"""peft's name for the only adapter; it occurs in the names of its weights."""


def attach(model: Any, config: TrainConfig) -> Any:
    """Put fresh adapters into `model` as `config` says; with `method: full`, nothing happens.

    A new adapter changes nothing: one of its two factors is zero. The other is drawn from the
    run's seed.

    Args:
        model: a causal language model; for `qlora` one that `load_model` gave in 4 bits.
        config: the run.

    Returns:
        The same object.

    Raises:
        ConfigError: `lora_targets` matches no linear layer.
    """
    if config.method == "full":
        return model
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, needed or not
    import peft

    targets: str | list[str] = "all-linear"
    if config.lora_targets != "all-linear":
        targets = list(config.lora_targets)
        _check_targets(targets, model)
    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType] (any number will do)
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        task_type=peft.TaskType.CAUSAL_LM,
        base_model_name_or_path=config.model,
    )
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(config.seed)
        peft.inject_adapter_in_model(settings, model, _NAME)
    return model


def linear_layers(model: nn.Module) -> list[str]:
    """Full names of the layers that can get adapters: all linear ones."""
    from transformers.pytorch_utils import Conv1D

    return [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))]


def _check_targets(targets: list[str], model: Any) -> None:
    """As peft matches them: a full name, or its end after a dot."""
    names = linear_layers(model)
    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        names = [name for name in names if model.get_submodule(name) is not head]
    unknown = [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if unknown:
        kinds = sorted({name.rpartition(".")[2] for name in names})
        raise ConfigError(
            f"lora_targets: {', '.join(unknown)} can't get adapters; the linear layers of this "
            f"model are {', '.join(kinds)}: name some of them, or write all-linear",
            "/lora_targets",
        )


def has_adapters(model: Any) -> bool:
    """Whether `attach` has put adapters into `model`."""
    return _NAME in getattr(model, "peft_config", {})


def merge(model: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of the model without adapters that computes the same.

    Computed in fp32: W + (alpha / rank) · B A.

    Args:
        model: the model with adapters; only its structure is looked at.
        weights: its state dict, as `Engine.weights` gives it.
    """
    from peft.tuners.lora import LoraLayer

    merged = {
        name.replace(".base_layer.", "."): value
        for name, value in weights.items()
        if not _is_adapter(name)
    }
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        first = weights[f"{name}.lora_A.{_NAME}.weight"].float()
        second = weights[f"{name}.lora_B.{_NAME}.weight"].float()
        change = second @ first * layer.scaling[_NAME]
        if getattr(layer, "fan_in_fan_out", False):
            change = change.T
        merged[f"{name}.weight"] = merged[f"{name}.weight"].float() + change
    return merged


def save(folder: Path, model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a folder that `PeftModel.from_pretrained` opens on the base model.

    Args:
        folder: created if absent.
        model: the model with adapters; only its settings are looked at.
        weights: its state dict, as `Engine.weights` gives it.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": value.contiguous()
        for name, value in weights.items()
        if _is_adapter(name)
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings: Any = model.peft_config[_NAME]
    before, settings.inference_mode = settings.inference_mode, True
    try:
        settings.save_pretrained(folder)
    finally:
        settings.inference_mode = before


def _is_adapter(name: str) -> bool:
    return f".lora_A.{_NAME}." in name or f".lora_B.{_NAME}." in name
