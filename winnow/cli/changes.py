"""`winnow pause`, `clone`, `extend`, …: changes to sweeps and trials that are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from winnow.cli.errors import show_error
from winnow.cli.history import told
from winnow.client import Client
from winnow.errors import ApiError, WinnowError
from winnow.load import load_configurations, parse_yaml
from winnow.types import Command

app = typer.Typer()
out = Console()

TrialIds = Annotated[
    list[str], typer.Argument(metavar="TRIAL…", help="Trials: SWEEP-NUMBER, as abc-7.")
]
SweepIds = Annotated[list[str], typer.Argument(metavar="SWEEP…", help="Sweeps; see `winnow ls`.")]
Ids = Annotated[
    list[str], typer.Argument(metavar="ID…", help="Sweeps (abc) or single trials (abc-7).")
]
SweepId = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's id; see `winnow ls`.")]
TrialId = Annotated[str, typer.Argument(metavar="TRIAL", help="A trial: SWEEP-NUMBER, as abc-7.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait until it is carried out, and print what became of it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
WAIT_SECONDS = 120.0


@app.command()
def stop(trials: TrialIds, wait: Wait = False, as_json: AsJson = False) -> None:
    """End trials; their sweeps go on."""
    _ask_each(trials, lambda client, id: client.stop(id), wait, as_json)


@app.command()
def cancel(sweeps: SweepIds, wait: Wait = False, as_json: AsJson = False) -> None:
    """End sweeps and all their trials."""
    _ask_each(sweeps, lambda client, id: client.cancel(id), wait, as_json)


@app.command()
def pause(ids: Ids, wait: Wait = False, as_json: AsJson = False) -> None:
    """Free the workers of trials, or of whole sweeps, until they are resumed."""
    _ask_each(ids, lambda client, id: client.pause(id), wait, as_json)


@app.command()
def resume(ids: Ids, wait: Wait = False, as_json: AsJson = False) -> None:
    """Let paused trials or sweeps go on."""
    _ask_each(ids, lambda client, id: client.resume(id), wait, as_json)


@app.command()
def revive(trials: TrialIds, wait: Wait = False, as_json: AsJson = False) -> None:
    """Let trials go on that were stopped, failed or were canceled, from where they were."""
    _ask_each(trials, lambda client, id: client.revive(id), wait, as_json)


@app.command()
def pin(trials: TrialIds, wait: Wait = False, as_json: AsJson = False) -> None:
    """Let no scheduler end these trials, and keep their models."""
    _ask_each(trials, lambda client, id: client.pin(id), wait, as_json)


@app.command()
def unpin(trials: TrialIds, wait: Wait = False, as_json: AsJson = False) -> None:
    """Take the pin off again."""
    _ask_each(trials, lambda client, id: client.unpin(id), wait, as_json)


@app.command()
def clone(
    trial: TrialId,
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE…", help="What is to differ, as learning_rate=2e-5."),
    ] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Run a trial once more, with some of its parameters changed."""
    params = _configuration(changes or [])
    _ask_each([trial], lambda client, id: client.clone(id, params), wait, as_json)


@app.command()
def add(
    sweep: SweepId,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE…", help="One configuration.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A YAML or JSON file with a list of configurations.")
    ] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Run configurations of your own beside those that the sampler proposes."""
    if (file is None) == (not values):
        raise typer.BadParameter("give the values, as learning_rate=2e-5 …, or --file")
    many = load_configurations(file) if file is not None else [_configuration(values or [])]
    with Client() as client:
        _show(client, client.add(sweep, many), wait, as_json)


@app.command()
def extend(
    sweep: SweepId,
    trials: Annotated[int, typer.Argument(min=1, help="How many trials more.")],
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Have the sampler propose more trials. A sweep that has ended goes on."""
    _ask_each([sweep], lambda client, id: client.extend(id, trials), wait, as_json)


@app.command()
def narrow(
    sweep: SweepId,
    space: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=RANGE…",
            help="learning_rate=1e-5:1e-4 (a range), effective_batch_size=8,16 (some of the "
            "choices), warmup_steps=25 (one value).",
        ),
    ],
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Have the sampler propose from a smaller space from now on. Trials that exist stay."""
    with Client() as client:
        before: Mapping[str, Any] = client.sweep(sweep).spec.get("space") or {}
        left = {name: _range(name, text, before) for name, text in map(_split, space)}
        _show(client, [client.narrow(sweep, left)], wait, as_json)


Limit = Annotated[str | None, typer.Option(metavar="NUMBER", help="Or none, to lift the limit.")]


@app.command(name="set")
def set_(
    sweep: SweepId,
    concurrency: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Trials at once; none: as many as it gets.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Higher comes first; from -100 to 100.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(help="Share among sweeps of equal priority.")
    ] = None,
    budget_trials: Limit = None,
    budget_hours: Limit = None,
    budget_gpu_hours: Limit = None,
    budget_cost: Limit = None,
    cost_per_gpu_hour: Limit = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Change how many trials run at once, priority, weight, or the budget."""
    limits = {
        "trials": _limit(budget_trials, "--budget-trials", int),
        "hours": _limit(budget_hours, "--budget-hours", float),
        "gpu_hours": _limit(budget_gpu_hours, "--budget-gpu-hours", float),
        "cost": _limit(budget_cost, "--budget-cost", float),
        "cost_per_gpu_hour": _limit(cost_per_gpu_hour, "--cost-per-gpu-hour", float),
    }
    budget = {name: given[0] for name, given in limits.items() if given}
    most = _limit(concurrency, "--concurrency", int)
    changes: dict[str, Any] = {
        **({"max_concurrent": most[0]} if most else {}),
        **({"priority": priority} if priority is not None else {}),
        **({"weight": weight} if weight is not None else {}),
        **({"budget": budget} if budget else {}),
    }
    if not changes:
        raise typer.BadParameter("say what to change; see `winnow set --help`")
    _ask_each([sweep], lambda client, id: client.set(id, **changes), wait, as_json)


def _ask_each(
    ids: Sequence[str], ask: Callable[[Client, str], Command], wait: bool, as_json: bool
) -> None:
    """Ask for each; one that is refused does not keep the others from being asked."""
    refused = False
    with Client() as client:
        asked: list[Command] = []
        for id in dict.fromkeys(ids):
            try:
                asked.append(ask(client, id))
            except ApiError as error:
                if len(ids) == 1:
                    raise
                refused = True
                show_error(error)
        _show(client, asked, wait, as_json)
    if refused:
        raise typer.Exit(2)


def _show(client: Client, commands: Sequence[Command], wait: bool, as_json: bool) -> None:
    if wait:
        commands = [client.wait(command, WAIT_SECONDS) for command in commands]
    if as_json:
        print(json.dumps([c.model_dump(mode="json") for c in commands], indent=2))
        return
    for command in commands:
        line = Text(told(command))
        if command.result is None:
            line.append(": asked", "dim")
        else:
            line.append(f": {command.result}")
        out.print(line, soft_wrap=True)


def _configuration(values: Sequence[str]) -> dict[str, Any]:
    return {name: _value(text) for name, text in map(_split, values)}


def _split(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name.strip() or not value.strip():
        raise typer.BadParameter(f"write name=value, as learning_rate=2e-5; got '{text}'")
    return name.strip(), value.strip()


def _value(text: str) -> Any:
    """As a sweep file would hold it: a number, true, null, or text."""
    try:
        return parse_yaml(text)
    except WinnowError:
        return text


def _range(name: str, text: str, space: Mapping[str, Any]) -> Any:
    """What is left of a parameter: a range of the kind that it has, some choices, or one value."""
    if text.startswith("{"):
        return _value(text)
    low, colon, high = text.partition(":")
    if colon:
        kinds = [k for k in space.get(name) or {} if k in ("uniform", "log_uniform", "int_uniform")]
        if not kinds:
            raise typer.BadParameter(
                f"{name} has no range in this sweep; list the values that stay"
            )
        rest = {k: v for k, v in space[name].items() if k != kinds[0]}
        return {kinds[0]: [_value(low), _value(high)]} | rest
    if "," in text:
        return {"choice": [_value(one) for one in text.split(",")]}
    return {"fixed": _value(text)}


def _limit(text: str | None, option: str, kind: Callable[[str], Any]) -> tuple[Any] | None:
    """(the number, or None to lift the limit,), or None if the option was not given."""
    if text is None:
        return None
    if text.lower() in ("none", "null"):
        return (None,)
    try:
        return (kind(text),)
    except ValueError:
        raise typer.BadParameter(f"give a number, or none; got {text}", param_hint=option) from None
