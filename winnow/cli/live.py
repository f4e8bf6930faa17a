"""Follow a sweep in the terminal: a live screen, or plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from queue import Empty, Queue
from threading import Thread

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from winnow.cli.history import said
from winnow.cli.tables import (
    duration,
    metric_name,
    metric_of,
    metric_value,
    number,
    parameter,
    percent,
    state_text,
    trials_table,
)
from winnow.cli.view import SweepView, is_verdict
from winnow.client import Client, Update
from winnow.types import Event, Trial

FRAMES_A_SECOND = 4
VERBS = {"stop": "stopped", "pause": "set aside", "resume": "called back"}


def follow(client: Client, sweep_id: str, console: Console) -> SweepView:
    """Show a sweep until it ends; what is known of it then. Ctrl-C leaves the sweep running."""
    view = SweepView()
    if console.is_terminal:
        _screen(client.watch(sweep_id), view, console)
    else:
        _lines(client.watch(sweep_id), view, console)
    return view


def _screen(updates: Iterable[Update], view: SweepView, console: Console) -> None:
    """Redraw at a steady pace; the stream is read beside it, so that the clock runs on."""
    queue: Queue[Update | BaseException | None] = Queue()

    def read() -> None:
        try:
            for update in updates:
                queue.put(update)
            queue.put(None)
        except BaseException as error:  # to be raised where the user is
            queue.put(error)

    Thread(target=read, name="winnow-watch", daemon=True).start()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            try:
                item = queue.get(timeout=1 / FRAMES_A_SECOND)
            except Empty:
                item = Update("progress")
            if isinstance(item, BaseException):
                raise item
            if item is None:
                live.update(screen(view, console.height), refresh=True)
                return
            view.apply(item)
            if queue.empty():
                live.update(screen(view, console.height), refresh=True)


def screen(view: SweepView, height: int) -> RenderableType:
    """Head, trials, decisions, cut to `height` lines: trials that matter least go first."""
    if view.sweep is None:
        return Text("waiting for the sweep …", style="dim")
    decisions = [_decision_line(event) for event in view.decisions]
    room = max(3, height - 6 - len(decisions))
    ranked = view.ranked()
    parts: list[RenderableType] = [
        _head(view),
        Text(),
        trials_table(ranked[:room], metric=metric_of(view.sweep)),
    ]
    if len(ranked) > room:
        parts.append(Text(f"… and {len(ranked) - room} more", style="dim"))
    if decisions:
        parts += [Text(), *decisions]
    return Group(*parts)


def _head(view: SweepView) -> RenderableType:
    sweep = view.sweep
    assert sweep is not None
    counts = ", ".join(f"{n} {state.lower()}" for state, n in sorted(_counts(view).items()))
    left = view.seconds_left(datetime.now(UTC))
    saved = view.saved()
    facts = [
        counts or "no trial yet",
        f"about {duration(left)} left" if left is not None else "",
        f"{percent(saved)} of the compute saved so far" if saved else "",
        _best(view, metric_of(sweep)),
        f"waits: {sweep.why_pending}" if sweep.why_pending and not sweep.slots else "",
    ]
    grid = Table.grid(padding=(0, 1))
    part = view.progress()
    grid.add_row(
        Text(sweep.name, style="bold"),
        state_text(sweep.state),
        ProgressBar(total=1.0, completed=part, width=30),
        Text(f"{part:.0%}"),
    )
    return Group(grid, Text(" · ".join(f for f in facts if f)))


def _counts(view: SweepView) -> dict[str, int]:
    counts: dict[str, int] = {}
    for trial in view.searching:
        counts[trial.state.value] = counts.get(trial.state.value, 0) + 1
    return counts


def _best(view: SweepView, metric: str) -> str:
    """The best value of the objective; of held-out loss also of trials that still run."""
    best = view.sweep.summary.best_value if view.sweep is not None else None
    if metric == "eval/loss":
        best = min((t.eval_loss for t in view.searching if t.eval_loss is not None), default=None)
    return "" if best is None else f"best {metric_name(metric)} {metric_value(best, metric)}"


def _decision_line(event: Event) -> Text:
    verb = VERBS.get(str(event.data.get("action")), str(event.data.get("action")))
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"trial {event.data.get('number')} {verb}: ", style="yellow")
    line.append(str(event.data.get("reason", "")))
    return line


def _lines(updates: Iterable[Update], view: SweepView, console: Console) -> None:
    """One line whenever something happened that a log's reader wants to know."""
    shown = -1
    for update in updates:
        before = view.trials.copy()
        view.apply(update)
        for trial in update.trials:
            known = before.get(trial.id)
            if trial.kind == "search" and (known is None or known.state != trial.state):
                console.print(_trial_line(trial), soft_wrap=True, highlight=False, markup=False)
        if update.event is not None and is_verdict(update.event):
            line = _decision_line(update.event).plain
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        if update.event is not None and update.event.type == "command":
            who, what = said(update.event)
            line = f"{who}: {what.plain}"
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        tenth = int(view.progress() * 10)
        if tenth > shown:
            shown = tenth
            left = view.seconds_left(datetime.now(UTC))
            tail = f", about {duration(left)} left" if left is not None else ""
            console.print(f"{view.progress():.0%} of the sweep{tail}", highlight=False)


def _trial_line(trial: Trial) -> str:
    params = " ".join(f"{name}={parameter(value)}" for name, value in trial.params.items())
    facts = [
        f"step {trial.step}/{trial.total_steps}" if trial.step else "",
        f"loss {number(trial.loss)}" if trial.loss is not None else "",
        f"norm {number(trial.grad_norm)}" if trial.grad_norm is not None else "",
        f"held-out {number(trial.eval_loss)}" if trial.eval_loss is not None else "",
    ]
    tail = ", ".join(f for f in facts if f)
    state = trial.state.value.lower() + (f" ({trial.reason})" if trial.reason else "")
    return f"trial {trial.number} {state}: {params}" + (f" | {tail}" if tail else "")
