"""`winnow projects`, `winnow project create|set`, `winnow queue`: how sweeps share the cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from winnow.cli.tables import number, state_text
from winnow.client import Client
from winnow.types import Project, Quota, Sweep

app = typer.Typer()
project_app = typer.Typer(help="Make a project, or change its quota and weight.")
out = Console()

Name = Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and dashes.")]
Limit = Annotated[str | None, typer.Option(metavar="NUMBER", help="Or none, to lift the limit.")]
Weight = Annotated[float | None, typer.Option(help="Share of the cluster against other projects.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command(name="projects")
def list_projects(as_json: AsJson = False) -> None:
    """List the projects: what their sweeps use, of what they may."""
    with Client() as client:
        found = client.projects()
    if as_json:
        print(json.dumps([p.model_dump(mode="json") for p in found], indent=2))
    else:
        out.print(projects_table(found))


@project_app.command()
def create(
    name: Name,
    gpus: Limit = None,
    trials: Limit = None,
    gpu_hours: Limit = None,
    weight: Weight = None,
) -> None:
    """Make a project. Sweeps join it with `project: NAME`."""
    quota = _changed(Quota(), gpus, trials, gpu_hours)
    with Client() as client:
        made = client.create_project(name, quota, weight=1.0 if weight is None else weight)
    out.print(projects_table([made]))


@project_app.command(name="set")
def change(
    name: Name,
    gpus: Limit = None,
    trials: Limit = None,
    gpu_hours: Limit = None,
    weight: Weight = None,
) -> None:
    """Change a project. What is not named stays as it is."""
    with Client() as client:
        before = client.project(name)
        quota = _changed(before.quota, gpus, trials, gpu_hours)
        changed = client.change_project(
            name, quota, weight=before.weight if weight is None else weight
        )
    out.print(projects_table([changed]))


@app.command()
def queue(as_json: AsJson = False) -> None:
    """Show all sweeps that have not ended: what each gets of the cluster, and why not more."""
    with Client() as client:
        waiting = in_turn(s for s in client.sweeps() if not s.state.ended)
    if as_json:
        print(json.dumps([s.model_dump(mode="json") for s in waiting], indent=2))
    elif waiting:
        out.print(queue_table(waiting))
    else:
        out.print("nothing runs and nothing waits")


def in_turn(sweeps: Iterable[Sweep]) -> list[Sweep]:
    """The highest priority first, then the oldest."""
    return sorted(sweeps, key=lambda s: (-s.priority, s.created_at))


def queue_table(sweeps: Iterable[Sweep]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("sweep", "name", "project", "state", "priority", "weight", "running", "slots"):
        right = name in ("priority", "weight", "running", "slots")
        table.add_column(name, justify="right" if right else "left")
    table.add_column("why not more", overflow="fold")
    for sweep in sweeps:
        most = "" if sweep.max_concurrent is None else f"/{sweep.max_concurrent}"
        table.add_row(
            sweep.id,
            Text(sweep.name),
            sweep.project,
            state_text(sweep.state),
            str(sweep.priority),
            number(sweep.weight),
            str(sweep.summary.by_state.get("RUNNING", 0)),
            "" if sweep.slots is None else f"{sweep.slots}{most}",
            Text(sweep.why_pending or ""),
        )
    return table


def projects_table(projects: Iterable[Project]) -> Table:
    """A column each for what is used, of what is allowed."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("project", "GPUs", "trials", "GPU-hours", "weight"):
        table.add_column(name, justify="left" if name == "project" else "right")
    for project in projects:
        used, quota = project.used, project.quota
        table.add_row(
            project.id,
            _of(used.gpus, quota.gpus),
            _of(used.trials, quota.trials),
            _of(used.gpu_hours, quota.gpu_hours),
            number(project.weight),
        )
    return table


def _of(used: float | None, limit: float | None) -> str:
    return number(used or 0) + ("" if limit is None else f" of {number(limit)}")


def _changed(quota: Quota, gpus: str | None, trials: str | None, gpu_hours: str | None) -> Quota:
    return quota.model_copy(
        update={
            **_given("gpus", "--gpus", gpus, int),
            **_given("trials", "--trials", trials, int),
            **_given("gpu_hours", "--gpu-hours", gpu_hours, float),
        }
    )


def _given(name: str, option: str, text: str | None, kind: Callable[[str], Any]) -> dict[str, Any]:
    if text is None:
        return {}
    if text.lower() in ("none", "null"):
        return {name: None}
    try:
        return {name: kind(text)}
    except ValueError:
        raise typer.BadParameter(f"give a number, or none; got {text}", param_hint=option) from None
