"""The study's own sampler, to replicate it: effective batches that are met on average only.

Multipack walks through a permutation of the data. Each micro-step takes as many of the next samples
as first fit decreasing gets into one bin a rank; the bins hold up to a *capacity* of tokens. The
capacity is chosen so that a micro-step holds the expected number of samples:
`effective_batch_size / accumulation`, with the fewest accumulation steps whose capacity is within
the token cap. Without padding that is the mean length times the samples a rank; with padding it is
found by packing the data again and again, and similar lengths are put together by the same
descending order. What is left at an epoch's end is dropped.

So a step's batch varies, by about a tenth at 128. Use it only to compare with the study: `exact`
batching packs better and meets every batch. After the sampler of instructlab-training 0.2 to 0.5
(Apache-2.0), itself after github.com/imoneoi/multipack_sampler (MIT); this is our own writing of
the algorithm. Pure: no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Plan = list[list[list[int]]]

CLOSE = 0.02
"""With padding, how close to the expected number of samples the search for a capacity comes."""


@dataclass(frozen=True)
class PaperStep:
    """One effective batch.

    `samples` are indices of the data; `plan` holds positions in it, indexed [rank][micro-batch].
    """

    samples: Indices
    plan: Plan


class PaperBatches:
    """The effective batches of a run, as the study's sampler makes them.

    Args:
        lengths: tokens of each sample.
        ranks: number of ranks.
        batch_size: samples that a step should have on average.
        cap: most tokens of a micro-batch, padding counted where there is any.
        padded: micro-batches are padded to their longest sample.
        seed: of the permutations, one an epoch.

    Attributes:
        capacity: tokens of a bin that was chosen, at most `cap`.
        accumulation: micro-steps an optimizer step.
        expected: samples a step by that choice.

    Raises:
        ValueError: the sampler can't meet this batch size on this data: a bin of the capacity that
            it would take is too short for the longest sample, or an epoch has no full step.
    """

    def __init__(
        self,
        lengths: Any,
        *,
        ranks: int,
        batch_size: int,
        cap: int,
        padded: bool,
        seed: int,
    ) -> None:
        self._lengths: Indices = np.maximum(1, np.asarray(lengths, dtype=np.int64))
        if len(self._lengths) == 0:
            raise ValueError("batching: paper needs at least one sample")
        if ranks < 1 or batch_size < 1 or cap < 1:
            raise ValueError("ranks, batch_size and cap must be at least 1")
        self.ranks = ranks
        self.batch_size = batch_size
        self.padded = padded
        self.seed = seed
        self._epochs: dict[int, _Epoch] = {}
        self._steps: list[int] = [0]  # steps before each epoch that is known
        self._samples: list[int] = [0]  # samples before it
        self.capacity, self.accumulation = self._choose(cap)
        self.expected = float(batch_size)

    def step(self, index: int) -> PaperStep:
        """The step number `index`, from 0. Epochs follow one another without end."""
        if index < 0:
            raise IndexError(f"step {index}")
        while index >= self._steps[-1]:
            self._append()
        number = int(np.searchsorted(self._steps, index, side="right")) - 1
        epoch = self._epoch(number)
        first = (index - self._steps[number]) * self.accumulation
        a, b = int(epoch.bounds[first]), int(epoch.bounds[first + self.accumulation])
        plan: Plan = [[[] for _ in range(self.accumulation)] for _ in range(self.ranks)]
        for k in range(self.accumulation):
            begin, end = int(epoch.bounds[first + k]), int(epoch.bounds[first + k + 1])
            order = np.argsort(-self._lengths[epoch.samples[begin:end]], kind="stable")
            for i in order.tolist():
                plan[int(epoch.ranks[begin + i])][k].append(begin - a + i)
        return PaperStep(epoch.samples[a:b].copy(), plan)

    def steps_for(self, total_samples: int) -> int:
        """How many steps it takes to meet `total_samples` samples; the last may go beyond."""
        if total_samples <= 0:
            return 0
        while self._samples[-1] < total_samples:
            self._append()
        number = int(np.searchsorted(self._samples, total_samples, side="left")) - 1
        met = np.cumsum(self._epoch(number).sizes(self.accumulation))
        inside = int(np.searchsorted(met, total_samples - self._samples[number], side="left"))
        return self._steps[number] + inside + 1

    def simulated(self) -> tuple[float, float]:
        """Mean and standard deviation of the first epoch's batches, in samples."""
        sizes = self.batch_sizes()
        return float(sizes.mean()), float(sizes.std())

    def batch_sizes(self, epoch: int = 0) -> Indices:
        """Samples of each step of an epoch."""
        return self._epoch(epoch).sizes(self.accumulation)

    # --- the capacity -------------------------------------------------------------------------

    def _choose(self, cap: int) -> tuple[int, int]:
        """The capacity and the fewest accumulation steps with which it is within the cap."""
        mean = float(self._lengths.mean())
        longest = int(self._lengths.max())
        accumulation = 0
        while True:
            accumulation += 1
            a_step = self.batch_size / accumulation
            plain = int(mean * a_step / self.ranks)
            if plain < longest:
                raise ValueError(
                    f"batching: paper can't meet {self.batch_size} samples on {self.ranks} ranks: "
                    f"a micro-batch would hold {plain} tokens and the longest sample has {longest} "
                    f"(cap {cap}); use batching: exact, a larger effective_batch_size, a higher "
                    "token cap, or fewer ranks"
                )
            if not self.padded and plain <= cap:
                return plain, accumulation
            if self.padded and plain <= cap:
                capacity = self._with_padding(plain, a_step)
                if capacity <= cap:
                    return capacity, accumulation

    def _with_padding(self, plain: int, a_step: float) -> int:
        """The capacity at which micro-steps hold `a_step` samples, padding counted.

        It is searched between the capacity without padding and one that holds too many.
        """
        low, more = 0, max(1, plain // 10)
        while self._samples_a_step(plain + more) <= a_step:
            low, more = more, 2 * more
        high = more
        while high - low > 1:
            middle = (low + high) // 2
            found = self._samples_a_step(plain + middle)
            if abs(found - a_step) <= CLOSE * a_step:
                return plain + middle
            if found > a_step:
                high = middle
            else:
                low = middle
        return plain + high

    def _samples_a_step(self, capacity: int) -> float:
        epoch = self._pack(0, capacity)
        steps = len(epoch.bounds) - 1
        return len(self._lengths) / steps if steps else float("inf")

    # --- epochs -------------------------------------------------------------------------------

    def _append(self) -> None:
        """Know one epoch more."""
        sizes = self._epoch(len(self._steps) - 1).sizes(self.accumulation)
        if len(sizes) == 0:
            raise ValueError(
                f"batching: paper makes no full step of {self.batch_size} samples from "
                f"{len(self._lengths)} samples; use batching: exact, or more data"
            )
        self._steps.append(self._steps[-1] + len(sizes))
        self._samples.append(self._samples[-1] + int(sizes.sum()))

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            while len(self._epochs) > 1:  # keep the one that is read, and the next
                del self._epochs[next(iter(self._epochs))]
            self._epochs[number] = self._pack(number, self.capacity)
        return self._epochs[number]

    def _pack(self, number: int, capacity: int) -> _Epoch:
        generator = np.random.Generator(np.random.PCG64([self.seed, number]))
        order = generator.permutation(len(self._lengths)).astype(np.int64)
        order = order[self._lengths[order] <= capacity]
        bounds = np.zeros(len(order) + 1, dtype=np.int64)
        ranks = np.zeros(len(order), dtype=np.int64)
        steps = _compiled()(self._lengths[order], capacity, self.ranks, self.padded, bounds, ranks)
        return _Epoch(order, bounds[: steps + 1], ranks)


@dataclass(frozen=True)
class _Epoch:
    """`samples` in order: micro-step k has those from `bounds[k]` to `bounds[k + 1]`."""

    samples: Indices
    bounds: Indices
    ranks: Indices

    def sizes(self, accumulation: int) -> Indices:
        """Samples of each full optimizer step."""
        return np.diff(self.bounds[::accumulation])


# --- the loops, compiled ----------------------------------------------------------------------


def _multipack(
    lengths: Any, capacity: int, ranks: int, padded: bool, bounds: Any, where: Any
) -> int:
    """Cut `lengths` into micro-steps; write their bounds and each sample's rank; return how many.

    A micro-step takes the most samples that still fit, found by bisection. The rest, which does not
    fill all ranks, is dropped.
    """
    steps = 0
    start = 0
    while start < len(lengths):
        low = 1
        high = 1  # the first number of samples whose tokens alone are too many
        tokens = 0
        while start + high - 1 < len(lengths):
            tokens += lengths[start + high - 1]
            if tokens > capacity * ranks:
                break
            high += 1
        while high - low > 1:
            middle = (low + high) // 2
            used = _first_fit(lengths[start : start + middle], capacity, padded, where[start:])
            if used <= ranks:
                low = middle
            else:
                high = middle
        used = _first_fit(lengths[start : start + low], capacity, padded, where[start:])
        if used < ranks:
            break
        start += low
        steps += 1
        bounds[steps] = start
    return steps


def _first_fit(lengths: Any, capacity: int, padded: bool, where: Any) -> int:
    """First fit decreasing; writes each sample's bin and returns the number of bins."""
    widest = np.zeros(len(lengths), dtype=np.int64)
    held = np.zeros(len(lengths), dtype=np.int64)
    bins = 0
    for i in np.argsort(-lengths, kind="mergesort"):
        for b in range(len(lengths)):
            if padded:  # the first is the longest: descending
                width = max(widest[b], lengths[i])
                fits = width * (held[b] + 1) <= capacity
            else:
                width = widest[b] + lengths[i]
                fits = width <= capacity
            if fits or b == bins:
                widest[b] = width
                held[b] += 1
                where[i] = b
                bins = max(bins, b + 1)
                break
    return bins


@cache
def _compiled() -> Any:
    """`_multipack`, compiled by numba."""
    import numba

    def compiled(function: Any) -> Any:
        try:
            return numba.njit(cache=True)(function)
        except RuntimeError:  # nowhere to keep the machine code
            return numba.njit(function)

    first_fit = compiled(_first_fit)
    space = {**globals(), "_first_fit": first_fit}
    return compiled(FunctionType(_multipack.__code__, space, "_multipack"))
