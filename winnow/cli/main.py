"""The command line: `winnow up`, `submit`, `watch`, `best`, …"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console

from winnow import __version__
from winnow.cli.changes import app as changes_app
from winnow.cli.code import app as code_app
from winnow.cli.errors import err, show_error
from winnow.cli.files import app as files_app
from winnow.cli.models import app as model_app
from winnow.cli.projects import app as projects_app
from winnow.cli.projects import project_app
from winnow.cli.recipes import app as recipes_app
from winnow.cli.tables import (
    decisions_table,
    facts_line,
    further_of,
    metric_of,
    share_lines,
    sweeps_table,
    trials_table,
)
from winnow.cli.tokens import app as token_app
from winnow.cli.tokens import audit_app
from winnow.cli.validate import app as validate_app
from winnow.cli.validate import warn
from winnow.cli.webhooks import app as webhook_app
from winnow.client import Client
from winnow.errors import WinnowError
from winnow.settings import ClientSettings
from winnow.spec import SCHEDULER_FIELDS
from winnow.validation import SweepWarning

app = typer.Typer(
    name="winnow",
    help="Hyperparameter sweeps for supervised fine-tuning that stop losing trials early.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console()

Home = Annotated[
    Path | None,
    typer.Option(
        help="Folder for all data. Default: WINNOW_HOME, or ~/.winnow.", show_default=False
    ),
]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the API.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="CPUs for trials. Default: all.")]
Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs for trials. Default: all.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id; see `winnow ls`.")]


def main() -> None:
    """Run the command line. Errors are one paragraph on stderr, with exit status 2."""
    try:
        app()
    except WinnowError as error:
        show_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"winnow {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def up(home: Home = None, port: Port = None, cpus: Cpus = None, gpus: Gpus = None) -> None:
    """Run a server here: API, dashboard, orchestrator and a local Ray. Ctrl-C ends it."""
    from winnow.cli.up import UpOptions
    from winnow.cli.up import up as run

    options = UpOptions(home or ClientSettings().home, port, cpus, gpus)
    run(options, say=lambda line: print(line, flush=True))


@app.command()
def demo(
    file: Annotated[Path | None, typer.Argument(help="Another sweep file.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Serve on when the sweep has ended.")
    ] = False,
    home: Home = None,
    port: Port = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Run a small, real sweep on this machine, from nothing to its best checkpoint."""
    from winnow.cli.demo import demo as run
    from winnow.cli.up import UpOptions

    options = UpOptions(home or ClientSettings().home, port, cpus, gpus)
    raise typer.Exit(run(options, file, keep, out))


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="A sweep file, YAML or JSON.")],
    watch: Annotated[bool, typer.Option("--watch", help="Follow the sweep to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a sweep file and start it."""
    with Client() as client:
        with err.status("checking the sweep, its data and its model"):
            sweep = client.submit(file)
        if as_json:
            _print_json(sweep)
        else:
            out.print(f"sweep {sweep.id} submitted", highlight=False)
            warn([SweepWarning.model_validate(w) for w in sweep.facts.get("warnings", ())], err)
        if watch:
            _follow(client, sweep.id)


@app.command(name="ls")
def list_sweeps(as_json: AsJson = False) -> None:
    """List sweeps, newest first."""
    with Client() as client:
        sweeps = list(client.sweeps())
    if as_json:
        _print_json(sweeps)
    elif sweeps:
        out.print(sweeps_table(sweeps))
    else:
        out.print("no sweep yet; start one with `winnow submit FILE`")


@app.command()
def show(sweep: SweepId, as_json: AsJson = False) -> None:
    """Show a sweep: its trials, best first, and what the scheduler decided about them."""
    from winnow.cli.account import account
    from winnow.cli.report import report
    from winnow.cli.view import in_order

    with Client() as client:
        found, trials = client.sweep(sweep), client.trials(sweep)
        decisions = [d for d in client.decisions(sweep) if d.action != "continue"]
    if as_json:
        body = {
            "sweep": found.model_dump(mode="json"),
            "trials": [t.model_dump(mode="json") for t in trials],
            "decisions": [d.model_dump(mode="json") for d in decisions],
        }
        print(json.dumps(body, indent=2))
        return
    out.print(sweeps_table([found]))
    if line := facts_line(found):
        out.print(line, style="dim", highlight=False)
    if (share := share_lines(found)) is not None:
        out.print("", share, sep="\n")
    competing = in_order((t for t in trials if t.kind == "search"), found)
    if competing:
        table = trials_table(
            competing,
            metric=metric_of(found),
            further=further_of(found),
            front=found.summary.front,
        )
        out.print("", table, sep="\n")
        if not found.state.ended:
            ways = f"`winnow stop|pause|pin|clone {found.id}-NUMBER` changes one of them"
            out.print(f"\n{ways}", style="dim", highlight=False)
    if decisions:
        out.print("", decisions_table(decisions), sep="\n")
    if found.state.ended:
        out.print(report(found, trials), crop=False)
    elif (said := account(found.scheduler_summary)) is not None:
        out.print("", said, sep="\n")


@app.command()
def watch(sweep: SweepId) -> None:
    """Follow a sweep to its end. Ctrl-C leaves it running."""
    with Client() as client:
        _follow(client, sweep)


@app.command()
def log(
    sweep: SweepId,
    everything: Annotated[bool, typer.Option("--all", help="All events, the trials' too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show who asked for what in a sweep, and what became of it."""
    from winnow.cli.history import log_table

    with Client() as client:
        events = client.events(sweep)
    if as_json:
        _print_json(events)
    else:
        out.print(log_table(events, everything=everything))


@app.command()
def replay(
    sweep: SweepId,
    scheduler: Annotated[
        str, typer.Option(help=f"Which rule: {', '.join(SCHEDULER_FIELDS)}.")
    ] = "dynamics",
    every: Annotated[bool, typer.Option("--all", help="Compare all of them in one table.")] = False,
    eta: Annotated[int | None, typer.Option(help="At a rung, about 1/eta goes on.")] = None,
    rungs: Annotated[
        str | None,
        typer.Option(help="Fractions of the budget, as 0.125,0.25,0.5. Default: the sweep's own."),
    ] = None,
    first_rung: Annotated[
        float | None, typer.Option(help="An earlier point, before the rungs.")
    ] = None,
    risk: Annotated[float | None, typer.Option(help="dynamics: chance to lose the best.")] = None,
    keep: Annotated[float | None, typer.Option(help="The fraction of trials that goes on.")] = None,
    p_value: Annotated[float | None, typer.Option(help="wilcoxon: level of the test.")] = None,
    audit: Annotated[float | None, typer.Option(help="Fraction that no model ends.")] = None,
    transfer: Annotated[
        bool | None, typer.Option(help="dynamics: start from what earlier sweeps showed.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at once. Default: as many as there were.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the sweep's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what another scheduler would have saved, and lost, in an ended sweep."""
    from winnow.cli.replay import comparison, every_scheduler, replay_report, scheduler_of

    options = {
        "eta": eta,
        "rungs": _fractions(rungs),
        "first_rung": first_rung,
        "risk": risk,
        "keep": keep,
        "p_value": p_value,
        "audit": audit,
        "transfer": transfer,
    }
    asked = every_scheduler(options) if every else [scheduler_of(scheduler, options)]
    with Client() as client, err.status("replaying"):
        replays = [client.replay(sweep, one, seed=seed, workers=workers) for one in asked]
    if as_json:
        _print_json(replays if every else replays[0])
    else:
        out.print(comparison(replays) if every else replay_report(replays[0]))


def _fractions(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"give fractions with commas between, as 0.125,0.25; got {text}", param_hint="--rungs"
        ) from None


app.add_typer(changes_app)
app.add_typer(files_app)
app.add_typer(projects_app)
app.add_typer(project_app, name="project")
app.add_typer(recipes_app, name="recipes")
app.add_typer(model_app, name="model")
app.add_typer(code_app, name="code")
app.add_typer(validate_app)
app.add_typer(token_app, name="token")
app.add_typer(audit_app)
app.add_typer(webhook_app, name="webhook")


@app.command()
def best(sweep: SweepId, as_json: AsJson = False) -> None:
    """Show a sweep's best trial, and the folder of its checkpoint."""
    with Client() as client:
        trial = client.best(sweep)
        metric = metric_of(client.sweep(sweep))
    if as_json:
        _print_json(trial)
        return
    out.print(trials_table([trial], metric=metric))
    if trial.checkpoint:
        print(trial.checkpoint)


def _follow(client: Client, sweep_id: str) -> None:
    from winnow.cli.live import follow
    from winnow.cli.report import report

    try:
        follow(client, sweep_id, out)
    except KeyboardInterrupt:
        out.print(f"\nthe sweep runs on; `winnow watch {sweep_id}` shows it again")
        raise typer.Exit(130) from None
    out.print(report(client.sweep(sweep_id), client.trials(sweep_id)), crop=False)


def _print_json(value: BaseModel | Sequence[BaseModel]) -> None:
    body = (
        [v.model_dump(mode="json") for v in value]
        if not isinstance(value, BaseModel)
        else value.model_dump(mode="json")
    )
    print(json.dumps(body, indent=2))


if __name__ == "__main__":
    main()
