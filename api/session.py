"""The dashboard's sign-in: a cookie that scripts can't read, and what keeps other sites out.

A session is made from a token, does what that token may, and ends with it. Because a browser sends
its cookie with whatever asks for this server, requests that come with one must have been made by
the dashboard's own pages: browsers say where a request comes from (`Sec-Fetch-Site`, `Origin`), and
changes carry a CSRF token, derived from the session, which only those pages can read. Requests with
a bearer token need none of it: no browser adds that header by itself.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from api.errors import ProblemError

CSRF_HEADER = "X-CSRF-Token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_DEFAULT_PORTS = {"http": "80", "https": "443"}


def cookie_name(scope: Scope) -> str:
    """Of this server's cookie. Cookies of one host are shared by all its ports, so it has the port,
    or behind https the prefix that ties it to this host."""
    if scope["scheme"] == "https":
        return "__Host-winnow"
    port = urlsplit("//" + Headers(scope=scope).get("host", "")).netloc.rpartition(":")[2]
    return f"winnow_{port}" if port.isdecimal() else "winnow"


def session_of(scope: Scope, headers: Headers) -> str | None:
    """The text of the session that a request comes with."""
    cookies = cookie_parser(headers.get("cookie", ""))
    return cookies.get(cookie_name(scope)) or None


def cookie(scope: Scope, text: str, seconds: float) -> str:
    """The value of Set-Cookie that signs a browser in; an empty text signs it out."""
    parts = [f"{cookie_name(scope)}={text}", "Path=/", "HttpOnly", "SameSite=Strict"]
    parts.append(f"Max-Age={int(seconds) if text else 0}")
    if scope["scheme"] == "https":
        parts.append("Secure")
    return "; ".join(parts)


def csrf_of(text: str) -> str:
    """What a session's changes have to carry."""
    return hmac.new(text.encode(), b"winnow csrf", hashlib.sha256).hexdigest()


def check_own_page(scope: Scope, headers: Mapping[str, str], text: str) -> None:
    """Raise ProblemError 403 unless a request with the session `text` comes from our own page."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise _foreign(f"a page of another site (`Sec-Fetch-Site: {site[:20]}`)")
    if scope["method"] in SAFE_METHODS:
        return
    if site == "none":
        raise _foreign("no page at all (`Sec-Fetch-Site: none`)")
    origin = headers.get("origin")
    if origin is not None and not _is_ours(scope, headers.get("host", ""), origin):
        raise _foreign(f"a page of {origin[:100]!r}")
    if origin is None and site is None:
        raise _foreign("a browser that doesn't say which page it is on (`Origin` is missing)")
    given = headers.get(CSRF_HEADER.lower(), "")
    if not hmac.compare_digest(given.encode(), csrf_of(text).encode()):
        raise ProblemError(
            403,
            "csrf",
            f"a change that is asked for with a session needs the header `{CSRF_HEADER}`, as "
            "`GET /v1/session` tells it; programs send `Authorization: Bearer TOKEN` instead",
        )


def _is_ours(scope: Scope, host: str, origin: str) -> bool:
    """Whether an origin is this server, as it was addressed. Where http is spoken here, a proxy may
    speak https outside."""
    try:
        there = urlsplit(origin)
        here = urlsplit(f"{there.scheme}://{host}")
        ports = [u.port or _DEFAULT_PORTS.get(there.scheme) for u in (there, here)]
    except ValueError:
        return False
    schemes = ("https",) if scope["scheme"] == "https" else ("http", "https")
    return (
        there.scheme in schemes
        and there.hostname is not None
        and there.hostname == here.hostname
        and str(ports[0]) == str(ports[1])
    )


def _foreign(what: str) -> ProblemError:
    return ProblemError(
        403,
        "cross-site",
        f"this came from {what}; a session serves the dashboard's own pages only. Programs send "
        "`Authorization: Bearer TOKEN`",
    )
