"""Which environment variables reach the workers, and which of them are secrets.

Proxies, certificates and the settings of the Hugging Face hub that `winnow up` (or the API and the
orchestrator) is started with hold for everything that winnow runs, on whatever node. Keys of judges
are given to the sweeps that name them, and to no other.
"""

from __future__ import annotations

PASSED = (
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_ETAG_TIMEOUT",
    "HF_DATASETS_CACHE",
    "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
)
"""Given to every check and every worker."""

KEY_SUFFIX = "_API_KEY"
"""A judge's key may be in any variable whose name ends so."""


def is_withheld(name: str) -> bool:
    """Whether a variable is kept from a local Ray's processes: ranks are given what they need."""
    return (
        name in ("HF_TOKEN", "WINNOW_TOKEN", "WINNOW_DATABASE_URL", "PGPASSWORD", "PGPASSFILE")
        or name.endswith(KEY_SUFFIX)
        or (name.startswith("WINNOW_") and is_secret(name))
        or (name.startswith("OTEL_") and name.endswith("_HEADERS"))
    )


def is_secret(name: str) -> bool:
    """Whether a variable's whole value is a secret, going by its name."""
    words = name.upper().split("_")
    return (
        name.upper().endswith(KEY_SUFFIX)
        or bool({"TOKEN", "SECRET", "PASSWORD", "PASSWD"} & set(words))
    ) and words[-1] not in ("PATH", "FILE")
