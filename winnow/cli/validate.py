"""`winnow validate FILE`: what a sweep would take, and what looks odd about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from winnow.cli.errors import err
from winnow.client import Client
from winnow.validation import Estimate, Range, SweepWarning, Validation

app = typer.Typer()
out = Console()


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="A sweep file, YAML or JSON.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check a sweep file without starting it: its size, memory, time and cost, and warnings."""
    with Client() as client, err.status("checking the sweep, its data and its model"):
        found = client.validate(file)
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        show(found, out)


app.command(name="check", hidden=True, help="The same as validate.")(validate)


def show(found: Validation, console: Console) -> None:
    """Print an estimate and its warnings."""
    console.print(table(found.estimate))
    if found.estimate.sampled:
        console.print("", _sampled(found.estimate), sep="\n")
    for note in found.estimate.notes:
        console.print(f"  {escape(note)}", style="dim", highlight=False)
    warn(found.warnings, console)


def warn(warnings: list[SweepWarning], console: Console) -> None:
    """Print warnings, one a line."""
    for warning in warnings:
        console.print(
            f"[yellow]warning[/yellow] {escape(warning.pointer)}: {escape(warning.message)}",
            highlight=False,
        )


def table(estimate: Estimate) -> Table:
    """An estimate, a row for each figure."""
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column(style="dim")
    rows.add_column()
    space = estimate.space if isinstance(estimate.space, str) else f"{estimate.space:,}"
    at_once = f", {estimate.at_once} at once" if estimate.at_once else ""
    rows.add_row("configurations", space)
    rows.add_row("trials", f"{estimate.trials:,}{at_once}")
    rows.add_row("steps a trial", _whole(estimate.steps))
    rows.add_row("samples a trial", _whole(estimate.samples))
    rows.add_row("tokens", _short(estimate.tokens))
    if (memory := estimate.memory) is not None:
        of = f" of {_bytes(memory.available)}" if memory.available else ""
        where = "memory a GPU" if memory.device == "gpu" else "memory a process"
        rows.add_row(where, f"{_bytes(memory.total)}{of}")
    if (disk := estimate.disk) is not None:
        free = f" ({_bytes(disk.free)} free)" if disk.free else ""
        rows.add_row("disk", f"at most {_bytes(disk.at_most)}{free}")
    if (speed := estimate.throughput) is not None:
        rows.add_row("tokens a second", _whole(speed.tokens_per_second))
    if estimate.trial_seconds is not None:
        rows.add_row("a trial", _time(estimate.trial_seconds))
    if estimate.wall_seconds is not None:
        rows.add_row("the sweep", _time(estimate.wall_seconds))
    if estimate.gpu_hours is not None:
        rows.add_row("GPU-hours", _figures(estimate.gpu_hours))
    if estimate.cost is not None:
        rows.add_row("cost", _figures(estimate.cost))
    return rows


def _sampled(estimate: Estimate) -> Table:
    names = list(dict.fromkeys(name for one in estimate.sampled for name in one.params))
    rows = Table(*names, "steps", box=None, pad_edge=False, title="first proposals")
    for one in estimate.sampled:
        rows.add_row(*(str(one.params.get(name, "-")) for name in names), f"{one.steps:,}")
    return rows


def _whole(one: Range) -> str:
    low, high = f"{one.low:,.0f}", f"{one.high:,.0f}"
    return low if low == high else f"{low} to {high}"


def _figures(one: Range) -> str:
    low, high = f"{one.low:,.3g}", f"{one.high:,.3g}"
    return low if low == high else f"{low} to {high}"


def _time(one: Range) -> str:
    low, high = _duration(one.low), _duration(one.high)
    return low if low == high else f"{low} to {high}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _short(count: float) -> str:
    for unit, factor in (("billion", 1e9), ("million", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:,.0f}"


def _bytes(size: int) -> str:
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if size >= 0.95 * factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1024:.0f} KiB"
