"""The part of the client that fetches what runs leave behind: checkpoints, logs, tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2

from winnow.connection import Connection
from winnow.errors import WinnowError
from winnow.runs import Attempt, Checkpoint, CheckpointKind, LogLine, LogPage
from winnow.service import Cluster, QueuedSweep, SchedulerInfo

SILENCE = 35.0
"""Seconds without a byte after which a log that is followed is opened anew."""

Table = Literal["trials", "metrics", "evaluations", "decisions", "events"]
Format = Literal["csv", "parquet", "json", "jsonl"]


class Files(Connection):
    """Part of `Client`."""

    def attempts(self, trial_id: str) -> list[Attempt]:
        """A trial's runs, in order: one, and another each time it was resumed or run again."""
        return list(self._pages(Attempt, f"/v1/trials/{trial_id}/attempts"))

    def checkpoints(self, trial_id: str) -> list[Checkpoint]:
        """What a trial has saved, by attempt and step; deleted ones are not `available`."""
        return list(self._pages(Checkpoint, f"/v1/trials/{trial_id}/checkpoints"))

    def download_checkpoint(
        self,
        trial_id: str,
        to: str | Path,
        *,
        step: int | None = None,
        kind: CheckpointKind | None = None,
    ) -> Path:
        """Write a checkpoint's files to `to`, a tar archive; without `step` the trained model."""
        if step is None:
            return self._save(f"/v1/trials/{trial_id}:export", Path(to))
        params = {} if kind is None else {"kind": kind}
        path = f"/v1/trials/{trial_id}/checkpoints/{step}/archive"
        return self._save(path, Path(to), params)

    def export(
        self, sweep_id: str, to: str | Path, *, what: Table = "trials", format: Format = "csv"
    ) -> Path:
        """Write a table of a sweep to a file, whole."""
        params = {"what": what, "format": format}
        return self._save(f"/v1/sweeps/{sweep_id}/export", Path(to), params)

    def logs(
        self,
        id: str,
        *,
        tail: int = 200,
        since: str | None = None,
        search: str | None = None,
        attempt: int | None = None,
        rank: int = 0,
    ) -> LogPage:
        """What a rank of a trial has written, or a sweep's driver: the last lines, or those after
        the position `since`. `attempt` and `rank` are a trial's; default: its latest attempt."""
        params = _given(tail=tail, since=since, search=search)
        return self._get(LogPage, f"{_logs(id)}", params | _of_a_trial(id, attempt, rank))

    def follow_logs(
        self,
        id: str,
        *,
        tail: int = 200,
        search: str | None = None,
        attempt: int | None = None,
        rank: int = 0,
    ) -> Iterator[LogLine]:
        """The last lines of a log, then each as it is written, until the trial or sweep ends."""
        params = _given(tail=tail, search=search) | _of_a_trial(id, attempt, rank)
        position = ""
        while True:
            options: dict[str, Any] = {
                "headers": {"Last-Event-ID": position, "Accept": "text/event-stream"},
                "timeout": httpx2.Timeout(10.0, read=SILENCE),
            }
            with self._streamed(f"{_logs(id)}:follow", params, **options) as response:
                for message in httpx2.EventSource(response):
                    if message.event == "end":
                        return
                    if message.event == "line":
                        line = LogLine.model_validate_json(message.data)
                        position = line.position
                        yield line

    def cluster(self) -> Cluster:
        """What trials run on, and the sweeps that have a part of it or wait for one."""
        return self._get(Cluster, "/v1/cluster")

    def queue(self) -> list[QueuedSweep]:
        """Sweeps that have not ended, in the order in which they are served."""
        return list(self._pages(QueuedSweep, "/v1/queue"))

    def schedulers(self) -> list[SchedulerInfo]:
        """The rules that end trials early."""
        return list(self._pages(SchedulerInfo, "/v1/schedulers"))

    def _save(self, path: str, to: Path, params: dict[str, Any] | None = None) -> Path:
        """Write an answer to a file, which is there once it is whole."""
        part = to.with_name(to.name + ".part")
        try:
            with self._streamed(path, params) as response, part.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
            part.replace(to)
        except OSError as error:
            raise WinnowError(f"{to} can't be written ({error.strerror or error})") from None
        finally:
            part.unlink(missing_ok=True)
        return to


def _logs(id: str) -> str:
    """A trial's id is its sweep's, a dash and its number."""
    return f"/v1/{'trials' if '-' in id else 'sweeps'}/{id}/logs"


def _of_a_trial(id: str, attempt: int | None, rank: int) -> dict[str, Any]:
    return _given(attempt=attempt, rank=rank) if "-" in id else {}


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
