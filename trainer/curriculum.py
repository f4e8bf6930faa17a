"""In which order a run meets its samples: stacked, phased, or by difficulty.

A curriculum is one stream of sample indices, cut into *stages* that follow one another. Each stage
repeats its own epochs; an epoch is a permutation of the stage's samples drawn from the seed, the
stage and the epoch's number alone. So sample number i of a run is the same whatever the batch size
or the number of ranks, and can be had without the ones before it.

What a stage consists of is a weight for each sample: weight 2 occurs twice an epoch, weight 0.5 in
every other epoch on average, drawn anew each time.

    stacked      one stage; every set with its own weight
    phased       a stage a phase, in order; sets of earlier phases come along with their weight
                 times `replay`
    difficulty   two stages: the samples with the shorter answers, then those with the longer ones,
                 and the shorter ones again with their weight times `replay`

Pure: no torch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trainer.config import DataConfig

Indices = npt.NDArray[np.int64]

DIFFICULTY_REPLAY = 0.01
"""Share of the short half that is met again with the long one (arXiv 2412.13337, section 3)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the stream: samples number `start` to `stop` (exclusive) of the run."""

    name: str
    start: int
    stop: int
    epoch_size: int


class Curriculum:
    """The stream of sample indices of one run.

    Args:
        data: strategy, phases, weights and replay.
        sets: number of samples of each training set, in the order of `data.train`. Indices count
            through all of them, one set after the other.
        answer_tokens: target tokens of each sample, (samples,). Only `difficulty` looks at them.
        epochs: how often each stage is repeated; may be a fraction.
        max_samples: samples of the whole run, over all stages in proportion to their size;
            overrides `epochs`.
        seed: of all permutations and draws.

    Attributes:
        total_samples: samples that the run meets, at least 1 unless `max_samples` is 0.
        epoch_size: samples of one epoch of every stage, rounded.
        resets: sample counts at which a new stage begins and the optimizer is to start afresh:
            before the first step that starts at or after the count. Empty unless
            `data.reset_optimizer`.
        stages: what follows what.

    Raises:
        ValueError: there is no sample, or a stage has none; `problems` says which.
    """

    def __init__(
        self,
        data: DataConfig,
        *,
        sets: Sequence[int],
        answer_tokens: npt.ArrayLike,
        epochs: float,
        max_samples: int | None,
        seed: int,
    ) -> None:
        if len(sets) != len(data.train):
            raise ValueError(f"{len(data.train)} training sets, but sizes of {len(sets)}")
        lengths = np.asarray(answer_tokens)
        if len(lengths) != sum(sets):
            raise ValueError(f"{sum(sets)} samples, but answer lengths of {len(lengths)}")
        named = _stages(data, sets, lengths, seed)
        self._streams = [
            # Stacked keeps the plain stream of (seed, epoch), without a number of its stage.
            _Stream(pools, seed, 0 if data.strategy == "stacked" else number)
            for number, (_, pools) in enumerate(named, start=1)
        ]
        for (name, _), stream in zip(named, self._streams, strict=True):
            if not stream.mean:
                raise ValueError(f"{name} has no samples")
        mean = sum((stream.mean for stream in self._streams), Fraction(0))
        self.epoch_size = round(mean)
        if max_samples is None:
            sizes = [stream.samples(epochs) for stream in self._streams]
            ends = np.cumsum(sizes).tolist()
        else:
            ends, sofar = [], Fraction(0)
            for stream in self._streams:
                sofar += stream.mean
                ends.append(round(max_samples * sofar / mean))
        self._starts = [0, *ends[:-1]]
        self.total_samples = int(ends[-1])
        self.stages = tuple(
            Stage(name, start, end, round(stream.mean))
            for (name, _), stream, start, end in zip(
                named, self._streams, self._starts, ends, strict=True
            )
        )
        self.resets = (
            tuple(start for start in self._starts[1:] if 0 < start < self.total_samples)
            if data.reset_optimizer
            else ()
        )

    def take(self, start: int, stop: int) -> Indices:
        """Samples number `start` to `stop` (exclusive) of the run, (stop - start,).

        The last stage goes on for ever.
        """
        parts: list[Indices] = []
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            last = number == len(self._starts) - 1
            end = stop if last else min(stop, self._starts[number + 1])
            begin = self._starts[number]
            parts += self._streams[number].take(start - begin, end - begin)
            start = end
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def epoch_samples(data: DataConfig, sets: Sequence[int]) -> int:
    """Samples of one epoch of all training sets with their weights, rounded."""
    weights = [Fraction(repr(source.weight)) for source in data.train]
    return round(sum((w * size for w, size in zip(weights, sets, strict=True)), Fraction(0)))


def problems(data: DataConfig, sets: Sequence[int], epochs: float) -> list[tuple[str, str]]:
    """(JSON pointer, message) for each training set that a run would never meet.

    Args:
        data: the run's data.
        sets: usable samples of each training set.
        epochs: of the run.
    """
    found: list[tuple[str, str]] = []
    for number, (source, size) in enumerate(zip(data.train, sets, strict=True)):
        expected = source.weight * size * max(epochs, 1.0)
        if expected < 0.5:
            found.append(
                (
                    f"/data/train/{number}/weight",
                    f"data.train[{number}].weight is {source.weight:g}, of {size:,} usable samples "
                    f"({source.path}): none of them would be met; raise it to {1 / size:.2g} or "
                    "more, or leave the set out",
                )
            )
    if data.strategy == "difficulty" and sum(sets) < 2:
        found.append(
            (
                "/data/strategy",
                "strategy difficulty parts short answers from long ones, but there is only one "
                "usable sample; use strategy: stacked",
            )
        )
    return found


# --- what each stage consists of --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pool:
    """Samples that share a weight."""

    samples: Indices
    weight: Fraction


def _stages(
    data: DataConfig, sets: Sequence[int], answer_tokens: npt.NDArray[np.generic], seed: int
) -> list[tuple[str, list[_Pool]]]:
    """(name, pools) of each stage in order."""
    starts = np.cumsum([0, *sets])
    members = [np.arange(a, b, dtype=np.int64) for a, b in pairwise(starts.tolist())]
    weights = [Fraction(repr(source.weight)) for source in data.train]
    if data.strategy == "stacked":
        return [("stacked", _pools(zip(members, weights, strict=True)))]
    if data.strategy == "phased":
        replay = Fraction(repr(data.replay or 0.0))
        order = data.phase_order or tuple(sorted({source.phase for source in data.train}))
        stages: list[tuple[str, list[_Pool]]] = []
        for number, phase in enumerate(order):
            earlier = order[:number]
            parts = [
                (samples, weight * (1 if source.phase == phase else replay))
                for source, samples, weight in zip(data.train, members, weights, strict=True)
                if source.phase == phase or source.phase in earlier
            ]
            stages.append((f"phase {phase}", _pools(parts)))
        return stages
    share = DIFFICULTY_REPLAY if data.replay is None else data.replay
    replay = Fraction(repr(share))
    short = _short(answer_tokens, data.difficulty_percentile, seed)
    halves = [(m[short[m]], m[~short[m]]) for m in members]
    return [
        (
            "short answers",
            _pools((first, weight) for (first, _), weight in zip(halves, weights, strict=True)),
        ),
        (
            "long answers",
            _pools(
                part
                for (short_ones, long_ones), weight in zip(halves, weights, strict=True)
                for part in ((long_ones, weight), (short_ones, weight * replay))
            ),
        ),
    ]


def _short(
    answer_tokens: npt.NDArray[np.generic], percentile: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Mask of the `percentile` % of samples with the shortest answers, at least one and not all.

    By rank, so that equal lengths don't all fall on one side: lots decide between them.
    """
    size = len(answer_tokens)
    lots = np.random.Generator(np.random.PCG64([seed, 0, 2**32 - 1])).permutation(size)
    order = np.lexsort((lots, answer_tokens))
    count = min(max(1, round(size * percentile / 100)), size - 1)
    short = np.zeros(size, dtype=np.bool_)
    short[order[:count]] = True
    return short


def _pools(parts: Iterable[tuple[Indices, Fraction]]) -> list[_Pool]:
    """Samples of equal weight as one pool, so that fractions are drawn from all of them at once."""
    by_weight: dict[Fraction, list[Indices]] = {}
    for samples, weight in parts:
        if weight and len(samples):
            by_weight.setdefault(weight, []).append(samples)
    return [_Pool(np.concatenate(found), weight) for weight, found in by_weight.items()]


# --- the stream of one stage ------------------------------------------------------------------


class _Stream:
    """Epoch after epoch of one stage, without end.

    An epoch holds each sample of a pool floor(weight) times and a random part of the pool once
    more. That part's size is rounded such that all epochs up to any point together hold
    weight × samples × epochs, to within half a sample.
    """

    def __init__(self, pools: Sequence[_Pool], seed: int, number: int) -> None:
        self._pools = pools
        self._seed = [seed, number] if number else [seed]
        self.mean = sum((pool.weight * len(pool.samples) for pool in pools), Fraction(0))
        """Samples of an epoch on average, exactly."""
        self._epoch = -1
        self._order: Indices = np.empty(0, dtype=np.int64)

    def samples(self, epochs: float) -> int:
        """Samples of so many epochs, at least 1."""
        if epochs == int(epochs):
            return max(1, self._begin(int(epochs)))
        return max(1, round(epochs * float(self.mean)))

    def take(self, start: int, stop: int) -> list[Indices]:
        parts: list[Indices] = []
        while start < stop:
            epoch = self._epoch_of(start)
            begin, end = self._begin(epoch), min(self._begin(epoch + 1), stop)
            parts.append(self._order_of(epoch)[start - begin : end - begin])
            start = end
        return parts

    def _begin(self, epoch: int) -> int:
        """Samples of all epochs before this one."""
        return sum(_rounded(pool.weight * len(pool.samples) * epoch) for pool in self._pools)

    def _epoch_of(self, position: int) -> int:
        epoch = int(position / self.mean)
        while self._begin(epoch) > position:
            epoch -= 1
        while self._begin(epoch + 1) <= position:
            epoch += 1
        return epoch

    def _order_of(self, epoch: int) -> Indices:
        if epoch != self._epoch:
            generator = np.random.Generator(
                np.random.PCG64([self._seed[0], epoch, *self._seed[1:]])
            )
            chosen = [part for pool in self._pools for part in _draw(pool, epoch, generator)]
            items = np.concatenate(chosen)
            self._order = items[generator.permutation(len(items))]
            self._epoch = epoch
        return self._order


def _draw(pool: _Pool, epoch: int, generator: np.random.Generator) -> list[Indices]:
    size = len(pool.samples)
    whole = pool.weight.numerator // pool.weight.denominator
    each = pool.weight * size
    extra = _rounded(each * (epoch + 1)) - _rounded(each * epoch) - whole * size
    parts = [pool.samples] * whole
    if extra:
        parts.append(pool.samples[generator.choice(size, extra, replace=False)])
    return parts


def _rounded(value: Fraction) -> int:
    """To the nearest integer, halves up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
