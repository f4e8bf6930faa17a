"""What each optimizer step trains on: which samples, on which rank, in which micro-batches.

The curriculum says which samples a step has, `packing` how they are spread over ranks and
micro-batches, `attention.collate` makes tensors of one micro-batch. With `batching: paper` the
study's sampler does the first two at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from trainer.attention import MicroBatch, collate
from trainer.config import TrainConfig
from trainer.curriculum import Curriculum
from trainer.data import RunData
from trainer.errors import ConfigError
from trainer.multipack import PaperBatches
from trainer.packing import Indices, plan_step, run_steps

Plan = list[list[list[int]]]


@dataclass(frozen=True, slots=True)
class Step:
    """One effective batch, planned.

    `start` and `stop`: samples seen before and after it. `mine`: this rank's micro-batches, as
    indices into the training data; `rounds`: the most that any rank has. Over all ranks: `targets`
    and `tokens` are target tokens and all tokens, `lengths` (samples,) the tokens of each sample,
    `padding` the share of padding in what the model is given, 0 … 1.
    """

    start: int
    stop: int
    mine: list[list[int]]
    rounds: int
    targets: int
    tokens: int
    lengths: Indices
    padding: float


class Batches:
    """The steps of a run, for one rank. `cap` (tokens of a micro-batch) may change between steps.

    Args:
        config: the run.
        data: its samples.
        rank: this rank, of `ranks`.
        packed: micro-batches are packed rows rather than padded rectangles.
        lockstep: all ranks get equally many micro-batches (ZeRO 2 and 3).
        cap: most tokens of a micro-batch on a rank, padding counted.
        pad_id: token that fills padding.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: RunData,
        *,
        rank: int,
        ranks: int,
        packed: bool,
        lockstep: bool,
        cap: int,
        pad_id: int,
    ) -> None:
        self._data = data.train
        self._lengths = data.train.lengths
        self._size = config.effective_batch_size
        self._rank, self._ranks = rank, ranks
        self._packed, self._lockstep = packed, lockstep
        self._pad_id = pad_id
        self.cap = cap
        curriculum = Curriculum(
            config.data,
            sets=data.sets,
            answer_tokens=data.train.target_counts,
            epochs=config.epochs,
            max_samples=config.max_samples,
            seed=config.seed,
        )
        self._source: _Source = _Exact(curriculum, self._size)
        if config.batching == "paper":
            try:
                sampler = PaperBatches(
                    self._lengths,
                    ranks=ranks,
                    batch_size=self._size,
                    cap=cap,
                    padded=not packed,
                    seed=config.seed,
                )
            except ValueError as error:
                raise ConfigError(str(error), "/batching") from None
            self._source = _Paper(sampler, curriculum.total_samples)
        self.total_samples = self._source.total_samples
        self.total_steps = self._source.total_steps
        self._resets = curriculum.resets

    def resets_optimizer(self, start: int) -> bool:
        """Whether the step that begins at `start` is the first of a phase that starts afresh."""
        return any(start - self._size < at <= start for at in self._resets)

    def step(self, number: int, start: int) -> Step:
        """Plan step `number` (from 0), before which `start` samples have been seen."""
        chosen, plan = self._source.step(number, start)
        lengths = self._lengths[chosen]
        if plan is None:
            plan = plan_step(
                lengths.tolist(),
                ranks=self._ranks,
                cap=self.cap,
                padded=not self._packed,
                equal_counts=self._lockstep,
            )
        tokens = int(lengths.sum())
        given = tokens if self._packed else _cells(plan, lengths)
        return Step(
            start=start,
            stop=start + len(chosen),
            mine=[[int(chosen[i]) for i in part] for part in plan[self._rank]],
            rounds=max(len(part) for part in plan),
            targets=int(self._data.target_counts[chosen].sum()),
            tokens=tokens,
            lengths=lengths,
            padding=1.0 - tokens / given if given else 0.0,
        )

    def tensors(self, samples: list[int], device: torch.device) -> MicroBatch:
        """One micro-batch of these samples of the training data."""
        return collate(
            [self._data.sample(i) for i in samples],
            packed=self._packed,
            pad_id=self._pad_id,
            device=device,
        )

    def largest_share(self) -> int:
        """Tokens that a rank has of one step, with some to spare: no larger cap is of use."""
        share = float(self._lengths.mean()) * self._size / self._ranks
        return round(1.25 * share) + int(self._lengths.max())

    def longest(self, tokens: int) -> list[int]:
        """The longest samples, as many as make a micro-batch of at most `tokens`; at least one.

        Samples repeat if there are too few.
        """
        order = np.argsort(-self._lengths, kind="stable")
        chosen: list[int] = []
        used = 0
        while True:
            sample = int(order[len(chosen) % len(order)])
            length = int(self._lengths[order[0]] if not self._packed else self._lengths[sample])
            if chosen and used + length > tokens:
                return chosen
            chosen.append(sample)
            used += length


def _cells(plan: Plan, lengths: Indices) -> int:
    """Tokens that padded micro-batches hold, padding counted."""
    return sum(int(max(lengths[i] for i in part)) * len(part) for r in plan for part in r if part)


class _Source(Protocol):
    total_samples: int
    total_steps: int

    def step(self, number: int, start: int) -> tuple[Indices, Plan | None]:
        """The samples of a step, and how they are spread, if that is the source's own affair."""
        ...


class _Exact:
    """Consecutive chunks of the curriculum of exactly `size` samples; the last may be short."""

    def __init__(self, curriculum: Curriculum, size: int) -> None:
        self._curriculum = curriculum
        self._size = size
        self.total_samples = curriculum.total_samples
        self.total_steps = run_steps(self.total_samples, size)

    def step(self, number: int, start: int) -> tuple[Indices, Plan | None]:
        stop = min(start + self._size, self.total_samples)
        return self._curriculum.take(start, stop), None


class _Paper:
    """The study's sampler. A run ends with the step that reaches its budget of samples."""

    def __init__(self, batches: PaperBatches, samples: int) -> None:
        self._batches = batches
        self.total_steps = batches.steps_for(samples)
        self.total_samples = samples

    def step(self, number: int, start: int) -> tuple[Indices, Plan | None]:
        made = self._batches.step(number)
        return made.samples, made.plan
