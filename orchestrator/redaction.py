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
    re.compile(r"\bwnw_[A-Za-z0-9_-]{8,}"),
    re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]{8,}"),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(r"(?<=[Bb]earer )(?!\[secret\])[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?<=uthorization: [Bb]asic )[A-Za-z0-9+/]{4,}={0,2}"),
    re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"),
    re.compile(
        r"(?P<kept>[?&](?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature"
        r"|Credential)|Signature|sig|token|access_token|api_key|key|password)=)[^\s&\"'<>#]+",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<kept>[\"'](?:password|passwd|secret|token|api_key|access_key)[\"']\s*:\s*[\"'])"
        r"[^\"']+",
        re.IGNORECASE,
    ),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*KEY-----|\Z)"),
)
"""What secrets look like: tokens of the hub, keys of OpenAI, tokens and webhooks' secrets of
winnow, GitHub's, AWS's, JWTs, bearer and basic headers, user:password, signed addresses, members of
that name in JSON, private keys."""

_known: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Remember values that are to be masked in this process from now on."""
    _known.update(s for s in secrets if len(s) >= SHORTEST)


def clean(text: str) -> str:
    """`text` with secrets masked."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for form in _FORMS:
        text = form.sub(_masked, text)
    return text


def _masked(found: re.Match[str]) -> str:
    return (found.groupdict().get("kept") or "") + MASK


def clean_values(value: Any) -> Any:
    """A JSON value with secrets masked in all of its texts."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean_values(k): clean_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean_values(item) for item in value]
    return value
