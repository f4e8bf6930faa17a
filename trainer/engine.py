"""DeepSpeed, and nothing else of it anywhere: process group, optimizer step, sharded state.

The caller owns the step: `backward` accumulates in fp32, `step` reduces, clips and updates once.
Every ZeRO stage runs with `torch.optim.AdamW` over fp32 master weights, so nothing is compiled at
start. Stage 0 runs as stage 1: the update is the same, and stage 0 has no gradient norm.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.attention import MicroBatch
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError

# Both are read when deepspeed is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / ".torch_extensions"))
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

import deepspeed  # noqa: E402
from deepspeed.ops import __compatible_ops__ as _compatible_ops  # noqa: E402
from deepspeed.utils import logger as _deepspeed_logger  # noqa: E402

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up and fails."""


# --- the process group ------------------------------------------------------------------------


def join(
    rank: int,
    world_size: int,
    master_addr: str,
    master_port: int,
    local_rank: int = 0,
    *,
    timeout: timedelta = COLLECTIVE_TIMEOUT,
    verbose: bool = False,
) -> None:
    """Form the process group (nccl on GPU, gloo on CPU). Once a process; all ranks at once.

    Args:
        rank: this process, 0 … `world_size` - 1.
        world_size: number of ranks.
        master_addr: where rank 0 listens.
        master_port: a free port there.
        local_rank: this process's GPU.
        timeout: longest wait for the other ranks, here and in every collective operation.
        verbose: let DeepSpeed log.
    """
    if dist.is_initialized():
        raise RuntimeError("this process has already joined a process group")
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(local_rank),
        MASTER_ADDR=master_addr,
        MASTER_PORT=str(master_port),
    )
    _deepspeed_logger.setLevel(logging.INFO if verbose else logging.ERROR)
    # DeepSpeed calls functions that torch has renamed.
    warnings.filterwarnings("ignore", r".*torch\.distributed\..* is deprecated", FutureWarning)
    # The shared-memory all-reduce is compiled on first use (half a minute, and a compiler must be
    # there) and leaves segments behind when a rank is killed; gloo is fast enough on CPU.
    _compatible_ops["deepspeed_shm_comm"] = False
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local_rank)
    alone = world_size == 1  # needs no port
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=None if alone else "env://",  # under torchrun, its own store listens there
        store=dist.HashStore() if alone else None,  # pyright: ignore[reportPrivateImportUsage]
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=torch.device("cuda", local_rank) if gpu else None,
    )
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    _import_without_compiler("deepspeed.runtime.zero.muon.muon_optimizer")
    # Everything imported so far lives as long as the process. Frozen, it is not walked again by
    # the collections that DeepSpeed makes at each start of an engine (0.9 s to 0.2 s).
    gc.collect()
    gc.freeze()


def _import_without_compiler(module: str) -> None:
    """Import a module of DeepSpeed's with `torch.compile` switched off.

    Each engine asks whether its optimizer is Muon. Importing that decorates functions with
    `torch.compile`, which loads all of inductor: a second and 40 MB a rank, never used.
    """
    compiler = torch.compile
    torch.compile = lambda function=None, **_: function if function else lambda inner: inner
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    finally:
        torch.compile = compiler


def leave() -> None:
    """Dissolve the process group. The process can't join another: DeepSpeed keeps parts of it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank()


def world_size() -> int:
    return dist.get_world_size()


def device() -> torch.device:
    """Where this rank computes."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def sum_over_ranks(*values: float) -> list[float]:
    """Sum of each value over all ranks, in fp64; the same on every rank."""
    if world_size() == 1:
        return [float(value) for value in values]
    tensor = torch.tensor(values, dtype=torch.float64, device=device())
    dist.all_reduce(tensor)
    return tensor.tolist()


def max_over_ranks(value: float) -> float:
    """Largest value of any rank; the same on every rank."""
    if world_size() == 1:
        return float(value)
    tensor = torch.tensor(value, dtype=torch.float64, device=device())
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)


def gather(value: Any) -> list[Any]:
    """`value` (anything that pickles) of each rank, in order; the same on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


# --- precision --------------------------------------------------------------------------------


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


# --- the engine -------------------------------------------------------------------------------


class Engine:
    """One model under DeepSpeed.

    `loss_model` maps a `MicroBatch` to a summed loss. Its parameters may have any float type; the
    master weights are fp32 copies of exactly those values.

    `stage` and `precision` are those it runs with, `parameters` counts the trained weights.
    """

    def __init__(self, loss_model: nn.Module, config: TrainConfig) -> None:
        self.stage = 2 if config.zero_stage == 2 else 1
        self.precision = precision_of(config)
        self._parameters = [p for p in loss_model.parameters() if p.requires_grad]
        self.parameters = sum(p.numel() for p in self._parameters)
        exact: list[torch.Tensor] = []
        if self.precision == "bf16":
            # DeepSpeed makes its fp32 master weights from the bf16 ones: keep what that rounds off.
            exact = [p.detach().float().cpu().reshape(-1) for p in self._parameters]
        loss_model = loss_model.to(device())
        if self.precision == "fp32":
            loss_model = loss_model.float()
        optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learning_rate,
            betas=config.adam_betas,
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        bucket = min(2 * self.parameters, 200_000_000)
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": config.max_grad_norm or 0.0,
            "zero_optimization": {
                "stage": self.stage,
                "overlap_comm": False,
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
            },
            "bf16": {"enabled": self.precision == "bf16", "check_grad_overflow": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
            "steps_per_print": 2**62,
        }
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its memory use, logs or no logs
            self._engine: Any = deepspeed.initialize(
                model=loss_model, optimizer=optimizer, dist_init_required=False, config=settings
            )[0]
        self._zero: Any = self._engine.optimizer
        if exact:
            begin = rank() * self._flat.numel()
            self._fill("master", torch.cat(exact)[begin : begin + self._flat.numel()])

    @property
    def model(self) -> Any:
        """The loss model, with its current weights on every rank."""
        return self._engine.module

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Summed loss of one micro-batch, (), with its graph."""
        return self._engine(batch)

    def backward(self, loss: torch.Tensor, global_targets: int) -> None:
        """Accumulate the gradient of `loss / global_targets`, to be summed over ranks."""
        # DeepSpeed averages over ranks: undo it.
        self._engine.backward(loss * (world_size() / global_targets), scale_wrt_gas=False)

    def discard(self) -> None:
        """Forget the gradients accumulated since the last step."""
        if self._is_bf16_stage_1:
            self._zero.clear_hp_grads()
            self._zero.clear_lp_grads()
            return
        self._zero.zero_grad(set_to_none=True)
        for kept in (self._zero.averaged_gradients, self._zero.all_grad_tensors):
            for group in kept:
                kept[group] = None

    def step(self, learning_rate: float) -> float | None:
        """Reduce, clip and update once. All ranks together.

        Returns:
            The global gradient norm before clipping; None if it was not finite, and then the
            weights are left as they were.
        """
        for group in self._zero.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        if self._zero.overflow:
            return None
        return float(self._zero._global_grad_norm)

    def close(self) -> None:
        """Give back the engine's memory. The process group stays."""
        self._engine.destroy()
        self._engine = self._zero = None
        self._parameters = []
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # Each rank holds one slice of the flat fp32 weights and Adam moments, in parameter order, the
    # last one padded. Joined and cut to size they don't depend on the number of ranks or the stage.

    def shard(self) -> dict[str, torch.Tensor]:
        """This rank's slice of the training state, on the CPU."""
        flat = self._flat
        state = self._zero.optimizer.state.get(flat, {})
        shard = {"master": flat.detach(), **{k: state[k] for k in _MOMENTS if k in state}}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in shard.items()}

    def load(self, read: Callable[[str, int, int], torch.Tensor | None]) -> None:
        """Take over the state of an earlier engine, however many ranks it had.

        Args:
            read: gives elements `begin` to `end` (exclusive) of a named part of the state, joined
                over the ranks that wrote it; fewer if it ends there; None if there is no such part.

        Raises:
            CheckpointError: it is the state of another model.
        """
        flat = self._flat
        begin = rank() * flat.numel()
        end = min(begin + flat.numel(), self.parameters)
        for name in ("master", *_MOMENTS):
            part = read(name, *((0, 1) if name == "step" else (begin, max(begin, end))))
            if part is None:
                continue
            if name == "step":
                self._state["step"] = part.reshape(()).clone().to(flat.device)
                continue
            if part.numel() != max(0, end - begin):
                raise CheckpointError("the checkpoint has too few weights: it is another model's")
            self._fill(name, part)
        self._zero.update_lp_params()

    def _fill(self, name: str, part: torch.Tensor) -> None:
        """Set this rank's slice of `name`; padding becomes 0."""
        flat = self._flat
        if name == "master":
            target = flat.data
        else:
            target = self._state.setdefault(name, torch.zeros_like(flat))
        target.zero_()
        target[: part.numel()].copy_(part)

    @property
    def _is_bf16_stage_1(self) -> bool:
        """DeepSpeed has an optimizer class of its own for this one combination."""
        return self.precision == "bf16" and self.stage == 1

    @property
    def _flat(self) -> torch.Tensor:
        if self._is_bf16_stage_1:
            (flat,) = self._zero.fp32_groups_flat_partition
        else:
            (flat,) = self._zero.single_partition_of_fp32_groups
        return flat

    @property
    def _state(self) -> dict[str, torch.Tensor]:
        return self._zero.optimizer.state[self._flat]


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
