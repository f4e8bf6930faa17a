"""`winnow recipes`: what the recipes set, told by the server, or by the trainer if it is here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from winnow.cli.tables import number, parameter
from winnow.client import Client
from winnow.errors import ApiError, ServerNotFound, WinnowError
from winnow.recipes import PINNED, STUDY, source, unit
from winnow.types import Recipe

app = typer.Typer(help="The recipes that a sweep can start from.", invoke_without_command=True)
out = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
COLUMNS = ("effective_batch_size", "learning_rate", "schedule", "warmup", "epochs")


@app.callback()
def list_recipes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the recipes."""
    if context.invoked_subcommand is not None:
        return
    found = _recipes()
    if as_json:
        print(json.dumps({r.name: r.fields for r in found}, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("recipe", "batch", "rate", "schedule", "warmup", "epochs"):
        table.add_column(name, justify="left" if name in ("recipe", "schedule") else "right")
    for recipe in found:
        values = recipe.fields | {"warmup": _warmup(recipe.fields)}
        table.add_row(recipe.name, *(_shown(values.get(name)) for name in COLUMNS))
    out.print(table)
    out.print("\n`winnow recipes show NAME` prints all that one sets", style="dim", highlight=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tulu, tulu++, lab or lab-7680.")],
    as_json: AsJson = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print a `training` section for a sweep file.")
    ] = False,
) -> None:
    """Print every field that a recipe sets, its unit and where the value comes from."""
    known = {recipe.name: recipe for recipe in _recipes()}
    if name not in known:
        raise WinnowError(f"there is no recipe '{name}'; there are {', '.join(known)}")
    recipe = known[name]
    if as_json:
        print(json.dumps(recipe.fields, indent=2))
    elif as_yaml:
        print("training:")
        for field, value in recipe.fields.items():
            print(f"  {field}: {_yaml(value)}")
    else:
        out.print(_fields(recipe))


def _fields(recipe: Recipe) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("field", "value", "unit", "source"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for field, value in recipe.fields.items():
        where = source(field)
        table.add_row(
            field, _shown(value), unit(field), Text(where, "" if where == STUDY else "dim")
        )
    for field, value in recipe.defaults.items():
        if value is not None:
            table.add_row(*(Text(t, "dim") for t in (field, _shown(value), unit(field), "default")))
    table.caption = Text(
        f"{STUDY}: given by the study. {PINNED}: not given there, fixed by the recipe. "
        "Each can be set in `training`, or varied in `space`.",
        "dim",
    )
    table.caption_justify = "left"
    return table


def _recipes() -> list[Recipe]:
    """From the server; without one from the trainer, if that is installed here."""
    try:
        with Client() as client:
            return client.recipes()
    except (ServerNotFound, ApiError) as error:
        if importlib.util.find_spec("trainer") is None:
            raise WinnowError(
                f"{error}. (Without a server, recipes are told by the trainer, which is not "
                "installed here: pip install 'winnow-sft[worker]')"
            ) from None
    done = subprocess.run(
        [sys.executable, "-P", "-m", "trainer", "recipes"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise WinnowError(f"the trainer could not be asked: {done.stderr.strip()[-500:]}")
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
    return [Recipe(name=name, fields=fields) for name, fields in found.items()]


def _warmup(fields: dict[str, Any]) -> str:
    if fields.get("warmup_ratio") is not None:
        return f"{100 * fields['warmup_ratio']:g} % of steps"
    return f"{fields.get('warmup_steps', 0)} steps"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, float):
        return number(value) if value >= 1e-2 or not value else parameter(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _yaml(value: Any) -> str:
    # A float in JSON's form is one in YAML 1.1 too if it has a point.
    text = json.dumps(value)
    return text.replace("e-", ".0e-", 1) if isinstance(value, float) and "." not in text else text
