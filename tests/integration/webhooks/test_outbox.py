"""What is sent, when, by whom and signed with what: the store's side of webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.errors import Conflict
from orchestrator.store import Store
from orchestrator.webhooks.courier import Courier
from orchestrator.webhooks.schedule import DELAYS, JITTER
from orchestrator.webhooks.sending import Message, Outcome
from winnow.webhooks import WebhookEvent, WebhookSecret

FINISHED: list[WebhookEvent] = ["sweep.finished"]


def webhook(store: Store, kinds: Sequence[WebhookEvent] = FINISHED, **more: Any) -> WebhookSecret:
    return store.webhooks.create("https://ci.example/", kinds, by="ada", **more)


def ended(store: Store) -> None:
    """A sweep that has."""
    store.cancel_queued(store.create_sweep({}, 1, "x").id)


def test_a_webhook_hears_of_the_events_that_it_asked_for_and_of_no_other(store: Store) -> None:
    webhook(store, ["trial.failed", "sweep.started"])
    mine = webhook(store)
    ended(store)
    assert store.outbox.make_deliveries() == 1
    assert [due.webhook_id for due in store.outbox.claim(10, 60)] == [mine.id]


def test_what_happened_while_it_was_disabled_is_not_told_later(store: Store) -> None:
    made = webhook(store)
    store.webhooks.change(made.id, {"enabled": False})
    ended(store)
    store.webhooks.change(made.id, {"enabled": True})
    assert not store.outbox.behind()
    assert store.outbox.make_deliveries() == 0
    ended(store)
    assert store.outbox.make_deliveries() == 1


def test_only_what_is_due_is_sent(store: Store) -> None:
    made = webhook(store)
    later = store.webhooks.ping(made.id, "ada")
    (first,) = store.outbox.claim(10, 60)
    store.outbox.failed(first, "no", again_in=3600.0, disable_after=1e9)
    now = store.webhooks.ping(made.id, "ada")
    assert [due.id for due in store.outbox.claim(10, 60)] == [now.id] != [later.id]


def test_who_was_taken_for_dead_is_not_heard_about_what_another_sends(store: Store) -> None:
    made = webhook(store)
    store.webhooks.ping(made.id, "ada")
    (slow,) = store.outbox.claim(10, seconds=0.0)
    (other,) = store.outbox.claim(10, 60)
    assert not store.outbox.delivered(slow, 200)
    assert store.outbox.failed(slow, "no", again_in=None, disable_after=0.0) is None
    (delivery,) = store.webhooks.deliveries(made.id).items
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("pending", 2, None)
    assert store.outbox.delivered(other, 204)


def test_a_secret_that_was_replaced_signs_for_a_day(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = webhook(store)
    new = store.webhooks.rotate(made.id)
    store.webhooks.ping(made.id, "ada")
    assert [due.keys for due in store.outbox.claim(1, 60)] == [(new.secret, made.secret)]
    monkeypatch.setattr("orchestrator.store.webhooks.OVERLAP_SECONDS", -1.0)  # a day later
    newest = store.webhooks.rotate(made.id)
    store.webhooks.ping(made.id, "ada")
    assert [due.keys for due in store.outbox.claim(1, 60)] == [(newest.secret,)]


def test_there_is_a_bound_on_webhooks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.store.webhooks.MOST_WEBHOOKS", 2)
    first, _ = webhook(store), webhook(store)
    with pytest.raises(Conflict, match="delete one first"):
        webhook(store)
    webhook(store, project="default")  # counted apart
    store.webhooks.delete(first.id)
    webhook(store)


def test_the_time_between_attempts_grows(store: Store) -> None:
    class Refusing:
        def send(self, message: Message) -> Outcome:
            return Outcome(500, "no")

    told: list[str] = []
    courier = Courier(
        store.outbox,
        Refusing(),  # type: ignore[arg-type]
        told=lambda kind, outcome: told.append(f"{kind} {outcome.result}"),
    )
    made = webhook(store)
    ping = store.webhooks.ping(made.id, "ada")
    for delay in DELAYS[:4]:
        (due,) = store.outbox.claim(1, 60)
        courier.deliver(due)
        (delivery,) = store.webhooks.deliveries(made.id).items
        assert delivery.next_at is not None
        assert delivery.last_at is not None
        waits = (delivery.next_at - delivery.last_at).total_seconds()
        assert delay * (1 - JITTER) <= waits <= delay * (1 + JITTER) + 30
        store.webhooks.redeliver(made.id, ping.id)  # now
    assert told == ["webhook.ping refused"] * 4, "what the metrics count"
