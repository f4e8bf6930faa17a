"""The settings of the client and the command line, from `WINNOW_*` environment variables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from winnow.errors import ServerNotFound


class ClientSettings(BaseSettings):
    """Where the server is and who is asking.

    `WINNOW_URL` and `WINNOW_TOKEN` name a server. Without them, the one that `winnow up` runs on
    this machine is found through `WINNOW_HOME` (default `~/.winnow`).
    """

    model_config = SettingsConfigDict(env_prefix="WINNOW_", extra="ignore")

    url: str | None = None
    token: SecretStr | None = None
    home: Path = Field(default_factory=lambda: Path.home() / ".winnow")

    def find_server(
        self, url: str | None = None, token: str | None = None
    ) -> tuple[str, str | None]:
        """The server's address and the token to use, arguments first. Raises ServerNotFound."""
        local = read_server_file(self.home) or {}
        url = url or self.url or local.get("url")
        if not url:
            raise ServerNotFound(
                f"no winnow server is running from {self.home}. Start one with `winnow up`, "
                "or set WINNOW_URL and WINNOW_TOKEN to use another"
            )
        if token is None and self.token is not None:
            token = self.token.get_secret_value()
        if token is None and url == local.get("url"):
            # The local token is for the local server alone: never sent anywhere else.
            token = read_token(self.home)
        return url.rstrip("/"), token


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine, where no proxy reaches."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def read_server_file(home: Path) -> dict[str, Any] | None:
    """What a running `winnow up` says about itself: url, pid, ray_address. None if none runs."""
    try:
        found = json.loads((home / "server.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_token(home: Path) -> str | None:
    """The token that the server made at its first start, or None."""
    try:
        return (home / "token").read_text().strip() or None
    except OSError:
        return None
