"""A run's model, put together: base, adapters, attention, loss, DeepSpeed. The order matters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import adapters, engine
from trainer.attention import choose
from trainer.config import TrainConfig, trusted_code
from trainer.flops import FlopCounter, peak_flops, utilisation
from trainer.loss import TokenLoss, head_of
from trainer.model import compile_layers, load_model
from trainer.packing import Indices


@dataclass(frozen=True, slots=True)
class Built:
    """A model that is ready to train.

    `packed`: it takes packed micro-batches; `dropout`: its forward pass draws random numbers;
    `flops` counts what its steps take, where its configuration tells.
    """

    engine: engine.Engine
    packed: bool
    dropout: bool
    flops: FlopCounter | None

    def mfu(self, lengths: Indices, targets: int, seconds: float) -> float | None:
        """Model FLOPs utilisation of a step, 0 … 1; None where the device's peak is unknown.

        Args:
            lengths: tokens of each sample of the step, over all ranks.
            targets: target tokens of all of them.
            seconds: what the step took.
        """
        where = engine.device()
        if self.flops is None or where.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(where), self.engine.precision)
        work = self.flops.step(lengths.tolist(), targets)
        return utilisation(work, seconds, peak, engine.world_size())


def build(config: TrainConfig, folder: Path) -> Built:
    """The model in `folder` as `config` wants to train it. All ranks together.

    Raises:
        TrainerError: names what the model or this machine can't do.
    """
    four_bits = engine.precision_of(config) if config.method == "qlora" else None
    model = adapters.attach(
        load_model(folder, four_bits=four_bits, trusted=trusted_code(config)), config
    )
    if config.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    packed = choose(model, config.attention)
    loss = TokenLoss(model, head=head_of(model), liger=config.liger).train()
    if config.compile:  # after the trial passes above, which would be compiled too
        compile_layers(model)
    made = engine.Engine(loss, config)
    whole = config.method == "full"
    flops = FlopCounter.of(
        model.config.to_dict(),
        parameters=made.parameters if whole else None,
        adapters=None if whole else made.parameters,
    )
    return Built(made, packed, _has_dropout(model), flops)


def _has_dropout(model: Any) -> bool:
    if any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules()):
        return True
    settings: dict[str, Any] = model.config.to_dict()
    return any("drop" in name and value for name, value in settings.items())
