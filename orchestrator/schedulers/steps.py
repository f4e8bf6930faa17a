"""The steps of one trial, as columns: a long sweep has millions of them, and an object each would
fill the driver's memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, overload

from trainer.metrics import StepRecord


class Steps(Sequence[StepRecord]):
    """A list of step records that keeps what rules read: 56 bytes a step.

    Step, samples, loss, gradient norm, learning rate, batch and seconds come back as they were; the
    other fields are empty.
    """

    __slots__ = ("_batch", "_loss", "_norm", "_rate", "_step", "samples", "seconds")

    def __init__(self) -> None:
        self._step = array("q")
        self.samples = array("q")
        """Samples seen after each step, rising."""
        self._loss = array("d")
        self._norm = array("d")
        self._rate = array("d")
        self.seconds = array("d")
        """Wall time of each step."""
        self._batch = array("q")

    def append(self, record: StepRecord) -> None:
        self._step.append(record.step)
        self.samples.append(record.samples)
        self._loss.append(math.nan if record.loss is None else record.loss)
        self._norm.append(math.nan if record.grad_norm is None else record.grad_norm)
        self._rate.append(record.learning_rate)
        self.seconds.append(record.seconds)
        self._batch.append(record.batch_samples)

    def drop_from(self, step: int) -> None:
        """Forget the last records, back to before `step`."""
        while self._step and self._step[-1] >= step:
            for column in self._columns():
                column.pop()

    def keep_last(self) -> None:
        """Forget all records but the last."""
        for column in self._columns():
            del column[:-1]

    def __len__(self) -> int:
        return len(self._step)

    @overload
    def __getitem__(self, index: int) -> StepRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[StepRecord]: ...
    def __getitem__(self, index: int | slice) -> StepRecord | list[StepRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        loss, norm = self._loss[index], self._norm[index]
        return StepRecord(
            step=self._step[index],
            samples=self.samples[index],
            tokens=0,
            loss=None if math.isnan(loss) else loss,
            grad_norm=None if math.isnan(norm) else norm,
            learning_rate=self._rate[index],
            seconds=self.seconds[index],
            memory=0,
            batch_samples=self._batch[index],
        )

    def _columns(self) -> tuple[array[Any], ...]:
        return (
            self._step,
            self.samples,
            self._loss,
            self._norm,
            self._rate,
            self.seconds,
            self._batch,
        )
