"""`winnow token` and `winnow audit` against a server that listens."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

import winnow
from tests.integration.api.conftest import LiveServer
from winnow.cli.main import app
from winnow.errors import ApiError


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_tokens_are_made_listed_rotated_and_revoked(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINNOW_URL", live.url)
    monkeypatch.setenv("WINNOW_TOKEN", live.token)
    monkeypatch.setenv("WINNOW_HOME", str(live.settings.home))
    monkeypatch.setenv("COLUMNS", "160")

    made = run("token", "create", "ci", "--scope", "submit", "--expires", "30d")
    text = made.stdout.strip()
    assert text.startswith("wnw_"), "the text alone is on stdout, for a script to take"
    with winnow.Client(live.url, text) as client:
        mine = client.whoami()
        assert (mine.name, mine.scopes) == ("ci", ["submit"])
        with pytest.raises(ApiError, match="scope"):
            list(client.tokens())

    listed = json.loads(run("token", "ls", "--json").stdout)
    assert [t["name"] for t in listed] == ["ci", "owner"]
    assert text not in run("token", "ls").output

    new = run("token", "rotate", str(mine.id), "--now").stdout.strip()
    with winnow.Client(live.url, text) as client, pytest.raises(ApiError, match="rotated"):
        client.whoami()
    with winnow.Client(live.url, new) as client:
        assert client.whoami().id == mine.id

    run("token", "revoke", str(mine.id))
    assert "revoked" in run("token", "ls", "--all").output
    assert "ci" not in run("token", "ls").output
    audit = json.loads(run("audit", "--action", "tokens.", "--since", "1h", "--json").stdout)
    assert [e["action"] for e in audit] == [
        "tokens.revoke",
        "tokens.rotate",
        "tokens.read",  # refused for want of the scope, above
        "tokens.create",
    ]
    assert "tokens.rotate" in run("audit").output
    assert run("audit", "--since", "yesterday").exit_code == 2


def test_rotating_the_owners_token_renews_the_file_that_the_command_line_reads(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINNOW_URL", live.url)
    monkeypatch.setenv("WINNOW_TOKEN", live.token)
    monkeypatch.setenv("WINNOW_HOME", str(live.settings.home))
    before = live.token
    with winnow.Client() as client:
        owner = client.whoami()
    new = run("token", "rotate", str(owner.id), "--now").stdout.strip()
    assert live.token == new != before
    assert (live.settings.home / "token").stat().st_mode & 0o777 == 0o600
    with winnow.Client(live.url, live.token) as client:
        assert client.whoami().name == "owner"
