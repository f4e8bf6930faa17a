"""Patches a process under test: it keeps a journal of its commits, and meets its fate at a point.

Points have names. Each commit has `KIND/before` (all is written, nothing committed), `KIND/after`
(committed, but nobody has been told) and `KIND/told`; each thing done inside a transaction has
`OPERATION/inside`; launching, renaming and deleting have `/before` and `/after`. KIND joins what
the transaction did, e.g. `record+decide+end_attempt`.
"""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.store import cluster, commands, leases, projects, sweeps
from orchestrator.store.database import Database, WriteSession
from orchestrator.store.driver import DriverTransaction
from tests.faults.journal import Journal

Act = Callable[[], None]


@dataclass
class Fate:
    """What happens to the process when it reaches `point` for the `count`-th time."""

    point: str
    count: int = 1
    act: Act = field(default=lambda: os.kill(os.getpid(), signal.SIGKILL))


@dataclass
class _Commit:
    """What one transaction did."""

    ops: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    lease: dict[str, Any] | None = None
    began: float = 0.0

    @property
    def kind(self) -> str:
        return "+".join(dict.fromkeys(op["op"] for op in self.ops)) or "nothing"


class Hooks:
    """Everything patched in this process. Install it once, before a `Store` is opened."""

    def __init__(
        self,
        name: str,
        journal: Path | None = None,
        *,
        fate: Fate | None = None,
        trace: Path | None = None,
    ) -> None:
        self._name = name
        self._journal = Journal(journal) if journal else None
        self._fate = fate
        self._trace = (
            os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if trace else None
        )
        self._reached: Counter[str] = Counter()
        self._here = threading.local()

    def point(self, name: str) -> None:
        """The process has come to the point `name`."""
        self._reached[name] += 1
        if self._trace is not None:
            os.write(self._trace, f"{name}\n".encode())
        fate = self._fate
        if fate is not None and fate.point == name and self._reached[name] == fate.count:
            fate.act()

    def install(self) -> Hooks:
        _after_init(Database, self._watch_commits)
        _after_init(WriteSession, self._begin)
        self._wrap_flush()
        for name, method in inspect.getmembers(DriverTransaction, inspect.isfunction):
            if not name.startswith("_"):
                setattr(DriverTransaction, name, self._operation(name, method))
        for module, names in (
            (leases, ("acquire", "renew", "release", "expire", "cancel_queued", "grant")),
            (commands, ("add", "finish")),
            (sweeps, ("create",)),
            (projects, ("add", "change")),
            (cluster, ("report",)),
        ):
            for name in names:
                label = name if module in (leases,) else f"{_short(module)}_{name}"
                setattr(module, name, self._operation(label, getattr(module, name)))
        leases.guard = self._guard(leases.guard)
        self._wrap_files()
        return self

    # --- transactions ------------------------------------------------------------------------

    def _begin(self, session: WriteSession) -> None:
        self._here.commit = _Commit(began=time.monotonic())
        self._here.depth = 0

    def _watch_commits(self, database: Database) -> None:
        dialect = database.engine.dialect
        do_commit, do_rollback = dialect.do_commit, dialect.do_rollback

        def commit(connection: Any) -> None:
            done: _Commit | None = getattr(self._here, "commit", None)
            if done is None or not done.ops:
                do_commit(connection)
                return
            self.point(f"{done.kind}/before")
            do_commit(connection)
            self._here.commit = None
            self.point(f"{done.kind}/after")
            if self._journal is not None:
                self._journal.write(
                    by=self._name,
                    pid=os.getpid(),
                    kind=done.kind,
                    began=done.began,
                    returned=time.monotonic(),
                    lease=done.lease,
                    ops=done.ops,
                    events=done.events,
                )
            self.point(f"{done.kind}/told")

        def rollback(connection: Any) -> None:
            self._here.commit = None
            do_rollback(connection)

        dialect.do_commit, dialect.do_rollback = commit, rollback  # type: ignore[method-assign]

    def _wrap_flush(self) -> None:
        flush, here = WriteSession.flush_events, self._here

        def flush_events(self: WriteSession) -> None:
            rows = list(self._events)
            flush(self)
            if (commit := getattr(here, "commit", None)) is not None:
                commit.events += [dict(row) for row in rows if "id" in row]

        WriteSession.flush_events = flush_events

    def _operation(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def operation(*args: Any, **kwargs: Any) -> Any:
            depth = getattr(self._here, "depth", 0)
            self._here.depth = depth + 1
            try:
                result = method(*args, **kwargs)
            finally:
                self._here.depth = depth
            commit: _Commit | None = getattr(self._here, "commit", None)
            if depth == 0 and commit is not None:
                given = dict(signature.bind(*args, **kwargs).arguments)
                given.pop("self", None)
                given.pop("session", None)
                commit.ops.append({"op": name, "result": result, **given})
                self.point(f"{name}/inside")
            return result

        return operation

    def _guard(self, guard: Callable[..., int]) -> Callable[..., int]:
        def guarded(session: WriteSession, lease: Any) -> int:
            revision = guard(session, lease)
            if (commit := getattr(self._here, "commit", None)) is not None:
                commit.lease = {
                    "sweep": lease.sweep_id,
                    "epoch": lease.epoch,
                    "revision": revision,
                }
            return revision

        return guarded

    # --- files and processes -----------------------------------------------------------------

    def _wrap_files(self) -> None:
        for name in ("rename", "replace"):
            setattr(os, name, self._around("rename", getattr(os, name)))
        shutil.rmtree = self._around("delete", shutil.rmtree)  # type: ignore[assignment]

    def _around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.point(f"{name}/before")
            result = function(*args, **kwargs)
            self.point(f"{name}/after")
            return result

        return wrapped


def _after_init(kind: type, then: Callable[[Any], None]) -> None:
    original = kind.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        then(self)

    kind.__init__ = init


def _short(module: Any) -> str:
    return module.__name__.rsplit(".", 1)[-1].removesuffix("s")
