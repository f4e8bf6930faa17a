"""How much one caller may ask in a minute, by what it costs to answer: token buckets in memory.

Each API process counts for itself. A bucket holds a minute's worth and fills evenly, so short
bursts pass. Limits are told as draft-ietf-httpapi-ratelimit-headers-10 has it:

    RateLimit-Policy: "reads";q=6000;w=60      at most 6000 in 60 s
    RateLimit: "reads";r=5990;t=1              5990 are left, all of them again in 1 s
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from api.errors import ProblemError

Kind = Literal["reads", "writes", "heavy"]

WINDOW = 60.0
"""Seconds."""
CALLERS = 10_000
"""Buckets that are kept. Those that were used longest ago go first: they are full by then."""

_HEAVY_VERBS = re.compile(r":(validate|estimate|replay|export|archive|download)$")
_HEAVY_PARTS = re.compile(r"/(export|archive|download|importance)([/.]|$)")


def kind_of(method: str, path: str) -> Kind:
    """What a request costs. `heavy` opens models, computes for seconds, or sends a great deal."""
    if _HEAVY_VERBS.search(path) or _HEAVY_PARTS.search(path):
        return "heavy"
    if method in ("GET", "HEAD", "OPTIONS"):
        return "reads"
    return "heavy" if path == "/v1/sweeps" else "writes"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands after one request."""

    allowed: bool
    left: int
    full_in: int
    """Seconds until it may ask for a minute's worth again."""
    wait: int
    """Seconds until the next request is allowed; 0 if this one was."""


class Buckets:
    """One token bucket a caller; `per_minute` 0: no limit. Safe to use from several threads."""

    def __init__(
        self, per_minute: int, clock: Callable[[], float] = time.monotonic, callers: int = CALLERS
    ) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._callers = callers
        self._filled: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By caller: how much was in its bucket, and when that was."""
        self._lock = threading.Lock()

    def take(self, caller: str) -> Standing | None:
        """Count a request. None: there is no limit."""
        if not self.per_minute:
            return None
        now, rate = self._clock(), self.per_minute / WINDOW
        with self._lock:
            level, at = self._filled.pop(caller, (float(self.per_minute), now))
            level = min(float(self.per_minute), level + (now - at) * rate)
            allowed = level >= 1.0
            level -= 1.0 if allowed else 0.0
            self._filled[caller] = level, now
            if len(self._filled) > self._callers:
                self._filled.popitem(last=False)
        return Standing(
            allowed,
            int(level),
            math.ceil((self.per_minute - level) / rate),
            0 if allowed else max(1, math.ceil((1.0 - level) / rate)),
        )


class Limits:
    """What each token may ask for, by kind. `told` goes with every answer."""

    def __init__(self, reads: int, writes: int, heavy: int) -> None:
        self._buckets: dict[Kind, Buckets] = {
            "reads": Buckets(reads),
            "writes": Buckets(writes),
            "heavy": Buckets(heavy),
        }

    def count(self, caller: str, method: str, path: str) -> dict[str, str]:
        """Count a request, and return the headers that tell how many are left.

        Raises ProblemError 429, which has them too.
        """
        kind = kind_of(method, path)
        bucket = self._buckets[kind]
        standing = bucket.take(caller)
        if standing is None:
            return {}
        told = {
            "RateLimit-Policy": f'"{kind}";q={bucket.per_minute};w={WINDOW:.0f}',
            "RateLimit": f'"{kind}";r={standing.left};t={standing.full_in}',
        }
        if not standing.allowed:
            raise ProblemError(
                429,
                "rate-limit",
                f"this token has used up its {bucket.per_minute:,} {_WORDS[kind]} a minute; "
                f"try again in {standing.wait} s",
                headers={**told, "Retry-After": str(standing.wait)},
            )
        return told


_WORDS: dict[Kind, str] = {
    "reads": "reads",
    "writes": "changes",
    "heavy": "submissions, validations, replays and exports",
}


def failing(bucket: Buckets, address: str) -> ProblemError | None:
    """Count a wrong token from an address. Not None: it has to slow down."""
    standing = bucket.take(address)
    if standing is None or standing.allowed:
        return None
    return ProblemError(
        429,
        "too-many-failures",
        f"too many wrong tokens came from {address}; check yours, and try again in "
        f"{standing.wait} s",
        headers={"Retry-After": str(standing.wait)},
    )
