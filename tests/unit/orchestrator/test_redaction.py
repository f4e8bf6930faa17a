"""Secrets are masked in whatever is written down."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator import redaction
from orchestrator.redaction import MASK, clean, clean_values


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    redaction.hide(["madeup-token", "madeup-token-longer", "1234"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("401 for madeup-token.", f"401 for {MASK}."),
        ("madeup-token-longer", MASK),
        ("hf_abcdefghijklmnopqrst is unknown here", f"{MASK} is unknown here"),
        ("key sk-proj-ABCDEFGHIJKLMNOP failed", f"key {MASK} failed"),
        ("Authorization: Bearer abc.def-ghi_jkl", f"Authorization: Bearer {MASK}"),
        ("http://ann:pw@proxy.example:3128/x", f"http://{MASK}@proxy.example:3128/x"),
        (
            "postgresql://u:pw@db.example/winnow failed",
            f"postgresql://{MASK}@db.example/winnow failed",
        ),
        ("redis://:pw@cache.example", f"redis://{MASK}@cache.example"),
        ("the token wnw_AbCdEfGh1234567890 has ended", f"the token {MASK} has ended"),
        ("signed with whsec_MfKQ9r8GKYqrTwjU", f"signed with {MASK}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {MASK}"),
        (
            "GET https://b.s3.example/x?X-Amz-Signature=abcdef0123&X-Amz-Expires=60",
            f"GET https://b.s3.example/x?X-Amz-Signature={MASK}&X-Amz-Expires=60",
        ),
        ("https://x.blob.example/c?sv=1&sig=a%2Fb%3D", f"https://x.blob.example/c?sv=1&sig={MASK}"),
        ('{"password": "madeup pass"}', f'{{"password": "{MASK}"}}'),
        ("key AKIAABCDEFGHIJKLMNOP", f"key {MASK}"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl ended", f"{MASK} ended"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----!", f"{MASK}!"),
    ],
)
def test_known_secrets_and_what_looks_like_one_are_masked(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "loss 1234 at step 1234",
        "hf_hub_download failed",
        "see https://hub.example/org/name@main and mail ann@example.org",
        "/data/sk-learn/file.jsonl",
        "the bearer of bad news",
        "basic authentication is not supported",
        "see https://hub.example/x?revision=main&page=2",
        "eyJ is how a JWT begins",
        "tokens: 12,345; the token ended the text",
        "wnw_ is what tokens begin with",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert clean(text) == text


def test_every_text_in_a_value_is_cleaned() -> None:
    notes = {"device": "cpu", "warnings": ["got madeup-token"], "madeup-token": 1, "n": 2.5}
    assert clean_values(notes) == {
        "device": "cpu",
        "warnings": [f"got {MASK}"],
        MASK: 1,
        "n": 2.5,
    }


def test_logs_and_uncaught_errors_are_cleaned_with_their_tracebacks() -> None:
    code = (
        "import logging; from orchestrator.redaction import hide;"
        "from orchestrator.observe.logs import log_to_stderr;"
        "hide(['madeup-token']); log_to_stderr();"
        "logging.getLogger('x').warning('sent %s', 'madeup-token');"
        "logging.getLogger('x').error('failed', exc_info=ValueError('madeup-token'));"
        "raise RuntimeError('with madeup-token')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "madeup-token" not in done.stderr
    assert done.stderr.count(MASK) == 3
    assert "RuntimeError: with" in done.stderr
