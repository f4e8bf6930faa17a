"""`winnow log`: who asked for what in a sweep, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from winnow.cli.tables import parameter
from winnow.types import Command, Event

SHOWN = ("sweep.created", "sweep.state", "command", "driver.started", "driver.lost")
"""Kinds of event that tell of a sweep as a whole, and of what people did."""

VERBS = {"set": "change", "add": "add a configuration to", "narrow": "narrow the space of"}


def told(command: Command) -> str:
    """A command in words: `clone trial 7 of abc with learning_rate 2e-05`."""
    return _told(command.kind, command.sweep_id, command.trial_id, command.payload or {})


def log_table(events: Iterable[Event], *, everything: bool = False) -> Table:
    """What happened, in order: when, who, what."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("time", "who", "what"):
        table.add_column(name, overflow="fold")
    for event in events:
        if everything or event.type in SHOWN:
            who, what = said(event)
            table.add_row(_time(event.created_at), Text(who), what)
    return table


def said(event: Event) -> tuple[str, Text]:
    """Who did what, as an event tells it."""
    data = event.data
    if event.type == "command":
        what = Text(_told(data.get("kind"), event.sweep_id, event.trial_id, data.get("payload")))
        if "result" in data:
            what.append(f" → {data['result']}", "green")
        return str(data.get("by", "")), what
    if event.type in ("sweep.state", "trial.state"):
        subject = "the sweep" if event.trial_id is None else f"trial {_number(event.trial_id)}"
        said = f"{subject} is {str(data.get('to', '')).lower()}"
        message = data.get("message") or data.get("reason")
        return "winnow", Text(said + (f": {message}" if message else ""), "dim")
    subject = "" if event.trial_id is None else f" (trial {_number(event.trial_id)})"
    return "winnow", Text(f"{event.type.replace('.', ' ')}{subject}", "dim")


def _told(kind: Any, sweep_id: str, trial_id: str | None, payload: Any) -> str:
    payload = payload if isinstance(payload, Mapping) else {}
    subject = f"sweep {sweep_id}"
    if trial_id is not None:
        subject = f"trial {_number(trial_id)} of {sweep_id}"
    line = f"{VERBS.get(str(kind), kind)} {subject}"
    match kind:
        case "extend":
            more = payload.get("trials")
            return f"{line} by {more} {'trial' if more == 1 else 'trials'}"
        case "clone" | "add" if payload.get("params"):
            link = " with " if kind == "clone" else ": "
            return line + link + _values(payload["params"])
        case "narrow":
            space = payload.get("space") or {}
            names = payload.get("narrowed") or list(space)
            return f"{line} to {_values({name: space[name] for name in names if name in space})}"
        case "set":
            flat = {k: v for k, v in payload.items() if k not in ("budget", "limits")}
            budget = payload.get("budget") or {}
            names = payload.get("limits") or [k for k, v in budget.items() if v is not None]
            return (
                f"{line}: {_values(flat | {f'budget.{name}': budget.get(name) for name in names})}"
            )
        case _:
            return line


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        inner = next(iter(value.values()))
        if isinstance(inner, list | tuple):
            range_ = "choice" not in value
            return ("–" if range_ else ", ").join(parameter(one) for one in inner)
        return parameter(inner)
    return "none" if value is None else parameter(value)


def _number(trial_id: str) -> str:
    return trial_id.rpartition("-")[2]


def _time(when: datetime) -> str:
    return when.astimezone().strftime("%b %d %H:%M:%S")
