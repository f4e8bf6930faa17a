"""`winnow logs`, `attempts`, `checkpoints`, `export`: what runs leave behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table as Shown

from winnow.client import Client
from winnow.files import Format, Table
from winnow.runs import Attempt, Checkpoint

app = typer.Typer()
out = Console()

TrialId = Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's id, as SWEEP-NUMBER.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def logs(
    id: Annotated[
        str, typer.Argument(metavar="TRIAL", help="A trial's id; or a sweep's: its driver.")
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on to the end.")] = False,
    search: Annotated[str | None, typer.Option(help="Only lines with this text.")] = None,
    tail: Annotated[int, typer.Option(min=1, max=10_000, help="Lines from the end.")] = 200,
    attempt: Annotated[int | None, typer.Option(min=1, help="Default: the latest.")] = None,
    rank: Annotated[int, typer.Option(min=0, help="Of a trial on several GPUs.")] = 0,
) -> None:
    """Show what a trial has written, or a sweep's driver."""
    with Client() as client:
        if follow:
            for line in client.follow_logs(
                id, tail=tail, search=search, attempt=attempt, rank=rank
            ):
                print(line.text, flush=True)
            return
        page = client.logs(id, tail=tail, search=search, attempt=attempt, rank=rank)
    for line in page.items:
        print(line.text)
    if page.position is None:
        typer.echo("nothing was written yet, or not where the server can read it", err=True)


@app.command()
def attempts(trial: TrialId, as_json: AsJson = False) -> None:
    """Show a trial's runs: how each began, and how it ended."""
    with Client() as client:
        found = client.attempts(trial)
    if as_json:
        _print_json(found)
    else:
        out.print(_attempts(found))


@app.command()
def checkpoints(
    trial: TrialId,
    download: Annotated[
        Path | None,
        typer.Option(
            help="Write the trained model, or the checkpoint of --step, to this tar file."
        ),
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="With --download: of which step.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a trial has saved, or fetch it."""
    with Client() as client:
        if download is not None:
            print(client.download_checkpoint(trial, download, step=step))
            return
        found = client.checkpoints(trial)
    if as_json:
        _print_json(found)
    else:
        out.print(_checkpoints(found))


@app.command()
def export(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id; see `winnow ls`.")],
    what: Annotated[
        str, typer.Option(help=f"Which table: {', '.join(get_args(Table))}.")
    ] = "trials",
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(get_args(Format))}.")
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: SWEEP-WHAT.FORMAT.")
    ] = None,
) -> None:
    """Write a table of a sweep to a file: all its trials, steps, evaluations, decisions, events."""
    for name, value, known in (("--what", what, Table), ("--format", form, Format)):
        if value not in get_args(known):
            raise typer.BadParameter(f"one of {', '.join(get_args(known))}", param_hint=name)
    with Client() as client:
        to = output or Path(f"{sweep}-{what}.{form}")
        print(client.export(sweep, to, what=what, format=form))  # type: ignore[arg-type]


def _attempts(found: Sequence[Attempt]) -> Shown:
    table = Shown(box=None, header_style="bold", pad_edge=False)
    for name in ("attempt", "state", "from step", "started", "ended", "why"):
        table.add_column(name, overflow="fold")
    for one in found:
        table.add_row(
            str(one.attempt),
            one.state.value,
            str(one.first_step),
            f"{one.started_at:%Y-%m-%d %H:%M:%S}",
            "" if one.ended_at is None else f"{one.ended_at:%Y-%m-%d %H:%M:%S}",
            one.message or one.reason or "",
        )
    return table


def _checkpoints(found: Sequence[Checkpoint]) -> Shown:
    table = Shown(box=None, header_style="bold", pad_edge=False)
    for name in ("attempt", "step", "kind", "size", "there", "path"):
        table.add_column(name, overflow="fold")
    for one in found:
        size = f"{one.bytes / 1e6:,.1f} MB"
        there = "yes" if one.available else "no"
        table.add_row(str(one.attempt), str(one.step), one.kind, size, there, one.path)
    return table


def _print_json(values: Sequence[BaseModel]) -> None:
    print(json.dumps([value.model_dump(mode="json") for value in values], indent=2))
