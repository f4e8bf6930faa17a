"""`winnow code`: models whose own code may run in trials."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from winnow.client import Client
from winnow.code import AllowedCode

app = typer.Typer(help="Models whose own code may run in trials (admins).", no_args_is_help=True)
out = Console()

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A hub id, or the absolute path of a folder.")
]
Revision = Annotated[
    str | None,
    typer.Option(help="The hub's commit; of a folder the digest of its code, default: as it is."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def allow(model: Model, revision: Revision = None) -> None:
    """Let the code that comes with a model (or with a folder of benchmark tasks) run in trials.

    Read it first: it runs with all that a trial may. Other code under the same name stays refused.
    """
    with Client() as client:
        allowed = client.allow_code(model, revision)
    out.print(
        f"{allowed.model} may run its code at {allowed.revision}", highlight=False, soft_wrap=True
    )


@app.command(name="ls")
def list_allowed(as_json: AsJson = False) -> None:
    """List what may run."""
    with Client() as client:
        found = list(client.allowed_code())
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in found], indent=2))
    elif found:
        out.print(_table(found))
    else:
        out.print("no model's own code may run; allow one with `winnow code allow MODEL`")


@app.command()
def revoke(
    model: Model,
    revision: Annotated[str, typer.Option(help="The one to take back; see `winnow code ls`.")],
) -> None:
    """Take the permission back. Trials that run already are left alone."""
    with Client() as client:
        client.revoke_code(model, revision)
    out.print(f"{model} may no longer run its code at {revision}", highlight=False, soft_wrap=True)


def _table(found: list[AllowedCode]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("revision", overflow="fold")  # whole: it is what `revoke` asks for
    table.add_column("allowed by")
    table.add_column("since", no_wrap=True)
    for one in found:
        since = one.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(one.model, one.revision, one.allowed_by, since)
    return table
