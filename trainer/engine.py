"""One model under DeepSpeed: gradient, optimizer step, sharded state.

The caller owns the step: `backward` accumulates in fp32, `step` reduces, clips and updates once.
The optimizer runs over fp32 master weights at every ZeRO stage. Stage 0 runs as stage 1: the update
is the same, and stage 0 has no gradient norm. On a CPU nothing is compiled at start.
"""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from trainer import optimizers, zero
from trainer.attention import MicroBatch
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError
from trainer.process_group import (
    COLLECTIVE_TIMEOUT,
    device,
    gather,
    join,
    leave,
    max_over_ranks,
    peak_memory,
    rank,
    sum_over_ranks,
    world_size,
)

import deepspeed  # isort: skip

__all__ = [
    "COLLECTIVE_TIMEOUT",
    "Engine",
    "device",
    "gather",
    "join",
    "leave",
    "max_over_ranks",
    "peak_memory",
    "precision_of",
    "rank",
    "sum_over_ranks",
    "world_size",
]


def precision_of(config: TrainConfig) -> str:
    """`fp32` or `bf16`: what `auto` comes to on this device.

    Raises:
        ConfigError: bf16 was asked for on a GPU that hasn't got it.
    """
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if config.precision == "auto":
        return "bf16" if bf16 else "fp32"
    if config.precision == "bf16" and torch.cuda.is_available() and not bf16:
        raise ConfigError("this GPU has no bf16; set precision to fp32", "/precision")
    return config.precision


class StateReader(Protocol):
    """A saved training state, joined over the ranks that wrote it. See `trainer.checkpoint`."""

    def __enter__(self) -> StateReader: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def size(self) -> int:
        """Weights in all."""
        ...

    @property
    def parts(self) -> list[str]:
        """Names of what has one value a weight."""
        ...

    def read(self, part: str, begin: int, end: int) -> torch.Tensor:
        """Elements `begin` to `end` (exclusive) of a part."""
        ...

    def singles(self) -> dict[str, torch.Tensor]:
        """What has one value in all."""
        ...


class Engine:
    """One model under DeepSpeed.

    `loss_model` maps a `MicroBatch` to a summed loss. Parameters that don't require a gradient are
    frozen: they get neither gradient nor optimizer state and are not part of the saved state. The
    others may have any float type; the master weights are fp32 copies of exactly those values.

    `stage` and `precision` are those it runs with, `parameters` counts the trained weights.

    Under ZeRO 2 and 3 gradients are reduced inside `backward`, under ZeRO 3 weights are gathered
    inside `forward` too: all ranks must make the same calls, and after an exception inside one of
    them on any rank the others are stuck in it, so the attempt has to end. Under ZeRO 0 and 1
    ranks may make different numbers of calls, and after an exception `discard` makes the engine
    fit for another try.
    """

    def __init__(self, loss_model: nn.Module, config: TrainConfig) -> None:
        self.stage = max(1, config.zero_stage)
        self.precision = precision_of(config)
        self._parameters = [p for p in loss_model.parameters() if p.requires_grad]
        self.parameters = sum(p.numel() for p in self._parameters)
        exact = self._set_precision(loss_model)
        optimizer = optimizers.build(config, self._parameters)
        settings = self._settings(config)
        if self.stage == 3:
            zero.spread(loss_model, settings, self._dtype)
            for buffer in loss_model.buffers():
                buffer.data = buffer.data.to(device())
        else:
            loss_model = loss_model.to(device())
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its memory use, logs or no logs
            self._engine: Any = deepspeed.initialize(
                model=loss_model, optimizer=optimizer, dist_init_required=False, config=settings
            )[0]
        self._optimizer: Any = self._engine.optimizer
        self._zero = zero.adapt(self._optimizer, self._parameters)
        if exact is not None:
            self._fill_masters(exact)

    def _set_precision(self, module: nn.Module) -> list[torch.Tensor] | None:
        """Convert all weights; the trained ones as they were, where that rounded them."""
        if self.precision == "fp32":
            module.float()
            return None
        # DeepSpeed makes its fp32 master weights from the bf16 ones: keep what that rounds off.
        exact = [p.detach().reshape(-1) for p in self._parameters]
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.bfloat16)
        return exact if any(part.dtype != torch.bfloat16 for part in exact) else None

    def _settings(self, config: TrainConfig) -> dict[str, Any]:
        """DeepSpeed's configuration."""
        bucket = min(2 * self.parameters, 200_000_000)
        stage: dict[str, Any] = {
            "stage": self.stage,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        }
        pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if config.offload != "none":
            stage["offload_optimizer"] = pinned
        if config.offload == "all":
            stage["offload_param"] = pinned
        if self.stage == 3:
            # Smaller weights stay whole on every rank: gathering them would cost more than it saves
            stage["stage3_param_persistence_threshold"] = min(100_000, self.parameters // 100)
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": config.max_grad_norm or 0.0,
            "zero_optimization": stage,
            "bf16": {"enabled": self.precision == "bf16", "check_grad_overflow": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
            "steps_per_print": 2**62,
        }

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def model(self) -> Any:
        """The loss model. Under ZeRO 3 its weights are spread over ranks: see `whole_weights`."""
        return self._engine.module

    # --- a step ---------------------------------------------------------------------------

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Summed loss of one micro-batch, (), with its graph."""
        return self._engine(batch)

    def backward(self, loss: torch.Tensor, global_targets: int) -> None:
        """Accumulate the gradient of `loss / global_targets`, to be summed over ranks."""
        # DeepSpeed averages over ranks: undo it.
        self._engine.backward(loss * (world_size() / global_targets), scale_wrt_gas=False)

    def gradient_square(self) -> float | None:
        """Squared L2 norm of what `backward` has accumulated on this rank since the last step.

        It is of this rank's own sum g of gradients of `loss · world_size / global_targets`, before
        any reduction: the gradient that `step` uses is the mean of g over ranks. One pass over the
        accumulators. None under ZeRO 2 and 3, where they are reduced as they come.
        """
        gradients = self._zero.gradients()
        if gradients is None:
            return None
        if not gradients:
            return 0.0
        return float(nn.utils.get_total_norm(gradients).double() ** 2)

    def discard(self) -> None:
        """Forget the gradients accumulated since the last step.

        Under ZeRO 0 and 1 also after an exception inside `forward` or `backward`, and on one rank
        alone: the next step equals that of an undisturbed run. Under ZeRO 2 and 3 between calls
        only, on all ranks.
        """
        self._zero.discard()

    def step(self, learning_rate: float) -> float | None:
        """Reduce, clip and update once. All ranks together.

        Returns:
            The global gradient norm before clipping; None if it was not finite, and then the
            weights are left as they were.
        """
        for group in self._optimizer.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        if self._optimizer.overflow:
            return None
        return float(self._optimizer._global_grad_norm)

    def reset_optimizer(self) -> None:
        """Forget the optimizer's state (moments, step count), as at the start of a run."""
        self._optimizer.optimizer.state.clear()

    # --- weights --------------------------------------------------------------------------

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Within this block each rank has all weights and may make as many forward passes as it
        likes, none of them to be trained on. All ranks enter and leave together.

        Below ZeRO 3 that is always so. Under ZeRO 3, outside such a block, each forward pass
        gathers weights from all ranks, so all must make the same number of passes, and not in
        `inference_mode` (what it gathers could not be trained afterwards): use `no_grad`.

        Raises:
            ConfigError: the weights don't fit on a rank. On every rank.
        """
        if self.stage < 3:
            yield
            return
        self._check_room()
        with zero.whole(self._optimizer):
            yield

    def _check_room(self) -> None:
        """Refuse to gather all weights where that would run out of memory."""
        if not torch.cuda.is_available():
            return
        needed = sum(zero.numel(p) * p.element_size() for p in self.model.parameters())
        free = torch.cuda.mem_get_info()[0]
        free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        if max_over_ranks(float(needed > free)):
            raise ConfigError(
                f"generating under ZeRO 3 takes all {needed / 1e9:.1f} GB of weights on each GPU, "
                "and one has less free; set exact_match: false (and no lm_eval or judge), or use a "
                "lower zero_stage",
                "/exact_match",
            )

    def weights(self) -> dict[str, torch.Tensor] | None:
        """The language model's state dict on the CPU; on rank 0 only. All ranks together.

        One parameter at a time is gathered. Tied weights share memory; those in 4 bits are given
        as the values they stand for.
        """
        model: nn.Module = self.model.model
        names: dict[int, list[str]] = {}
        found: dict[int, nn.Parameter] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
            found[id(parameter)] = parameter
        leads = rank() == 0
        collected: dict[str, torch.Tensor] = {}
        for key, parameter in found.items():
            with zero.gathered([parameter]) if self.stage == 3 else contextlib.nullcontext():
                if leads:
                    value = _values_of(parameter).cpu()
                    value = value.clone() if value.data_ptr() == parameter.data_ptr() else value
                    collected.update(dict.fromkeys(names[key], value))
        if not leads:
            return None
        kept = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in kept:
                collected[name] = buffer.detach().cpu()
        return collected

    # --- state ----------------------------------------------------------------------------

    # Each rank saves its pieces of the vector of all trained weights and of what the optimizer
    # keeps a weight, and where they lie in it. See trainer/zero.py.

    def shard(self) -> dict[str, torch.Tensor]:
        """This rank's pieces of the training state, on the CPU.

        `spans` (n, 2), int64: begin and length of each piece in the vector of all trained weights.
        `master` and what the optimizer keeps a weight (`exp_avg`, …): the pieces, joined, 1-D.
        What it keeps in all (`step`, …): 0-D.
        """
        flats = self._zero.flats
        inner = self._optimizer.optimizer
        spans = self._zero.spans
        shard = {
            "spans": torch.tensor([(s.begin, s.length) for s in spans]).reshape(-1, 2).long(),
            "master": self._joined(flats),
        }
        states = [optimizers.state_of(inner, flat) for flat in flats]
        for name in states[0][0]:
            shard[name] = self._joined([each[name] for each, _ in states])
        return shard | states[0][1]

    def _joined(self, flats: list[torch.Tensor]) -> torch.Tensor:
        pieces = [
            flats[span.flat].detach()[span.at : span.at + span.length] for span in self._zero.spans
        ]
        if not pieces:
            return torch.empty(0)
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).cpu().contiguous()

    def load(self, state: StateReader) -> None:
        """Take over the state of an earlier engine, whatever its stage and number of ranks.

        Raises:
            CheckpointError: it is the state of another model.
        """
        with state:
            if state.size != self.parameters:
                raise CheckpointError(
                    f"the checkpoint has {state.size:,} trained weights and the model "
                    f"{self.parameters:,}: it is another model's"
                )
            singles = state.singles()
            for number, flat in enumerate(self._zero.flats):
                self._read_into(flat.data, number, "master", state)
                each: dict[str, torch.Tensor] = {}
                for part in state.parts:
                    if part != "master":
                        each[part] = torch.zeros_like(flat, requires_grad=False)
                        self._read_into(each[part], number, part, state)
                optimizers.restore(self._optimizer.optimizer, flat, each, singles)
        self._zero.publish()

    def _read_into(self, target: torch.Tensor, flat: int, part: str, state: StateReader) -> None:
        """Read what of a part lies in master partition `flat`."""
        for span in self._zero.spans:
            if span.flat == flat:
                piece = state.read(part, span.begin, span.begin + span.length)
                target[span.at : span.at + span.length].copy_(piece)

    @torch.no_grad()
    def _fill_masters(self, exact: list[torch.Tensor]) -> None:
        """Set the master weights to `exact`, flat values of each trained parameter."""
        flats, spans = self._zero.flats, self._zero.spans
        begin = 0
        for part in exact:
            end = begin + part.numel()
            for span in spans:
                low, high = max(begin, span.begin), min(end, span.begin + span.length)
                if low < high:
                    at = span.at + low - span.begin
                    flats[span.flat][at : at + high - low].copy_(part[low - begin : high - begin])
            begin = end

    # --- the end --------------------------------------------------------------------------

    def close(self) -> None:
        """Give back the engine's memory. The process group stays."""
        if self._engine is None:
            return
        self._engine.destroy()
        if self.stage == 3:
            zero.clean_up(self._engine.module)
        self._engine = self._optimizer = None
        del self._zero
        self._parameters = []
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _values_of(parameter: nn.Parameter) -> torch.Tensor:
    """The values of a parameter; if bitsandbytes keeps them in 4 bits, those they stand for."""
    packed = getattr(parameter, "quant_state", None)
    if packed is None:
        return parameter.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(parameter.data, packed)
