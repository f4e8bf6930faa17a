"""The token of a server's owner: made at the first start, in a file that only they can read."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.store import Store


def ensure_token(store: Store, home: Path) -> None:
    """Write a token that works to `home/token`, unless one is there already.

    The database keeps only its hash. A file whose token the database does not know (it is a new
    database) is replaced.
    """
    path = home / "token"
    try:
        if store.verify_token(path.read_text().strip()) is not None:
            return
    except (OSError, UnicodeDecodeError):
        pass
    home.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(store.create_token("owner") + "\n")
    scratch.replace(path)
