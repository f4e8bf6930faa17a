"""`winnow replay`: a finished sweep under other schedulers, told on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from winnow.cli.tables import duration, metric_name, metric_value, number, percent
from winnow.replays import Replay, ReplayedTrial
from winnow.spec import SCHEDULER_FIELDS


def scheduler_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler by name with the options that were given."""
    return {"name": name} | {k: v for k, v in options.items() if v is not None}


def every_scheduler(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each scheduler with those of the given options that it reads."""
    return [
        scheduler_of(name, {k: v for k, v in options.items() if k in fields})
        for name, fields in SCHEDULER_FIELDS.items()
    ]


def replay_report(replay: Replay) -> RenderableType:
    """What one scheduler would have saved, lost and stopped."""
    grid = Table.grid(padding=(0, 2))
    for label, text in _facts(replay):
        grid.add_row(Text(label, style="bold"), text)
    parts: list[RenderableType] = [Text(_title(replay), style="bold"), Text(), grid]
    stopped = [t for t in replay.outcomes if t.fate == "stopped"]
    if stopped:
        parts += [Text(), _stops(stopped)]
    return Group(*parts, *_notes(replay.notes))


def comparison(replays: list[Replay]) -> RenderableType:
    """One line a scheduler, beside random search at the same compute."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    unsure = any(replay.unknown for replay in replays)
    columns = ("scheduler", "stopped", *(("unknown",) if unsure else ()), "saved")
    columns += (*(("at least",) if unsure else ()), "best", "chosen", "worse by", "random", "kept")
    for name in columns:
        table.add_column(name, justify="left" if name in ("scheduler", "best") else "right")
    for replay in replays:
        best = Text("kept", "green") if replay.best_kept else Text("lost", "red")
        table.add_row(
            Text(str(replay.scheduler["name"])),
            f"{replay.stopped}/{replay.trials}",
            *((str(replay.unknown),) if unsure else ()),
            percent(replay.saved),
            *((percent(replay.saved_at_least),) if unsure else ()),
            best,
            metric_value(replay.chosen_value, replay.metric),
            number(replay.regret),
            number(replay.random.regret),
            percent(replay.random.best_kept),
        )
    first = replays[0]
    caption = (
        f"{_ran(first)}; the best is trial {_number(first, first.best_trial)} with "
        f"{metric_name(first.metric)} {metric_value(first.best_value, first.metric)}.\n"
        "saved: worker time, net of evaluations and pauses. "
        + ("at least: if the unknown trials had run to their end. " if unsure else "")
        + "\nrandom, kept: of as many trials, picked blindly, as the same compute runs whole, how "
        "much worse the best is expected\nto be, and the chance that the very best is among them."
    )
    shared = [n for n in first.notes if all(n in r.notes for r in replays)]
    return Group(table, Text(), Text(caption, style="dim"), *_notes(shared))


def _title(replay: Replay) -> str:
    fields = ", ".join(
        f"{name} {_shown(value)}" for name, value in replay.scheduler.items() if name != "name"
    )
    return f"{replay.scheduler['name']}" + (f" ({fields})" if fields else "") + f": {_ran(replay)}"


def _ran(replay: Replay) -> str:
    return f"{replay.trials} trials, {replay.workers} at once"


def _facts(replay: Replay) -> Iterable[tuple[str, Text]]:
    hours = f"{number(replay.device_hours)} of {number(replay.device_hours_full)}"
    yield (
        "Compute saved",
        Text(
            f"{percent(replay.saved)} of the worker time, net: {duration(replay.seconds)} instead "
            f"of {duration(replay.seconds_full)} ({hours} {replay.device}-hours)"
        ),
    )
    if replay.unknown:
        yield "", Text(f"at least {percent(replay.saved_at_least)}, see below", style="yellow")
    yield "Samples", Text(f"{replay.samples_trained:,} of {replay.samples_full:,}")
    yield (
        "Time",
        Text(f"{duration(replay.wall_seconds)} instead of {duration(replay.wall_seconds_full)}"),
    )
    yield "Best trial", _best(replay)
    if replay.front:
        kept = f"{len(replay.front_kept)} of {len(replay.front)}"
        yield "Front", Text(f"{kept} trials that no other beats in everything are kept")
    random = replay.random
    yield (
        "At random",
        Text(
            f"the same compute runs {number(random.trials)} trials whole: the best is among them "
            f"in {percent(random.best_kept)}, their best is "
            f"{metric_value(random.value, replay.metric)} on average"
            + (f", worse by {number(random.regret)}" if random.regret else "")
        ),
    )
    counts = f"{replay.stopped} stopped"
    for fate, words in (("kept", "run to the end"), ("failed", "fail"), ("unknown", "unknown")):
        count = sum(t.fate == fate for t in replay.outcomes)
        counts += f", {count} {words}" if count else ""
    yield "Trials", Text(counts)


def _best(replay: Replay) -> Text:
    best = _number(replay, replay.best_trial)
    value = metric_value(replay.best_value, replay.metric)
    what = f"trial {best} with {metric_name(replay.metric)} {value}"
    if replay.best_kept:
        return Text(f"kept: {what}", style="green")
    if replay.chosen_trial is None:
        return Text(f"lost: {what}; no trial would have completed", style="red")
    return Text(
        f"lost: {what}; trial {_number(replay, replay.chosen_trial)} would have been chosen with "
        f"{metric_value(replay.chosen_value, replay.metric)}, worse by {number(replay.regret)}",
        style="red",
    )


def _stops(stopped: Iterable[ReplayedTrial]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trial", "stopped at", "value", "why"):
        table.add_column(name, justify="left" if name == "why" else "right")
    for trial in stopped:
        table.add_row(
            str(trial.number),
            f"{trial.samples:,}",
            number(trial.value) or ("?" if trial.censored else ""),
            Text(trial.reason or trial.rule or ""),
        )
    return table


def _notes(notes: Iterable[str]) -> list[RenderableType]:
    lines: list[RenderableType] = [Text(f"Note: {note}.", style="yellow") for note in notes]
    return [Text(), *lines] if lines else []


def _number(replay: Replay, trial_id: str) -> int:
    return next(t.number for t in replay.outcomes if t.trial_id == trial_id)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
