"""When a message that was not taken is sent again, and when that is given up. Pure."""

from __future__ import annotations

DELAYS = (5, 20, 80, 300, 1200, 3600, 7200, 18000, 28800, 28800)
"""Seconds after the first, second, … failure: from seconds to hours, a day in all."""
MOST_ATTEMPTS = len(DELAYS) + 1
JITTER = 0.2
"""Delays differ by up to this share, so that what failed together is not sent again together."""
LONGEST_WAIT = 86400.0
"""Seconds: the most that a receiver can ask for with Retry-After."""
DISABLE_AFTER = 3 * 86400.0
"""Seconds: a webhook of which every message has failed for so long is disabled."""


def next_delay(attempts: int, asked: float | None, random: float) -> float | None:
    """Seconds until the next attempt after `attempts` have failed; None: give up.

    `asked`: what the receiver asked for (Retry-After), which is kept to where it is longer.
    `random`: from [0, 1].
    """
    if attempts >= MOST_ATTEMPTS:
        return None
    delay = DELAYS[attempts - 1] * (1 + JITTER * (2 * random - 1))
    return delay if asked is None else max(delay, min(asked, LONGEST_WAIT))
