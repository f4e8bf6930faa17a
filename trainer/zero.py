"""What winnow needs of DeepSpeed's ZeRO optimizers beyond their public interface.

DeepSpeed has three optimizer classes (stage 1 under bf16; stages 1 and 2 otherwise; stage 3) with
the same ideas under different private names. `adapt` hides the difference behind one small
interface, and this file is the only one that reads those names. Tests cover each stage and
precision.

**Order.** All trained weights in the order of `model.parameters()`, flattened and joined, are one
long vector. A `Span` says which piece of it lies where on this rank. Checkpoints are cut along this
vector, so they don't depend on stage or number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from trainer import process_group  # before deepspeed

import deepspeed  # isort: skip
from deepspeed.runtime.zero import parameter_offload, partition_parameters  # isort: skip
from deepspeed.runtime.zero.partitioned_param_coordinator import (  # isort: skip
    PartitionedParameterCoordinator,
)


@dataclass(frozen=True, slots=True)
class Span:
    """`length` elements from `at` in master partition `flat` are those from `begin` of all."""

    flat: int
    at: int
    begin: int
    length: int


class Zero(Protocol):
    """One rank's part of a ZeRO optimizer.

    `flats`: fp32 master weights of this rank, 1-D each, perhaps padded. `spans`: what lies where
    in them, in rising order of `begin`.
    """

    spans: list[Span]

    @property
    def flats(self) -> list[torch.Tensor]: ...

    def discard(self) -> None:
        """Forget accumulated gradients, also after an exception in forward or backward."""

    def gradients(self) -> list[torch.Tensor] | None:
        """Unreduced gradients accumulated on this rank since the last step, if it has them."""

    def publish(self) -> None:
        """Make the model compute with the current master weights. All ranks together."""


def adapt(optimizer: Any, parameters: Sequence[nn.Parameter]) -> Zero:
    """The `Zero` view of DeepSpeed's `optimizer` over the trained `parameters`, in their order."""
    # It would keep views of the optimizer's state at every parameter, for an API we don't use.
    optimizer._hp_optimizer_states_linked = True
    kind = type(optimizer).__name__
    if kind == "DeepSpeedZeroOptimizer_Stage3":
        return _Stage3(optimizer, parameters)
    if kind == "BF16_Optimizer":
        return _Bf16Stage1(optimizer, parameters)
    return _Stages1And2(optimizer, parameters)


class _Bf16Stage1:
    def __init__(self, zero: Any, parameters: Sequence[nn.Parameter]) -> None:
        self._zero = zero
        (params,) = zero.bf16_groups
        self.spans = _cut(params, parameters, None, self.flats[0].numel())

    @property
    def flats(self) -> list[torch.Tensor]:
        return self._zero.fp32_groups_flat_partition

    def discard(self) -> None:
        self._zero._backward_active_depth = 0  # an exception in backward leaves it counted
        self._zero.zero_grad(set_to_none=True)

    def gradients(self) -> list[torch.Tensor] | None:
        return list(self._zero.fp32_groups_gradients_flat)

    def publish(self) -> None:
        self._zero.update_lp_params()


class _Stages1And2:
    def __init__(self, zero: Any, parameters: Sequence[nn.Parameter]) -> None:
        self._zero = zero
        (params,) = zero.round_robin_bit16_groups
        (offsets,) = zero.round_robin_bit16_offsets
        self.spans = _cut(params, parameters, offsets, self.flats[0].numel())

    @property
    def flats(self) -> list[torch.Tensor]:
        return self._zero.single_partition_of_fp32_groups

    def discard(self) -> None:
        zero = self._zero
        zero._backward_active_depth = 0
        zero.zero_grad(set_to_none=True)
        for kept in (zero.averaged_gradients, zero.all_grad_tensors):
            for group in kept:
                kept[group] = None
        zero._release_ipg_buffers()
        zero.micro_step_id = -1  # the next gradient is the first: offloaded ones are overwritten
        if zero.cpu_offload:
            zero.reset_cpu_buffers()  # waits for copies under way

    def gradients(self) -> list[torch.Tensor] | None:
        zero = self._zero
        if zero.partition_gradients:
            return None
        found = (zero.get_gradient_for_reduction(p) for group in zero.bit16_groups for p in group)
        return [gradient for gradient in found if gradient is not None]

    def publish(self) -> None:
        self._zero.update_lp_params()


class _Stage3:
    def __init__(self, zero: Any, parameters: Sequence[nn.Parameter]) -> None:
        self._zero = zero
        begins = _begins(parameters, [p.ds_numel for p in parameters])  # pyright: ignore
        mine = process_group.rank()
        spans: list[Span] = []
        for group in zero.fp16_groups:
            for p in group:
                flat, at, size = zero.grad_position[zero.get_param_id(p)]
                length = max(0, min(p.ds_numel - mine * size, size))
                if length:
                    spans.append(Span(flat, at, begins[id(p)] + mine * size, length))
        self.spans = sorted(spans, key=lambda span: span.begin)

    @property
    def flats(self) -> list[torch.Tensor]:
        return self._zero.fp32_partitioned_groups_flat

    def discard(self) -> None:
        zero = self._zero
        zero._backward_active_depth = 0
        zero.zero_grad(set_to_none=True)
        if zero.offload_optimizer:
            zero.reset_cpu_buffers()

    def gradients(self) -> list[torch.Tensor] | None:
        return None

    def publish(self) -> None:
        zero = self._zero
        zero._partition_all_parameters()
        for group in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(group)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


def _begins(parameters: Sequence[nn.Parameter], sizes: Sequence[int]) -> dict[int, int]:
    """Where each parameter begins in the order of all, by the parameter's id."""
    begins: dict[int, int] = {}
    begin = 0
    for parameter, size in zip(parameters, sizes, strict=True):
        begins[id(parameter)] = begin
        begin += size
    return begins


def _cut(
    placed: Sequence[nn.Parameter],
    parameters: Sequence[nn.Parameter],
    offsets: Sequence[int] | None,
    size: int,
) -> list[Span]:
    """Spans of this rank's slice where all parameters lie in one vector that is cut in equal parts.

    Args:
        placed: the parameters as they lie in that vector.
        parameters: the same in the order of all.
        offsets: where each of `placed` lies; None: without gaps.
        size: elements of a slice.
    """
    begins = _begins(parameters, [p.numel() for p in parameters])
    first = process_group.rank() * size
    spans: list[Span] = []
    at = 0
    for number, p in enumerate(placed):
        at = offsets[number] if offsets is not None else at
        low, high = max(at, first), min(at + p.numel(), first + size)
        if low < high:
            span = Span(0, low - first, begins[id(p)] + low - at, high - low)
            if spans and _touch(spans[-1], span):
                last = spans.pop()
                span = Span(0, last.at, last.begin, last.length + span.length)
            spans.append(span)
        at += p.numel()
    return sorted(spans, key=lambda span: span.begin)


def _touch(one: Span, other: Span) -> bool:
    return other.at - one.at == one.length == other.begin - one.begin


# --- ZeRO 3: weights that are spread over the ranks -------------------------------------------


def spread(module: nn.Module, settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Spread the weights of `module` over the ranks, one at a time.

    Done by `deepspeed.initialize`, each device would hold the whole model for a moment.
    """
    deepspeed.zero.Init(module=module, config_dict_or_path=settings, dtype=dtype)


def numel(parameter: nn.Parameter) -> int:
    """Elements of a parameter, spread or not."""
    return getattr(parameter, "ds_numel", None) or parameter.numel()


@contextmanager
def gathered(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within this block each rank has these parameters whole, to read. All ranks together."""
    # Gathered under inference_mode, they could not be trained afterwards.
    with torch.inference_mode(False), torch.no_grad():
        context = deepspeed.zero.GatheredParameters(list(parameters))
        context.__enter__()
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            context.__exit__(None, None, None)


@contextmanager
def whole(optimizer: Any) -> Iterator[None]:
    """Within this block each rank has all weights of a stage 3 `optimizer` and runs on its own.

    All ranks enter and leave together; in between they may make different numbers of forward
    passes, none of them to be trained on.
    """
    offload = optimizer.parameter_offload
    module = offload.module
    parameters = list(module.parameters())
    offload.get_param_coordinator().release_and_reset_all(module)
    for parameter in parameters:
        parameter.ds_active_sub_modules.clear()
    for hook in (*offload.forward_hooks, *offload.backward_hooks):
        hook.remove()
    offload.forward_hooks, offload.backward_hooks = [], []
    try:
        with gathered(parameters):
            yield
    finally:
        offload._register_deepspeed_module(module)


def clean_up(module: nn.Module) -> None:
    """Undo what stage 3 leaves behind in the process when its engine is gone."""
    mine = {id(part) for part in module.modules()}
    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [part for part in stack if id(part) not in mine]
    # Caches of methods, hidden under wrappers, hold every module that they were called with.
    for method in vars(PartitionedParameterCoordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()
    original = getattr(
        partition_parameters.InsertPostInitMethodToModuleSubClasses, "linear_bk", None
    )
    if original is not None:  # it keeps gathered weights out of the graph, for all of the process
        torch.nn.functional.linear = original
