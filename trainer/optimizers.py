"""Optimizers by name, and their state as plain tensors.

Each runs on flat pieces of the fp32 master weights that ignore where one parameter ends and the
next begins, so only elementwise ones are here (no Muon, Adafactor or LAMB).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainer.config import TrainConfig
from trainer.errors import ConfigError

_BLOCK = 256
"""Elements that share a scale in bitsandbytes' 8-bit states."""


def build(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that `config` names.

    `adam_betas` are the decay rates of the two moments; rmsprop uses the second for its average,
    sgd the first as momentum. `weight_decay` is decoupled from the gradient in adamw, adamw_8bit,
    nadam, radam and lion, and added to it (L2) in adam, rmsprop and sgd.

    With `offload` the step is made on the CPU.

    Raises:
        ConfigError: it needs a package that isn't installed.
    """
    name, decay, rate = config.optimizer, config.weight_decay, config.learning_rate
    (beta1, beta2), eps = config.adam_betas, config.adam_eps
    adam: dict[str, Any] = {
        "lr": rate, "betas": (beta1, beta2), "eps": eps, "weight_decay": decay,
    }  # fmt: skip
    if config.offload != "none" and torch.cuda.is_available() and name in ("adam", "adamw"):
        compiled = _deepspeed_cpu_adam(parameters, adam, decoupled=name == "adamw")
        if compiled is not None:
            return compiled
    match name:
        case "adamw":
            return torch.optim.AdamW(parameters, fused=True, **adam)
        case "adam":
            return torch.optim.Adam(parameters, fused=True, **adam)
        # With one flat tensor `foreach` gains nothing and holds more copies of it at a time.
        case "nadam":
            return torch.optim.NAdam(parameters, decoupled_weight_decay=True, foreach=False, **adam)
        case "radam":
            return torch.optim.RAdam(parameters, decoupled_weight_decay=True, foreach=False, **adam)
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters, lr=rate, alpha=beta2, eps=eps, weight_decay=decay, foreach=False
            )
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=rate, momentum=beta1, weight_decay=decay, fused=True
            )
        case "lion":
            lion = _bitsandbytes(name).Lion
            return lion(parameters, lr=rate, betas=(beta1, beta2), weight_decay=decay)
        case "adamw_8bit":
            return _bitsandbytes(name).AdamW8bit(parameters, **adam)


def _bitsandbytes(name: str) -> Any:
    try:
        return importlib.import_module("bitsandbytes.optim")
    except Exception as error:  # also a library that doesn't fit the driver
        raise ConfigError(
            f"optimizer {name} needs bitsandbytes, which can't be used here "
            f"({type(error).__name__}: {error}); install it, or set optimizer to adamw",
            "/optimizer",
        ) from error


def _deepspeed_cpu_adam(
    parameters: Sequence[nn.Parameter], settings: dict[str, Any], *, decoupled: bool
) -> torch.optim.Optimizer | None:
    """DeepSpeed's vectorised Adam for the CPU; None where it can't be compiled."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    try:
        return DeepSpeedCPUAdam(list(parameters), adamw_mode=decoupled, **settings)
    except Exception:  # no compiler, or one that doesn't fit: torch's is nearly as fast
        return None


# --- state ------------------------------------------------------------------------------------


def state_of(
    optimizer: torch.optim.Optimizer, flat: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The state kept for `flat`, by name: (one value an element, one value in all).

    Values in 8 bits are given in fp32, so that they can be cut anywhere.
    """
    state: dict[str, Any] = optimizer.state.get(flat, {})
    each: dict[str, torch.Tensor] = {}
    single: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name.startswith(("qmap", "absmax")):
            continue
        if not isinstance(value, torch.Tensor):
            if isinstance(value, (int, float)):
                single[name] = torch.tensor(value, dtype=torch.float64)
        elif value.dtype == torch.uint8:
            each[name] = _from_8_bits(value, state, name[-1])
        elif value.numel() == flat.numel() and value.dim() == 1:
            each[name] = value
        elif value.dim() == 0:
            single[name] = value.detach().cpu()
    return each, single


def restore(
    optimizer: torch.optim.Optimizer,
    flat: torch.Tensor,
    each: dict[str, torch.Tensor],
    single: dict[str, torch.Tensor],
) -> None:
    """Set the state kept for `flat` to what `state_of` gave.

    Each of `each` has the size and device of `flat` and becomes the optimizer's own.
    """
    optimizer.state.pop(flat, None)
    if not each and not single:
        return
    (group,) = optimizer.param_groups
    if type(optimizer).__module__.startswith("bitsandbytes"):
        before, group["params"] = group["params"], [flat]  # stage 3 keeps it empty between steps
        optimizer.init_state(group, flat, 0, 0)  # pyright: ignore[reportAttributeAccessIssue]
        group["params"] = before
    state: dict[str, Any] = optimizer.state[flat]
    torchs_own = type(optimizer).__module__.startswith("torch.")
    for name, value in single.items():
        if not torchs_own:
            state[name] = int(value)
            continue
        place = flat.device if group.get("fused") else torch.device("cpu")
        state[name] = value.to(place, torch.float32, copy=True)
    for name, value in each.items():
        kept = state.get(name)
        if isinstance(kept, torch.Tensor) and kept.dtype == torch.uint8:
            _to_8_bits(value, state, name)
        else:
            state[name] = value


def _from_8_bits(value: torch.Tensor, state: dict[str, Any], which: str) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_blockwise

    return dequantize_blockwise(
        value, absmax=state[f"absmax{which}"], code=state[f"qmap{which}"], blocksize=_BLOCK
    )


def _to_8_bits(value: torch.Tensor, state: dict[str, Any], name: str) -> None:
    """Put values in 8 bits; what came out of them with the same cuts goes back as it was.

    A block's scale s is its largest value, so that value is 1 · s, or, if negative, the lowest of
    the code (-0.993) times s. bitsandbytes' own function would take 0.993 · s for the new scale.
    """
    code: torch.Tensor = state[f"qmap{name[-1]}"]
    scales: torch.Tensor = state[f"absmax{name[-1]}"]
    borders = (code[1:] + code[:-1]) / 2
    chunk = _BLOCK * 4096  # a bounded number of temporaries
    for begin in range(0, value.numel(), chunk):
        part = value[begin : begin + chunk]
        blocks = nn.functional.pad(part, (0, -part.numel() % _BLOCK)).view(-1, _BLOCK)
        high, low = blocks.amax(1), blocks.amin(1)
        scale = torch.maximum(high, low / code[0] if code[0] < 0 else high)
        scales[begin // _BLOCK :][: len(scale)].copy_(scale)
        steps = blocks / torch.where(scale > 0, scale, 1)[:, None]
        packed = torch.bucketize(steps, borders).flatten()[: part.numel()]
        state[name][begin : begin + chunk].copy_(packed)
