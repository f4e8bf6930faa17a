"""`winnow webhook create|ls|set|rotate|test|deliveries|redeliver|rm`: who hears of what happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from winnow.cli.errors import err
from winnow.client import Client
from winnow.webhooks import EVENTS, Delivery, Webhook, WebhookEvent

app = typer.Typer(
    no_args_is_help=True, help="Tell other programs what happens to sweeps, by signed messages."
)
out = Console()

Id = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id; see `winnow webhook ls`.")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", help=f"{', '.join(EVENTS)}; several times. Default: all."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command()
def create(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where messages go: https://…")],
    event: Events = None,
    project: Annotated[str | None, typer.Option(help="Only sweeps of this project.")] = None,
    description: Annotated[str | None, typer.Option(help="A note to yourself.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a webhook, and print its secret: it is shown only now."""
    with Client() as client:
        made = client.webhooks.create(url, _events(event), project=project, description=description)
    if as_json:
        print(made.model_dump_json(indent=2))
        return
    # The secret alone goes to stdout, so that a script can take it from there.
    err.print(webhooks_table([made]))
    print(made.secret)


@app.command(name="ls")
def list_webhooks(as_json: AsJson = False) -> None:
    """List webhooks, oldest first."""
    with Client() as client:
        found = list(client.webhooks.list())
    if as_json:
        print(json.dumps([w.model_dump(mode="json") for w in found], indent=2))
    elif found:
        out.print(webhooks_table(found))
    else:
        out.print("there are no webhooks; make one with `winnow webhook create URL`")


@app.command(name="set")
def change(
    webhook: Id,
    url: Annotated[str | None, typer.Option(help="Another address.")] = None,
    event: Events = None,
    enable: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Send to it, or don't.")
    ] = None,
) -> None:
    """Change a webhook. What is not named stays as it is."""
    named = {"url": url, "events": list(_events(event)) if event else None, "enabled": enable}
    with Client() as client:
        changed = client.webhooks.change(
            webhook, **{name: value for name, value in named.items() if value is not None}
        )
    out.print(webhooks_table([changed]))


@app.command()
def rotate(webhook: Id) -> None:
    """Give a webhook a new secret, and print it. The old one signs too, for a day."""
    with Client() as client:
        print(client.webhooks.rotate(webhook).secret)


@app.command(name="test")
def send_test(
    webhook: Id,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 15.0,
) -> None:
    """Send a message that tells of nothing, and say what became of it."""
    with Client() as client:
        sent = client.webhooks.ping(webhook)
        deadline = time.monotonic() + wait
        while _on_its_way(sent) and time.monotonic() < deadline:
            time.sleep(0.2)
            sent = next(d for d in client.webhooks.deliveries(webhook) if d.id == sent.id)
    out.print(deliveries_table([sent]))
    if sent.state != "delivered":
        raise typer.Exit(1)


@app.command()
def deliveries(
    webhook: Id,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what was sent to a webhook, newest first, and what became of it."""
    with Client() as client:
        found = list(client.webhooks.deliveries(webhook, limit))
    if as_json:
        print(json.dumps([d.model_dump(mode="json") for d in found], indent=2))
    else:
        out.print(deliveries_table(found))


@app.command()
def redeliver(
    webhook: Id, delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id.")]
) -> None:
    """Send a message again, now."""
    with Client() as client:
        out.print(deliveries_table([client.webhooks.redeliver(webhook, delivery)]))


@app.command()
def rm(webhook: Id) -> None:
    """Delete a webhook, and the record of what was sent to it."""
    with Client() as client:
        client.webhooks.delete(webhook)
    out.print(f"webhook {webhook} is deleted")


def webhooks_table(webhooks: Iterable[Webhook]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("webhook", "address", "events", "project", "state"):
        table.add_column(name, overflow="fold")
    for one in webhooks:
        events = "all" if set(one.events) == set(EVENTS) else ", ".join(one.events)
        state = "enabled" if one.enabled else f"disabled: {one.disabled_reason or 'by a user'}"
        if one.enabled and one.failing_since is not None:
            state = f"failing since {_moment(one.failing_since)}"
        table.add_row(one.id, Text(one.url), events, one.project or "all", Text(state))
    return table


def deliveries_table(deliveries: Iterable[Delivery]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("delivery", "type", "state", "attempts", "when", "what happened"):
        table.add_column(name, overflow="fold")
    for one in deliveries:
        said = one.last_error or ("" if one.last_status is None else f"answered {one.last_status}")
        if one.state == "pending" and one.attempts and one.next_at is not None:
            said += f"; again at {_moment(one.next_at)}"
        table.add_row(
            one.id,
            one.type,
            one.state,
            str(one.attempts),
            _moment(one.delivered_at or one.last_at or one.created_at),
            Text(said),
        )
    return table


def _on_its_way(delivery: Delivery) -> bool:
    """Whether nothing is known of its first attempt."""
    return delivery.state == "pending" and delivery.last_error is None


def _events(names: Iterable[str] | None) -> tuple[WebhookEvent, ...]:
    chosen = tuple(names or EVENTS)
    for name in chosen:
        if name not in EVENTS:
            raise typer.BadParameter(f"{name} is none of {', '.join(EVENTS)}", param_hint="--event")
    return cast("tuple[WebhookEvent, ...]", chosen)


def _moment(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
