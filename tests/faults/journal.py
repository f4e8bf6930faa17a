"""A file of JSON lines, flushed to disk line by line: what a process knew before it died."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


class Journal:
    """Appends to a file that several processes share. A line is on disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, **entry: Any) -> None:
        line = json.dumps(entry, default=_plain, separators=(",", ":")) + "\n"
        os.write(self._file, line.encode())
        os.fsync(self._file)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a journal; a last one that was torn was never acknowledged."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
