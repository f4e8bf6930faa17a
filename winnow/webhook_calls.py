"""`client.webhooks`: make webhooks, look at what was sent to them, send it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import httpx2
from pydantic import BaseModel

from winnow.webhooks import EVENTS, Delivery, Webhook, WebhookEvent, WebhookSecret

M = TypeVar("M", bound=BaseModel)


class Request(Protocol):
    def __call__(self, method: str, path: str, **options: Any) -> httpx2.Response: ...


class Pages(Protocol):
    def __call__(self, model: type[M], path: str) -> Iterator[M]: ...


class Parse(Protocol):
    def __call__(self, model: type[M], response: httpx2.Response) -> M: ...


class WebhookCalls:
    """The webhooks of a server. Methods raise what the client's do."""

    def __init__(self, request: Request, pages: Pages, parse: Parse) -> None:
        self._request = request
        self._pages = pages
        self._parse = parse

    def create(
        self,
        url: str,
        events: Sequence[WebhookEvent] = EVENTS,
        *,
        project: str | None = None,
        description: str | None = None,
    ) -> WebhookSecret:
        """A new webhook, whose `secret` is told only now."""
        body = {
            "url": url,
            "events": list(events),
            "project": project,
            "description": description,
        }
        return self._parse(WebhookSecret, self._request("POST", "/v1/webhooks", json=body))

    def list(self) -> Iterator[Webhook]:
        """Oldest first."""
        return self._pages(Webhook, "/v1/webhooks")

    def get(self, webhook_id: str) -> Webhook:
        return self._parse(Webhook, self._request("GET", f"/v1/webhooks/{webhook_id}"))

    def change(self, webhook_id: str, **changes: Any) -> Webhook:
        """Set any of `url`, `events`, `description`, `enabled`."""
        return self._parse(
            Webhook, self._request("PATCH", f"/v1/webhooks/{webhook_id}", json=changes)
        )

    def rotate(self, webhook_id: str) -> WebhookSecret:
        """A new secret. The one before signs too, for a day."""
        return self._parse(
            WebhookSecret, self._request("POST", f"/v1/webhooks/{webhook_id}:rotate")
        )

    def ping(self, webhook_id: str) -> Delivery:
        """Send a message that tells of nothing."""
        return self._parse(Delivery, self._request("POST", f"/v1/webhooks/{webhook_id}:ping"))

    def delete(self, webhook_id: str) -> None:
        self._request("DELETE", f"/v1/webhooks/{webhook_id}")

    def deliveries(self, webhook_id: str, most: int | None = None) -> Iterator[Delivery]:
        """What was sent to a webhook, newest first: all, or so many."""
        return islice(self._pages(Delivery, f"/v1/webhooks/{webhook_id}/deliveries"), most)

    def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a message again, now, with the same id."""
        path = f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}:redeliver"
        return self._parse(Delivery, self._request("POST", path))
