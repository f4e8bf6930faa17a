"""What trials and drivers have written: read in bounded pieces, without secrets.

A trial's attempt has a file a rank, in the attempt's folder (`raytune.output` writes it); a sweep's
driver has one. Each is kept below a size, by moving what is old to a second file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.redaction import clean
from winnow.runs import LogLine, LogPage

WINDOW = 4 * 1024 * 1024
"""Bytes that are read for one answer, unless something is searched for."""
SEARCHED = 64 * 1024 * 1024
LONGEST = 4000
"""Characters of a line that are sent."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), 0x7F, *range(0x80, 0xA0)])
_ATTEMPT = re.compile(r"attempt-(\d{1,9})")
_RANK = re.compile(r"rank-(\d{1,5})\.log")


@dataclass(frozen=True, slots=True)
class Source:
    """One process's log: `name` says whose."""

    name: str
    path: Path


def driver(home: Path, sweep_id: str) -> Source:
    return Source("driver", home / "logs" / f"driver-{sweep_id}.log")


def of_trial(
    home: Path, sweep_id: str, number: int, *, attempt: int | None = None, rank: int = 0
) -> Source | None:
    """The log of a trial's attempt (default: the latest that has one); None if there is none."""
    folder = home / "sweeps" / sweep_id / f"trial-{number}"
    found: list[tuple[int, Path]] = []
    try:
        for entry in os.scandir(folder):
            match = _ATTEMPT.fullmatch(entry.name)
            path = Path(entry.path, "logs", f"rank-{rank}.log")
            if match and path.is_file() and (attempt is None or attempt == int(match[1])):
                found.append((int(match[1]), path))
    except OSError:
        return None
    if not found:
        return None
    number_found, path = max(found)
    return Source(f"attempt {number_found}, rank {rank}", path)


def read(
    source: Source, *, tail: int = 200, since: str | None = None, search: str | None = None
) -> LogPage:
    """Lines of a log: the last `tail` of all, or the first `tail` after the position `since`; of
    those that contain `search`, in any case.

    A position of a file that is gone is taken for the log's start. What is not text is replaced.
    """
    parts = _parts(source)
    start, missed = _start(parts, since)
    budget = WINDOW if search is None else SEARCHED
    if since is None:
        size = sum(part.size for part in parts)
        start, missed = max(0, size - budget), size > budget
    wanted = None if search is None else search.casefold()
    lines: list[LogLine] = []
    position = _position(parts, start)
    sent = 0
    for text, end in _lines(parts, start, budget, whole=since is not None and not missed):
        position = _position(parts, end)
        if wanted is not None and wanted not in text.casefold():
            continue
        lines.append(LogLine(text=text, position=position or ""))
        sent += len(text)
        if since is None:
            if len(lines) > tail:
                sent -= len(lines.pop(0).text)
                missed = True
        elif len(lines) >= tail or sent > WINDOW:
            break
    while sent > WINDOW and lines:
        sent -= len(lines.pop(0).text)
        missed = True
    return LogPage(source=source.name, items=lines, position=position, truncated=missed)


# --- files ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    path: Path
    inode: int
    size: int
    begin: int
    """Where it begins, counted over all parts."""


def _parts(source: Source) -> list[_Part]:
    """The older file, if there is one, and the current one."""
    parts: list[_Part] = []
    begin = 0
    for path in (source.path.with_name(source.path.name + ".1"), source.path):
        try:
            about = path.stat()
        except OSError:
            continue
        parts.append(_Part(path, about.st_ino, about.st_size, begin))
        begin += about.st_size
    return parts


def _position(parts: list[_Part], offset: int) -> str | None:
    for part in reversed(parts):
        if offset >= part.begin:
            return f"{part.inode}.{offset - part.begin}"
    return None


def _start(parts: list[_Part], since: str | None) -> tuple[int, bool]:
    """Where `since` is, and whether lines between it and there are gone."""
    if since is None:
        return 0, False
    inode, _, offset = since.partition(".")
    for part in parts:
        if str(part.inode) == inode and int(offset) <= part.size:
            return part.begin + int(offset), False
    return 0, True


def _lines(
    parts: list[_Part], start: int, budget: int, *, whole: bool
) -> Iterator[tuple[str, int]]:
    """Lines from `start` on, with the offset after each. `whole`: `start` is a line's begin. The
    last line is left out while it has no end."""
    for part in parts:
        skip = max(0, start - part.begin)
        if skip >= part.size or budget <= 0:
            continue
        with part.path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_ino != part.inode:
                return  # moved since; the next call sees how
            stream.seek(skip)
            at = part.begin + skip
            for raw in _raw(stream, part.size - skip):
                at += len(raw)
                budget -= len(raw)
                inside = skip > 0 and not whole
                skip, whole = 0, True
                if inside:
                    continue  # the rest of a line whose beginning was not read
                at_end = at == part.begin + part.size
                if not raw.endswith(b"\n") and part is parts[-1] and at_end:
                    return
                yield _text(raw), at
                if budget <= 0:
                    return


def _raw(stream: IO[bytes], left: int) -> Iterator[bytes]:
    """Lines as bytes; one without an end comes in pieces of bounded size."""
    while left > 0:
        raw = stream.readline(min(left, 16 * LONGEST))
        if not raw:
            return
        left -= len(raw)
        yield raw


def _text(raw: bytes) -> str:
    """A line without its end, colours and control characters; of a progress bar, its last state."""
    text = raw.decode("utf-8", "replace").rstrip("\r\n")
    text = _ESCAPES.sub("", text.rsplit("\r", 1)[-1]).translate(_CONTROLS)
    text = clean(text)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"
