"""Idempotency-Key: a request that is sent twice takes effect once, and is answered the same.

A route that creates or asks for something takes `once: OnceOf` and hands it to the store's method,
which writes the answer in the transaction of the effect. The key counts for one principal, method,
path and body, for 24 hours. An error before the effect leaves the key free.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, Header, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.access import Asker
from api.errors import ProblemError
from api.services import StoreOf
from orchestrator.store import Answer, Once
from winnow.errors import DocumentError
from winnow.load import parse_json

log = logging.getLogger(__name__)

KEY = r"^[\x21-\x7e]{1,255}$"

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=KEY,
        description="Any text of your own, one a request: sent again with it, a request is "
        "answered as the first time (`Idempotency-Replayed: true`) and takes no second effect. "
        "Kept for 24 hours.",
    ),
]


class Replayed(Exception):
    """The request was answered before."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


def install(app: FastAPI) -> None:
    app.add_exception_handler(Replayed, _replay)


async def claimed(
    request: Request, store: StoreOf, who: Asker, key: Key = None
) -> AsyncIterator[Once | None]:
    """The right to take effect, if the request has a key. Raises ProblemError 409 or 422."""
    if key is None:
        yield None
        return
    status = request.scope["route"].status_code or 200
    fingerprint = _fingerprint(request, await request.body())
    found = await run_in_threadpool(
        store.requests.claim, who.id, key, fingerprint, lambda result: _answer(status, result)
    )
    if isinstance(found, Answer):
        raise Replayed(found)
    if found == "in-flight":
        raise ProblemError(
            409,
            "idempotency-in-flight",
            "a request with this Idempotency-Key is being worked on; send it again in a moment to "
            "have its answer",
            headers={"Retry-After": "1"},
        )
    if found == "different":
        raise ProblemError(
            422,
            "idempotency-mismatch",
            "this Idempotency-Key was sent before with another request; use a new key for each "
            "request, and the same key only to repeat one as it was",
            title="The key stands for another request",
        )
    assert isinstance(found, Once)
    try:
        yield found
    except BaseException:
        # Before the refusal is sent: whoever reads it may send a better request with this key.
        with anyio.CancelScope(shield=True):
            await _release(store, found)
        raise


OnceOf = Annotated[Once | None, Depends(claimed)]


def creates(once: Once | None, location: str, *, hide: frozenset[str] = frozenset()) -> Once | None:
    """`once`, whose answer also says where the new resource is: `location` as in
    "/v1/sweeps/{id}", with the fields of the answer. `hide`: fields that are shown the first time
    only (the text of a token) and null when the answer is repeated."""
    if once is None:
        return None

    def answer(result: Any) -> Answer:
        kept = once.answer(result)
        body = json.loads(kept.body)
        where = {"Location": location.format_map(body)}
        body |= dict.fromkeys(hide & body.keys())
        return Answer(kept.status, kept.headers | where, json.dumps(body))

    return once.answering(answer)


def _answer(status: int, result: Any) -> Answer:
    if result is None:
        return Answer(204, {}, "")
    if not isinstance(result, BaseModel):
        raise TypeError(f"a route's effect returns what it answers, not {type(result).__name__}")
    return Answer(status, {}, result.model_dump_json())


async def _replay(request: Request, error: Exception) -> Response:
    assert isinstance(error, Replayed)
    answer = error.answer
    return Response(
        answer.body or None,
        status_code=answer.status,
        headers=answer.headers | {"Idempotency-Replayed": "true"},
        media_type="application/json" if answer.body else None,
    )


async def _release(store: StoreOf, once: Once) -> None:
    try:
        await run_in_threadpool(store.requests.release, once)
    except Exception as error:  # the claim runs out by itself
        log.warning("an idempotency key could not be released: %s", error)


def _fingerprint(request: Request, body: bytes) -> str:
    """Of method, address and body; the order of a JSON object's keys doesn't matter."""
    try:
        value = parse_json(body)
    except DocumentError:
        text = body
    else:
        text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256()
    for part in (request.method, request.url.path, request.url.query):
        digest.update(part.encode() + b"\0")
    digest.update(text)
    return digest.hexdigest()
