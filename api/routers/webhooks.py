"""Webhooks: addresses that hear of what happens to sweeps, and what became of each message.

A token of one project manages the webhooks of that project and needs the scope `control`; one of
all projects needs `admin`: an address may hold secrets of its own, so reading asks for as much.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status

from api.access import Controller, Principal
from api.changes import parse
from api.documents import Document, takes
from api.errors import ProblemError, invalid_change
from api.idempotency import OnceOf, creates
from api.pages import Limit
from api.services import ServicesOf, StoreOf
from orchestrator.settings import Settings
from orchestrator.webhooks.addresses import AddressRefused, check_url
from winnow.types import FieldError, Page
from winnow.webhooks import (
    Delivery,
    DeliveryState,
    NewWebhook,
    Webhook,
    WebhookChange,
    WebhookSecret,
)

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

WebhookId = Annotated[str, Path(pattern=r"^wh_[a-z0-9]{13}$")]
DeliveryId = Annotated[str, Path(pattern=r"^msg_[a-z0-9]{20}$")]
SECRET = frozenset({"secret"})


@router.get("")
def list_webhooks(
    store: StoreOf,
    who: Controller,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(pattern=r"^wh_[a-z0-9]{13}$")] = None,
) -> Page[Webhook]:
    """Oldest first. Secrets are not shown again."""
    return store.webhooks.listed(limit, cursor, _project(who))


@router.post("", status_code=status.HTTP_201_CREATED, openapi_extra=takes(NewWebhook))
def create_webhook(
    document: Document, response: Response, services: ServicesOf, who: Controller, once: OnceOf
) -> WebhookSecret:
    """The answer holds the secret that messages are signed with. It is not shown again."""
    own = _project(who)
    wanted = parse(NewWebhook, document)
    if own is not None and wanted.project not in (None, own):
        fault = FieldError(pointer="/project", message=f"this token is of project {own} only")
        raise invalid_change([fault])
    _check_url(wanted.url, services.settings)
    made = services.store.webhooks.create(
        wanted.url,
        list(dict.fromkeys(wanted.events)),
        by=who.name,
        project=own or wanted.project,
        description=wanted.description,
        once=creates(once, "/v1/webhooks/{id}", hide=SECRET),
    )
    response.headers["Location"] = f"/v1/webhooks/{made.id}"
    return made


@router.get("/{webhook_id:id}")
def get_webhook(webhook_id: WebhookId, store: StoreOf, who: Controller) -> Webhook:
    """A webhook, without its secret."""
    return store.webhooks.get(webhook_id, _project(who))


@router.patch("/{webhook_id:id}", openapi_extra=takes(WebhookChange))
def change_webhook(
    webhook_id: WebhookId, document: Document, services: ServicesOf, who: Controller
) -> Webhook:
    """Change its address, its events or its description; disable it, or enable it again."""
    own = _project(who)
    wanted = parse(WebhookChange, document)
    changes = wanted.model_dump(exclude_unset=True)
    if wanted.events is not None:
        changes["events"] = list(dict.fromkeys(wanted.events))
    if wanted.url is not None:
        _check_url(wanted.url, services.settings)
    faults = [
        FieldError(pointer=f"/{name}", message="can't be null; leave it out, and it stays")
        for name in ("url", "events", "enabled")
        if name in changes and changes[name] is None
    ]
    if faults:
        raise invalid_change(faults)
    return services.store.webhooks.change(webhook_id, changes, own)


@router.delete("/{webhook_id:id}", status_code=status.HTTP_204_NO_CONTENT)
def delete_webhook(webhook_id: WebhookId, store: StoreOf, who: Controller) -> None:
    """Delete it with its deliveries."""
    store.webhooks.delete(webhook_id, _project(who))


@router.post("/{webhook_id:id}:rotate")
def rotate_secret(
    webhook_id: WebhookId, store: StoreOf, who: Controller, once: OnceOf
) -> WebhookSecret:
    """A new secret. For a day, messages carry a signature by the one before, too."""
    hiding = creates(once, "/v1/webhooks/{id}", hide=SECRET)
    return store.webhooks.rotate(webhook_id, _project(who), once=hiding)


@router.post("/{webhook_id:id}:ping", status_code=status.HTTP_202_ACCEPTED)
def ping_webhook(webhook_id: WebhookId, store: StoreOf, who: Controller, once: OnceOf) -> Delivery:
    """Send it a message of the type `webhook.ping`; the delivery says what became of it."""
    return store.webhooks.ping(webhook_id, who.name, _project(who), once=once)


@router.get("/{webhook_id:id}/deliveries")
def list_deliveries(
    webhook_id: WebhookId,
    store: StoreOf,
    who: Controller,
    state: DeliveryState | None = None,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(pattern=r"^msg_[a-z0-9]{20}$")] = None,
) -> Page[Delivery]:
    """Newest first. Those that have ended are kept for 30 days."""
    return store.webhooks.deliveries(
        webhook_id, state=state, limit=limit, after=cursor, project=_project(who)
    )


@router.post(
    "/{webhook_id:id}/deliveries/{delivery_id:id}:redeliver", status_code=status.HTTP_202_ACCEPTED
)
def redeliver(
    webhook_id: WebhookId,
    delivery_id: DeliveryId,
    store: StoreOf,
    who: Controller,
    once: OnceOf,
) -> Delivery:
    """Send a message again, now, with the same id."""
    return store.webhooks.redeliver(webhook_id, delivery_id, _project(who), once=once)


def _project(who: Principal) -> str | None:
    """The project whose webhooks the principal manages; None for all. Raises ProblemError 403."""
    if who.project is None and "admin" not in who.scopes:
        raise ProblemError(
            403,
            "scope",
            "webhooks need a token with the scope `admin`, or one of a single project with the "
            "scope `control`",
        )
    return who.project


def _check_url(url: str, settings: Settings) -> None:
    try:
        check_url(url, settings.webhook_policy)
    except AddressRefused as error:
        raise invalid_change([FieldError(pointer="/url", message=str(error))]) from None
