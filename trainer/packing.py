"""Which samples make up an optimizer step, and how they are spread over ranks and micro-batches.

Samples come from one endless stream: a permutation of the data set for each epoch, drawn from the
seed alone, one after the other. Step i takes the i-th run of exactly `effective_batch_size`
samples. So two runs with equal data and seed have met the same samples after the same count,
whatever their batch size or number of ranks; only the last batch of a run may be short.

Within a step, samples go to ranks by longest processing time first (LPT), then into micro-batches
under a cap on tokens by best fit decreasing. Neither changes the update: the loss is a sum over
the whole effective batch. Pure: no torch.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

QUADRATIC_TOKENS = 16_384
"""Length at which attention's quadratic term costs as much as the linear rest, roughly."""


class SampleStream:
    """The endless stream of sample indices for a data set of `size` samples."""

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError("a stream needs at least one sample")
        self.size = size
        self.seed = seed
        self._epoch = -1
        self._permutation: Indices = np.empty(0, dtype=np.int64)

    def take(self, start: int, stop: int) -> Indices:
        """Samples number `start` to `stop` (exclusive) of the stream."""
        parts: list[Indices] = []
        while start < stop:
            epoch, offset = divmod(start, self.size)
            end = min(self.size, offset + stop - start)
            parts.append(self._permutation_of(epoch)[offset:end])
            start += end - offset
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def _permutation_of(self, epoch: int) -> Indices:
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._permutation = generator.permutation(self.size).astype(np.int64)
            self._epoch = epoch
        return self._permutation


def run_samples(size: int, epochs: float, max_samples: int | None) -> int:
    """How many samples a run meets: `max_samples`, else `epochs` times the data set, at least 1."""
    if max_samples is not None:
        return max_samples
    return max(1, round(epochs * size))


def run_steps(samples: int, batch_size: int) -> int:
    """How many optimizer steps `samples` samples make; the last may be short."""
    return -(-samples // batch_size)


def plan_step(
    lengths: Sequence[int],
    *,
    ranks: int,
    cap: int,
    padded: bool,
    equal_counts: bool,
) -> list[list[list[int]]]:
    """Spread one effective batch over ranks and micro-batches.

    Args:
        lengths: tokens of each sample of the batch.
        ranks: number of ranks.
        cap: most tokens of a micro-batch, padding counted. A longer sample gets a bin of its own.
        padded: micro-batches are rectangles, padded to their longest sample.
        equal_counts: give every rank the same number of micro-batches, adding empty ones.

    Returns:
        Positions in `lengths`, indexed [rank][micro-batch]; each occurs exactly once. Every rank
        gets at least one micro-batch, if an empty one: it has to take part in the reduction.
    """
    costs = [n + n * n / QUADRATIC_TOKENS for n in lengths]
    plan: list[list[list[int]]] = []
    for mine in spread(costs, ranks):
        sizes = [lengths[i] for i in mine]
        bins = padded_bins(sizes, cap) if padded else packed_bins(sizes, cap)
        plan.append([[mine[i] for i in part] for part in bins] or [[]])
    if equal_counts:
        most = max(len(part) for part in plan)
        for part in plan:
            part.extend([] for _ in range(most - len(part)))
    return plan


def spread(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Longest processing time first: the dearest remaining item goes to the least loaded rank."""
    if ranks == 1:
        return [list(range(len(costs)))]
    order = sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    heap = [(0.0, rank) for rank in range(ranks)]
    result: list[list[int]] = [[] for _ in range(ranks)]
    for item in order:
        load, rank = heapq.heappop(heap)
        result[rank].append(item)
        heapq.heappush(heap, (load + costs[item], rank))
    return result


def packed_bins(sizes: Sequence[int], cap: int) -> list[list[int]]:
    """Best fit decreasing: each item goes into the fullest bin that still takes it."""
    if sum(sizes) <= cap:
        everything = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
        return [everything] if everything else []
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, bin), ascending
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        size = sizes[item]
        at = bisect_left(rooms, (size, -1))
        if at < len(rooms):
            room, index = rooms.pop(at)
            bins[index].append(item)
            insort(rooms, (room - size, index))
        else:
            bins.append([item])
            insort(rooms, (cap - size, len(bins) - 1))
    return bins


def padded_bins(sizes: Sequence[int], cap: int) -> list[list[int]]:
    """Neighbours in length share a rectangle of at most `cap` tokens, its width the longest one."""
    bins: list[list[int]] = []
    width = 0
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        if bins and width * (len(bins[-1]) + 1) <= cap:
            bins[-1].append(item)
        else:
            bins.append([item])
            width = sizes[item]
    return bins
