"""Requests to a winnow server: found, sent, tried again where that is safe, and their errors."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import httpx2
from pydantic import BaseModel, ValidationError

from winnow.errors import ApiError, ServerNotFound, WinnowError
from winnow.settings import ClientSettings, is_loopback
from winnow.types import Page, Problem

M = TypeVar("M", bound=BaseModel)

TRIES = 4
"""How often a request is sent, at most."""
LONGEST_WAIT = 20.0
"""Seconds that the server may ask to be left alone; told to wait longer, the client gives up."""
_FIRST_WAIT = 0.25
_AGAIN = frozenset({429, 502, 503, 504})
_IN_FLIGHT = "urn:winnow:problem:idempotency-in-flight"


class Connection:
    """A connection to a winnow server.

    `url` and `token` default to `WINNOW_URL` and `WINNOW_TOKEN`, then to the server that
    `winnow up` runs on this machine.

    A request that fails on its way, or that the server can't take now (429, 503), is sent again: it
    takes effect once, for each that creates or asks for something carries an Idempotency-Key.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, timeout: float = 30.0
    ) -> None:
        self.url, token = ClientSettings().find_server(url, token)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            trust_env=not is_loopback(self.url),
        )

    def close(self) -> None:
        self._http.close()

    def _get(self, model: type[M], path: str, params: dict[str, Any] | None = None) -> M:
        return parse(model, self._request("GET", path, params=params))

    def _pages(
        self, model: type[M], path: str, params: dict[str, Any] | None = None
    ) -> Iterator[M]:
        params = dict(params or {})
        while True:
            response = self._request("GET", path, params=params)
            page = cast("Page[M]", parse(Page[model], response))
            yield from page.items
            if page.next is None:
                return
            params["cursor"] = page.next

    def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """The answer. Raises ApiError if it is a refusal, ServerNotFound if there is none."""
        if method == "POST":
            own = {"Idempotency-Key": uuid.uuid4().hex}
            options["headers"] = own | (options.get("headers") or {})
        for number in range(TRIES):
            last = number == TRIES - 1
            try:
                response = self._http.request(method, path, **options)
            except httpx2.TimeoutException:
                raise ServerNotFound(
                    f"the winnow server at {self.url} did not answer in time"
                ) from None
            except httpx2.ConnectError as error:
                raise self._away(error) from None
            except httpx2.TransportError as error:  # lost on the way there, or on the way back
                if last:
                    raise self._away(error) from None
                wait = _FIRST_WAIT * 2**number
            else:
                wait = _wait(response, number)
                if not response.is_error:
                    return response
                if wait is None or last:
                    raise_for_problem(response)
            time.sleep(wait or 0.0)
        raise AssertionError("unreachable")

    @contextmanager
    def _streamed(
        self, path: str, params: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[httpx2.Response]:
        """An answer that is read as it comes."""
        try:
            with self._http.stream("GET", path, params=params, **options) as response:
                if response.is_error:
                    response.read()
                    raise_for_problem(response)
                yield response
        except httpx2.TransportError as error:
            raise self._away(error) from None

    def _away(self, error: Exception) -> ServerNotFound:
        return ServerNotFound(
            f"no winnow server answers at {self.url} ({error}). Is `winnow up` running?"
        )


def _wait(response: httpx2.Response, number: int) -> float | None:
    """Seconds after which to send a request again; None: don't."""
    if response.status_code not in _AGAIN and not _in_flight(response):
        return None
    asked = response.headers.get("Retry-After", "")
    wait = float(asked) if asked.isdecimal() else _FIRST_WAIT * 2**number
    return wait if wait <= LONGEST_WAIT else None


def _in_flight(response: httpx2.Response) -> bool:
    """Whether the same request, sent before, is still being worked on."""
    if response.status_code != 409:
        return False
    try:
        return Problem.model_validate_json(response.content).type == _IN_FLIGHT
    except ValidationError:
        return False


def raise_for_problem(response: httpx2.Response) -> None:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(
            type="about:blank",
            title=f"{response.status_code} {response.reason_phrase}",
            status=response.status_code,
            detail=f"{response.url} does not answer as a winnow server does; check the address",
        )
    raise ApiError(problem)


def parse(model: type[M], response: httpx2.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise WinnowError(
            f"{response.url} did not answer as a winnow server of this version does; "
            "compare `winnow --version` here and there"
        ) from None
