"""A run on the terminal: a bar that moves, and lines that stay.

On a terminal the last line is a progress bar with the latest loss, norm and speed; evaluations,
checkpoints and every so many steps are lines above it. Into a file or a pipe go the lines alone.
"""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trainer.metrics import Batch, Evaluation, StepRecord

_LINES = 20
"""Lines of steps that a whole run leaves on a terminal; the bar shows the rest."""


class Display:
    """Shows the batches of one run on `stream`, rank 0's."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._printed = 0

    def show(self, batch: Batch) -> None:
        """Show what has happened since the last report."""
        if batch.notes:
            self._line(", ".join(f"{_words(k)} {v}" for k, v in batch.notes.items() if v))
        if self._console.is_terminal and self._bar is None and batch.total_steps:
            self._bar = _bar(self._console, batch.total_steps)
        if batch.steps:
            last = batch.steps[-1]
            if self._bar is None or self._is_due(last.step, batch.total_steps):
                self._line(step_line(batch.steps, batch.total_steps))
                self._printed = last.step
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=last.step, now=_now(batch.steps))
        for evaluation in batch.evaluations:
            self._line(evaluation_line(evaluation))
        for saved in batch.checkpoints:
            self._line(f"{saved.kind} checkpoint: {saved.path} ({saved.bytes / 2**20:,.1f} MiB)")

    def close(self) -> None:
        """Take the bar away; the lines stay."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _is_due(self, step: int, total: int) -> bool:
        return step >= total or step - self._printed >= max(1, total // _LINES)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)


def step_line(steps: tuple[StepRecord, ...], total: int) -> str:
    """The last of `steps`, and the speed over all of them."""
    last = steps[-1]
    return f"step {last.step:>6,}/{total:,}  samples {last.samples:>9,}  {_now(steps)}"


def evaluation_line(evaluation: Evaluation) -> str:
    """One evaluation with everything that was measured."""
    parts: list[str] = []
    if evaluation.tokens:
        parts.append(f"loss {_number(evaluation.loss)}")
    if evaluation.exact_match is not None:
        parts.append(f"exact match {evaluation.exact_match:.1%} of {evaluation.generated:,}")
    parts += [f"{name} {value:.4g}" for name, value in evaluation.scores.items()]
    where = f"{evaluation.split} {evaluation.dataset} at step {evaluation.step:,}"
    return f"{where}: {'  '.join(parts) or 'nothing measured'}"


def _now(steps: tuple[StepRecord, ...]) -> str:
    last = steps[-1]
    seconds = max(sum(step.seconds for step in steps), 1e-9)
    tokens = sum(step.input_tokens for step in steps)
    mfu = f"  {last.mfu:.1%} MFU" if last.mfu is not None else ""
    return (
        f"loss {_number(last.loss)}  norm {_number(last.grad_norm)}  "
        f"lr {last.learning_rate:.3g}  {tokens / seconds:,.0f} tokens/s{mfu}"
    )


def _bar(console: Console, total: int) -> Progress:
    bar = Progress(
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
        console=console,
        transient=True,
    )
    bar.add_task("", total=total, now="")
    bar.start()
    return bar


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
