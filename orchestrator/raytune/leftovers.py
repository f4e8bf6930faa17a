"""Ranks that outlived their driver: found on this machine by what they train, and ended.

Ray ends the workers of a driver that is gone. A process that it could not end, stopped or in the
middle of a call into the kernel, would hold its GPU while the trial already runs elsewhere. So each
rank leaves a note of its process and attempt, and each new attempt looks through the notes first.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.supervision.processes import process_start


@dataclass(frozen=True, slots=True)
class Note:
    """A rank's process, and the attempt that it trains. `started`: see `launch.process_start`."""

    pid: int
    started: int
    trial_id: str
    attempt: int
    epoch: int

    @property
    def sweep_id(self) -> str:
        return self.trial_id.rsplit("-", 1)[0]

    def is_left_behind(self, by: Note) -> bool:
        """Whether it belongs to an attempt, or to a driver of the sweep, before that of `by`."""
        if self.trial_id == by.trial_id and self.attempt < by.attempt:
            return True
        return self.sweep_id == by.sweep_id and self.epoch < by.epoch


def note(trial_id: str, attempt: int, epoch: int, folder: Path | None = None) -> list[Note]:
    """Note that this process trains an attempt; end what is left of those before it: these."""
    mine = Note(os.getpid(), process_start(os.getpid()) or 0, trial_id, attempt, epoch)
    place = folder or _folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    ended: list[Note] = []
    for path, found in _notes(place):
        if process_start(found.pid) != found.started:
            path.unlink(missing_ok=True)
        elif found.is_left_behind(mine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL)
            ended.append(found)
            path.unlink(missing_ok=True)
    beside = place / f".{mine.pid}"
    beside.write_text(json.dumps(asdict(mine)), encoding="utf-8")
    beside.replace(place / f"{mine.pid}.json")
    return ended


def clear(folder: Path | None = None) -> None:
    """This process trains nothing any more."""
    ((folder or _folder()) / f"{os.getpid()}.json").unlink(missing_ok=True)


def _notes(place: Path) -> Iterator[tuple[Path, Note]]:
    for path in place.glob("*.json"):
        try:
            yield path, Note(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # another rank is at it


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"winnow-ranks-{os.getuid()}"
