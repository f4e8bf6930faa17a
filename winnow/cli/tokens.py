"""`winnow token create|ls|me|rotate|revoke` and `winnow audit`: who may do what, and who did."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from winnow.cli.errors import err
from winnow.client import Client
from winnow.settings import ClientSettings, read_token
from winnow.tokens import AuditEntry, Token

app = typer.Typer(no_args_is_help=True, help="Make tokens, list, rotate and revoke them.")
audit_app = typer.Typer()
out = Console()

TokenId = Annotated[int, typer.Argument(metavar="ID", help="Its number; see `winnow token ls`.")]
Scopes = Annotated[
    list[str],
    typer.Option("--scope", help="read, submit, control or admin; may be given several times."),
]
Expires = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="When it ends, from now: 90d, 12h, or never."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What or whom it is for.")],
    scope: Scopes = ["read"],  # noqa: B006 (typer copies it)
    project: Annotated[str | None, typer.Option(help="The only project that it sees.")] = None,
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Make a token, and print its text: it is shown only now. It ends in 90 days unless told."""
    with Client() as client:
        made = client.create_token(name, scope, project=project, expires_in=_expiry(expires))
    if as_json:
        print(made.model_dump_json(indent=2))
        return
    # The text alone goes to stdout, so that a script can take it from there.
    err.print(tokens_table([made]))
    print(made.token)


@app.command(name="ls")
def list_tokens(
    everything: Annotated[bool, typer.Option("--all", help="Ended ones too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List tokens, newest first."""
    with Client() as client:
        found = [t for t in client.tokens() if everything or t.state == "active"]
    if as_json:
        print(json.dumps([t.model_dump(mode="json") for t in found], indent=2))
    else:
        out.print(tokens_table(found))


@app.command()
def me(as_json: AsJson = False) -> None:
    """Show the token that this command line uses."""
    with Client() as client:
        mine = client.whoami()
    if as_json:
        print(mine.model_dump_json(indent=2))
    else:
        out.print(tokens_table([mine]))


@app.command()
def rotate(
    token: TokenId,
    now: Annotated[bool, typer.Option("--now", help="The old text stops working at once.")] = False,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old text works on: 1h, 2d.")
    ] = "1h",
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Give a token a new text, and print it. The old one works for an hour more."""
    seconds = 0 if now else _seconds(grace, "--grace")
    lasts = None if expires is None else _seconds(expires, "--expires")
    with Client() as client:
        before = client.token(token)
        rotated = client.rotate_token(token, grace_seconds=seconds, expires_in=lasts)
    assert rotated.token is not None
    home = ClientSettings().home
    if (read_token(home) or "").startswith(before.prefix):
        _write_own(home, rotated.token)
        err.print(f"{home / 'token'}, which the command line here reads, has the new text")
    if as_json:
        print(rotated.model_dump_json(indent=2))
        return
    err.print(tokens_table([rotated]))
    print(rotated.token)


@app.command()
def revoke(token: TokenId) -> None:
    """End a token, and the browsers that are signed in with it, at once and for good."""
    with Client() as client:
        ended = client.revoke_token(token)
    out.print(tokens_table([ended]))


@audit_app.command(name="audit")
def audit(
    actor: Annotated[str | None, typer.Option(help="Only what this token asked for.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this, e.g. trials.stop; or tokens. for all of tokens.")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Only what concerns this project.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="As 24h, 7d.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show who asked the server for what, and what it answered."""
    moment = None
    if since is not None:
        moment = datetime.now(UTC) - timedelta(seconds=_seconds(since, "--since"))
    with Client() as client:
        found = client.audit(actor=actor, action=action, project=project, since=moment)
        shown = [entry for entry, _ in zip(found, range(limit), strict=False)]
    if as_json:
        print(json.dumps([e.model_dump(mode="json") for e in shown], indent=2))
    else:
        out.print(audit_table(shown))


def tokens_table(tokens: Iterable[Token]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("id", justify="right")
    for name in ("name", "starts with", "scopes", "project", "state", "ends", "last used"):
        table.add_column(name)
    for token in tokens:
        table.add_row(
            str(token.id),
            Text(token.name),
            f"{token.prefix}…" if token.prefix else "",
            ", ".join(token.scopes),
            token.project or "all",
            Text(token.state, style="" if token.state == "active" else "dim"),
            _moment(token.expires_at) or "never",
            _moment(token.last_used_at),
        )
    return table


def audit_table(entries: Iterable[AuditEntry]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("when", "who", "what", "of", "project", "answer", "from"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        refused = entry.status >= 400
        table.add_row(
            _moment(entry.created_at),
            Text(entry.actor),
            entry.action,
            Text(entry.target or ""),
            entry.project or "",
            Text(str(entry.status), style="red" if refused else ""),
            entry.address or "",
        )
    return table


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _expiry(text: str | None) -> int | Literal["default"] | None:
    if text is None:
        return "default"
    return None if text == "never" else _seconds(text, "--expires")


def _seconds(text: str, option: str) -> int:
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip())
    if match is None:
        message = f"give a time like 90d, 12h or 30m; got {text!r}"
        raise typer.BadParameter(message, param_hint=option)
    return int(match[1]) * _UNITS[match[2]]


def _write_own(home: Path, text: str) -> None:
    """Replace the token file: readable by its owner only, and never half of one."""
    scratch = home / "token.new"
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    scratch.replace(home / "token")
