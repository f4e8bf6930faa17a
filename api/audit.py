"""The audit log: every request that asked for a change, and every one that was refused it.

A thread of its own writes, after the answer has gone out: no request waits for it. It also writes
when tokens were last used, at most once a minute each.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from api.access import Principal
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Audited
from orchestrator.store.access import Access

log = logging.getLogger(__name__)

USED_EVERY = 60.0
"""Seconds between two notes that a token was used."""
WAITING = 10_000
"""Entries that wait while the database is away; further ones are only in the log."""
RETRY_SECONDS = 1.0
LONGEST_TARGET = 300

_NAMES = {("DELETE", "tokens"): "revoke"}
_VERBS = {"POST": "create", "PUT": "change", "PATCH": "change", "DELETE": "delete", "GET": "read"}
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_SECRET = re.compile(r"wn[ws]_[A-Za-z0-9_-]+")


def action_of(method: str, path: str) -> str:
    """The name of what was asked for: `sweeps.create`, `trials.stop`, `tokens.revoke`, …"""
    parts = path.removeprefix("/v1/").rstrip("/").split("/")
    verb = parts[-1].rpartition(":")[2] if ":" in parts[-1] else ""
    # A collection, a thing in it, a collection of that …: the last collection is what it is about.
    collections = [part.partition(":")[0] for part in parts[::2]]
    resource = collections[-1] or "api"
    verb = verb or _NAMES.get((method, resource)) or _VERBS.get(method, "request")
    return ".".join(word if _WORD.fullmatch(word) else "unknown" for word in (resource, verb))


def target_of(path: str) -> str:
    """The address that something was asked of, without what may be a secret or can't be shown."""
    return printable(_SECRET.sub(lambda m: m[0][:4] + "…", path))[:LONGEST_TARGET]


def printable(text: str) -> str:
    """With a replacement for each character that terminals or databases would stumble over."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


class Recorder:
    """Writes down what was asked for. Safe to use from several threads."""

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._clock = clock
        self._entries: deque[Audited] = deque()
        self._used: set[int] = set()
        self._used_sessions: set[int] = set()
        self._noted: dict[tuple[int, int | None], float] = {}
        self._changed = threading.Condition()
        self._noted_by_now = 0
        self._written = 0
        """How many notes were made, and how many of these, in their order, are written."""
        self._ending = False
        self._thread: threading.Thread | None = None
        self.refused: Counter[int] = Counter()
        """Requests that were turned away since the process started, by status (401, 403, 429)."""
        self.lost = 0
        """Entries that could not be written, as the database was away for too long."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Write what is left, and end."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def flush(self, seconds: float = 2.0) -> bool:
        """Wait until all that was noted by now is written. False if that took too long."""
        with self._changed:
            by_now = self._noted_by_now
            return self._changed.wait_for(lambda: self._written >= by_now, seconds)

    def asked(self, entry: Audited) -> None:
        """Have a request written down."""
        with self._changed:
            if len(self._entries) >= WAITING:
                self.lost += 1
                log.error("the audit log is full, as the database is away: %s", entry)
                return
            self._entries.append(entry)
            self._noted_by_now += 1
            self._changed.notify_all()

    def used(self, who: Principal) -> None:
        """Note that a token, or a session, was used."""
        if who.token_id is None:
            return
        key, now = (who.token_id, who.session_id), self._clock()
        if now - self._noted.get(key, -USED_EVERY) < USED_EVERY:
            return
        with self._changed:
            if len(self._noted) > WAITING:
                self._noted.clear()
            self._noted[key] = now
            self._used.add(who.token_id)
            if who.session_id is not None:
                self._used_sessions.add(who.session_id)
            self._noted_by_now += 1
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._written < self._noted_by_now)
                by_now = self._noted_by_now
                if self._written >= by_now:
                    return
                entries, self._entries = list(self._entries), deque()
                used, self._used = self._used, set()
                sessions, self._used_sessions = self._used_sessions, set()
            written = self._write(entries, used, sessions)
            with self._changed:
                if written:
                    self._written = by_now
                    self._changed.notify_all()
                    continue
                self._entries.extendleft(reversed(entries))
                if self._ending or self._changed.wait_for(lambda: self._ending, RETRY_SECONDS):
                    log.error("%d entries of the audit log were not written", len(entries))
                    return

    def _write(self, entries: list[Audited], used: set[int], sessions: set[int]) -> bool:
        try:
            self._access.note(entries, used, sessions)
        except StoreUnavailable as error:
            log.warning("the audit log waits: %s", error)
            return False
        except Exception:
            # Not worth a loop without end; what is lost here is in the log at least.
            self.lost += len(entries)
            log.exception("these entries of the audit log could not be written: %s", entries)
        return True
