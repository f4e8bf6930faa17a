"""Webhooks: what a client sends to make one, and what the server tells about it.

A webhook is an address that hears of events. Messages are signed in the Standard Webhooks form and
sent at least once; `docs/guide-webhooks.md` has a receiver.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from winnow.changes import PROJECT_NAME
from winnow.types import Model

WebhookEvent = Literal[
    "sweep.started", "sweep.paused", "sweep.finished", "trial.failed", "budget.reached"
]
EVENTS: tuple[WebhookEvent, ...] = (
    "sweep.started",
    "sweep.paused",
    "sweep.finished",
    "trial.failed",
    "budget.reached",
)
PING = "webhook.ping"
"""The type of a message that tells of nothing, but that the address can be reached."""

DeliveryState = Literal["pending", "delivered", "failed"]

Address = Annotated[str, Field(min_length=8, max_length=2048)]
Description = Annotated[str, Field(max_length=200)]
Events = Annotated[tuple[WebhookEvent, ...], Field(min_length=1, max_length=len(EVENTS))]


class NewWebhook(BaseModel):
    """Make a webhook."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"url": "https://ci.example/winnow", "events": ["sweep.finished", "trial.failed"]}
            ]
        },
    )

    url: Address
    """Where messages are sent: https, no user or password."""
    events: Events = EVENTS
    """What it hears of. Default: all there is."""
    project: str | None = Field(default=None, pattern=PROJECT_NAME)
    """Whose sweeps it hears of. Default: those of all projects that its maker sees."""
    description: Description | None = None


class WebhookChange(BaseModel):
    """Change a webhook. What is left out stays."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": False}]})

    url: Address | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None
    """False: it hears of nothing, and what is on the way to it is given up. True: it hears of what
    happens from then on."""


class Webhook(Model):
    id: str
    url: str
    events: list[str]
    project: str | None
    """Null: of all projects."""
    description: str | None
    enabled: bool
    disabled_reason: str | None
    """Why winnow disabled it, if it did."""
    failing_since: datetime | None
    """Since when nothing could be delivered; null if the last message was."""
    created_by: str
    created_at: datetime


class WebhookSecret(Webhook):
    """A webhook with its secret, which is shown once: when it is made, and when it is changed."""

    secret: str | None
    """`whsec_` and the key in base64; null where a request is answered a second time. After a
    change the one before signs too, for a day."""


class Delivery(Model):
    """One message to one webhook."""

    id: str
    """The `webhook-id` of the message, the same at each attempt."""
    webhook_id: str
    type: str
    state: DeliveryState
    """`pending`: it is sent again at `next_at`. `failed`: it was given up."""
    attempts: int
    next_at: datetime | None
    last_at: datetime | None
    last_status: int | None
    """The HTTP status that the last attempt was answered with."""
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None
    body: dict[str, Any]
    """The message: {type, timestamp, data}."""
