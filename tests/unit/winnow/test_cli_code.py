"""`winnow code`: what it shows can be used."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from winnow.cli import code
from winnow.code import AllowedCode

REVISION = "sha256-" + "0123456789abcdef" * 4


class Server:
    """A client of a server that allows one model."""

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None: ...

    def allowed_code(self) -> list[AllowedCode]:
        since = datetime(2026, 1, 31, tzinfo=UTC)
        return [AllowedCode(model="/m", revision=REVISION, allowed_by="owner", created_at=since)]


def test_a_revision_is_shown_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(code, "Client", Server)
    monkeypatch.setattr(code, "out", Console(file=shown, width=60))
    code.list_allowed()
    _, *rows = shown.getvalue().splitlines()
    assert "".join(row[4:].split()[0] for row in rows) == REVISION
