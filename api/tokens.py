"""Tokens and sessions: whose they are, and the token that a server's owner finds in a file."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread
from anyio import CapacityLimiter

from api.access import Principal
from orchestrator.store import Refusal, Store, Token
from orchestrator.store.access import Access
from orchestrator.store.tokens import digest

REMEMBERED_SECONDS = 5.0
"""How long an answer of the database is believed. What is revoked in this process ends at once,
what is revoked by another one within this time."""
REMEMBERED = 4096
LOOKUPS_AT_ONCE = 4
"""So that a flood of wrong tokens leaves threads and connections to those who have a right one."""


class Verifier:
    """Whose a token or a session is: asked of the database once in some seconds, not a request.

    Only hashes are remembered. Safe to use from several threads.
    """

    def __init__(
        self,
        access: Access,
        seconds: float = REMEMBERED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._seconds = seconds
        self._clock = clock
        self._known: OrderedDict[str, tuple[Principal | Refusal, float]] = OrderedDict()
        """By hash: what was found, and until when it is believed."""
        self._forgotten = 0
        self._lock = threading.Lock()
        self._lookups = CapacityLimiter(LOOKUPS_AT_ONCE)

    async def token(self, text: str) -> Principal | Refusal:
        """Whose a token is, or why it doesn't hold. Raises StoreUnavailable."""
        return await self._find(text, self._access.check_token)

    async def session(self, text: str) -> Principal | Refusal:
        """Whose a session is, or why it doesn't hold. Raises StoreUnavailable."""
        return await self._find(text, self._access.check_session)

    def forget(self) -> None:
        """Ask anew about everyone: a token or a session was changed."""
        with self._lock:
            self._known.clear()
            self._forgotten += 1

    async def _find(
        self, text: str, check: Callable[[str], Token | Refusal]
    ) -> Principal | Refusal:
        key = digest(text)
        with self._lock:
            known = self._known.get(key)
            if known is not None and known[1] > self._clock():
                return known[0]
            before = self._forgotten
        began = self._clock()
        found = await anyio.to_thread.run_sync(check, text, limiter=self._lookups)
        if isinstance(found, Token):
            until = began + min(self._seconds, found.seconds_left or self._seconds)
            answer: Principal | Refusal = Principal.of(found)
        else:
            until, answer = began + self._seconds, found
        with self._lock:
            if before == self._forgotten:  # else it may have been revoked since it was read
                self._known[key] = answer, until
                self._known.move_to_end(key)
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        return answer


def ensure_token(store: Store, home: Path) -> None:
    """Write a token that works to `home/token`, unless one is there already.

    The database keeps only its hash. A file whose token the database does not know (it is a new
    database), or that was revoked, is replaced.
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
