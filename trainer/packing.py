"""How the samples of an optimizer step are spread over ranks and micro-batches.

Ranks wait for one another as little as possible, and no micro-batch exceeds a cap on tokens. Which
samples a step has is the affair of `curriculum.py`.

- *free* (ZeRO 0 and 1): each rank as many micro-batches as it needs. Ranks get equal cost by
  longest processing time first (LPT) and exchanges of samples, and fill their micro-batches by best
  fit decreasing.
- *lockstep* (ZeRO 2 and 3, whose reductions run inside backward): equally many micro-batches on
  each rank, all packed jointly, so that those of one micro-step cost about the same.
- *padded*, of either kind: micro-batches are rectangles of samples of similar length; padding
  counts in the cap and in the cost.

None of it changes the update: the loss is a sum over the whole effective batch. Pure: no torch. The
loops are in `packing_kernels.py`; the study's own sampler is in `multipack.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trainer import packing_kernels as kernels
from trainer.packing_bins import ENDLESS, UNLIMITED, best_fit, longest_first, refine

Indices = npt.NDArray[np.int64]
Lengths = Sequence[int] | npt.NDArray[np.integer]
Plan = list[list[list[int]]]
"""Positions in the effective batch, indexed [rank][micro-batch]."""

QUADRATIC_TOKENS = 16_384
"""Length at which attention's quadratic term costs as much as the linear rest, roughly.
`quadratic_crossover` gives it for a model."""
MICRO_BATCH_TOKENS = 64
"""What starting one more micro-batch costs, in tokens: padded rectangles weigh it against padding.
"""


def run_steps(samples: int, batch_size: int) -> int:
    """How many optimizer steps `samples` samples make; the last may be short."""
    return -(-samples // batch_size)


def quadratic_crossover(parameters: int, layers: int, attention_width: int) -> float:
    """Length at which attention's quadratic term costs as much as the linear rest.

    A token takes 6 FLOPs a parameter (without the embedding), and causal attention over n tokens
    6·n FLOPs a layer and unit of `attention_width` (heads x head size), forward and backward
    (arXiv 2001.08361, table 1, halved for causality; activations not recomputed).
    """
    return parameters / (layers * attention_width)


def plan_step(
    lengths: Lengths,
    *,
    ranks: int,
    cap: int,
    padded: bool,
    equal_counts: bool,
    quadratic_tokens: float = QUADRATIC_TOKENS,
) -> Plan:
    """Spread one effective batch over ranks and micro-batches.

    Args:
        lengths: tokens of each sample of the batch.
        ranks: number of ranks.
        cap: most tokens of a micro-batch, padding counted. A longer sample gets a bin of its own.
        padded: micro-batches are rectangles, padded to their longest sample.
        equal_counts: lockstep: every rank gets the same number of micro-batches, and those of one
            micro-step cost about the same. An empty one is added where a rank has nothing to do.
        quadratic_tokens: a sample of n tokens costs n + n²/quadratic_tokens.

    Returns:
        Positions in `lengths`, indexed [rank][micro-batch]; each occurs exactly once. Longer
        samples and dearer micro-batches come first. Every rank gets at least one micro-batch, if an
        empty one: it has to take part in the reduction.
    """
    _check(ranks, cap, quadratic_tokens)
    if len(lengths) == 0:
        return [[[]] for _ in range(ranks)]
    sizes = [max(1, int(n)) for n in lengths]
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    sizes = [sizes[i] for i in order]
    costs = [n + n * n / quadratic_tokens for n in sizes]
    rank = [0] * len(sizes)
    micro = [0] * len(sizes)
    if padded:
        overhead = float(MICRO_BATCH_TOKENS)
        kernels.plan_padded(sizes, costs, ranks, cap, equal_counts, overhead, rank, micro)
    elif equal_counts:
        kernels.plan_lockstep(sizes, costs, ranks, cap, rank, micro)
    else:
        kernels.plan_free(sizes, costs, ranks, cap, rank, micro)
    return _assemble(order, rank, micro, ranks, equal_counts)


def plan_steps(
    lengths: Lengths,
    *,
    batch_size: int,
    ranks: int,
    cap: int,
    padded: bool,
    equal_counts: bool,
    quadratic_tokens: float = QUADRATIC_TOKENS,
) -> StepPlans:
    """The plans of many steps at once, each as `plan_step` makes it.

    Compiled: a million samples take about a second. The first call loads the compiler, about half a
    second, and on a new machine compiles, some ten seconds.

    Args:
        lengths: tokens of each sample, in the order of the stream.
        batch_size: samples a step; the last one may be short.
    """
    _check(ranks, cap, quadratic_tokens)
    if batch_size < 1:
        raise ValueError("batch_size must be at least 1")
    sizes = np.maximum(1, np.asarray(lengths, dtype=np.int64))
    count = len(sizes)
    bounds = np.append(np.arange(0, count, batch_size), count).astype(np.int64)
    longest = int(sizes.max(initial=1))
    order = np.argsort(np.arange(count) // batch_size * (longest + 1) - sizes, kind="stable")
    sizes = sizes[order]
    costs = sizes + sizes * sizes / quadratic_tokens
    rank = np.zeros(count, dtype=np.int64)
    micro = np.zeros(count, dtype=np.int64)
    planner = kernels.compiled()
    edges = bounds.tolist()
    for a, b in pairwise(edges):
        step = (sizes[a:b], costs[a:b], ranks, cap)
        if padded:
            overhead = float(MICRO_BATCH_TOKENS)
            planner.plan_padded(*step, equal_counts, overhead, rank[a:b], micro[a:b])
        elif equal_counts:
            planner.plan_lockstep(*step, rank[a:b], micro[a:b])
        else:
            planner.plan_free(*step, rank[a:b], micro[a:b])
    return StepPlans(bounds, ranks, equal_counts, order, rank, micro)


@dataclass(frozen=True, eq=False)
class StepPlans:
    """The plans of consecutive steps: `plans[i]` is what `plan_step` gives for step i.

    `bounds`: step i has the samples `bounds[i]` to `bounds[i + 1]` (exclusive). The arrays hold one
    entry a sample, longest first within a step: its place in the stream, its rank, and the number
    of its micro-batch on that rank.
    """

    bounds: Indices
    ranks: int
    equal_counts: bool
    order: Indices
    rank: Indices
    micro_batch: Indices

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, step: int) -> Plan:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        first, end = int(self.bounds[step]), int(self.bounds[step + 1])
        return _assemble(
            (self.order[first:end] - first).tolist(),
            self.rank[first:end].tolist(),
            self.micro_batch[first:end].tolist(),
            self.ranks,
            self.equal_counts,
        )

    def __iter__(self) -> Iterator[Plan]:
        return (self[step] for step in range(len(self)))


def spread(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Longest processing time first, then exchanges with the most loaded rank while they help.

    The most loaded rank has at most 4/3 - 1/(3·ranks) of the least possible (Graham 1969).
    """
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    falling = [float(costs[i]) for i in order]
    nothing = [0] * len(order)
    where = [-1] * len(order)
    longest_first(falling, nothing, ranks, UNLIMITED, ENDLESS, 0, where)
    refine(falling, nothing, list(range(len(order))), [UNLIMITED] * ranks, where)
    result: list[list[int]] = [[] for _ in range(ranks)]
    for i, rank in zip(order, where, strict=True):
        result[rank].append(i)
    return result


def packed_bins(sizes: Sequence[int], cap: int) -> list[list[int]]:
    """Best fit decreasing: each item goes into the fullest bin that still takes it."""
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    where = [0] * len(order)
    count = best_fit([int(sizes[i]) for i in order], cap, where)
    bins: list[list[int]] = [[] for _ in range(count)]
    for i, place in zip(order, where, strict=True):
        bins[place].append(i)
    return bins


def padded_bins(sizes: Sequence[int], cap: int) -> list[list[int]]:
    """Neighbours in length share a rectangle of at most `cap` tokens, its width the longest one.

    They are as few as can be.
    """
    bins: list[list[int]] = []
    width = 0
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        if bins and width * (len(bins[-1]) + 1) <= cap:
            bins[-1].append(item)
        else:
            bins.append([item])
            width = sizes[item]
    return bins


def _assemble(
    order: list[int], rank: list[int], micro: list[int], ranks: int, equal_counts: bool
) -> Plan:
    """Nested lists: sample `order[i]` is on `rank[i]`, in its micro-batch number `micro[i]`."""
    most = max(micro, default=0) + 1
    plan: Plan = [[] for _ in range(ranks)]
    for i, r, m in zip(order, rank, micro, strict=True):
        mine = plan[r]
        while len(mine) <= m:
            mine.append([])
        mine[m].append(i)
    for mine in plan:
        while len(mine) < (most if equal_counts else 1):
            mine.append([])
    return plan


def _check(ranks: int, cap: int, quadratic_tokens: float) -> None:
    if ranks < 1 or cap < 1:
        raise ValueError("ranks and cap must be at least 1")
    if not quadratic_tokens > 0:
        raise ValueError("quadratic_tokens must be above 0")
