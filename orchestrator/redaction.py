"""Secrets are taken out of every text before it is written down: here, and nowhere else.

A process names its secrets once, at its start (`hide`). What it logs goes through `clean` by itself
(`orchestrator.observe.logs`); what the store writes and what errors tell go through it by a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

MASK = "[secret]"
SHORTEST = 6
"""Characters. A shorter value is not taken for a secret: masking "1234" would garble numbers."""

_FORMS = (
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"),
)
"""What secrets look like: tokens of the hub, keys of OpenAI, any bearer token, user:password."""

_known: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Remember values that are to be masked in this process from now on."""
    _known.update(s for s in secrets if len(s) >= SHORTEST)


def clean(text: str) -> str:
    """`text` with secrets masked."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for form in _FORMS:
        text = form.sub(MASK, text)
    return text


def clean_values(value: Any) -> Any:
    """A JSON value with secrets masked in all of its texts."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean_values(k): clean_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean_values(item) for item in value]
    return value
