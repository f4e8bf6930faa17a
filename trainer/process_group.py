"""The ranks of a run: forming their process group once, and the few collectives the loop needs.

One process group serves many runs in a row (warm workers). Whoever imports `deepspeed` imports this
module first: it sets what deepspeed reads on import.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import resource
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

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
    `torch.compile`, which loads all of inductor: a second and 40 MB a rank, never used. The patch
    is gone when this returns, so `compile: true` gets the real compiler.
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


def peak_memory() -> int:
    """Most bytes in use at once on this rank: of its GPU, or of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gather(value: Any) -> list[Any]:
    """`value` (anything that pickles) of each rank, in order; the same on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
