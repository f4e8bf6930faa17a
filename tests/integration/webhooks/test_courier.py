"""What happens to a sweep reaches its webhooks: each event at least once, none made twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from orchestrator.store import Store
from orchestrator.webhooks.addresses import Policy
from orchestrator.webhooks.courier import Courier
from orchestrator.webhooks.sending import Outcome, Sender
from tests.fixtures.receiver import Receiver
from tests.fixtures.studies import Studies
from trainer.metrics import Batch, Failure
from winnow.webhooks import EVENTS, WebhookSecret

LOOPBACK = Policy.parse("127.0.0.0/8")


@pytest.fixture
def studies(store: Store, tmp_path: Path) -> Studies:
    return Studies(store, tmp_path)


@pytest.fixture
def courier(store: Store) -> Iterator[Courier]:
    """One that looks when it is told to."""
    made = Courier(store.outbox, Sender(LOOPBACK))
    yield made
    made.stop()


def webhook(store: Store, receiver: Receiver, **changes: Any) -> WebhookSecret:
    return store.webhooks.create(receiver.url, EVENTS, by="test", **changes)


def sent(receiver: Receiver) -> list[tuple[str, dict[str, Any]]]:
    bodies = [json.loads(one.body) for one in receiver.received]
    return [(body["type"], body["data"]) for body in bodies]


def deliver_all(store: Store, sender: Sender | None = None) -> list[Outcome]:
    """What a courier does, one message after the other."""
    courier = Courier(store.outbox, sender or Sender(LOOPBACK))
    while store.outbox.make_deliveries():
        pass
    return [courier.deliver(due) for due in store.outbox.claim(100, 60)]


def test_a_sweep_tells_of_its_start_its_failures_its_budget_and_its_end(
    studies: Studies, receiver: Receiver
) -> None:
    store = studies.store
    made = webhook(store, receiver)
    sweep_id = studies.ended(budget={"trials": 3})
    deliver_all(store)
    kinds = dict(sent(receiver))
    assert [kind for kind, _ in sent(receiver)] == ["sweep.started", "sweep.finished"]
    told = kinds["sweep.finished"]
    assert told["sweep"] == {
        "id": sweep_id,
        "name": "rates",
        "project": "default",
        "model": "/models/tiny",
    }
    assert told["state"] == "COMPLETED"
    assert told["result"]["by_state"]["COMPLETED"] == 3
    best = store.get_sweep(sweep_id).summary
    assert told["result"]["best"]["trial"] == best.best_trial
    assert told["result"]["best"]["value"] == best.best_value
    for one in receiver.received:  # by the reference implementation, which raises
        Verifier(made.secret or "").verify(one.body.decode(), one.headers)
    assert {d.state for d in store.webhooks.deliveries(made.id).items} == {"delivered"}


def test_a_budget_that_ends_a_sweep_and_a_trial_that_fails_are_told(
    studies: Studies, receiver: Receiver
) -> None:
    store = studies.store
    webhook(store, receiver, project="default")
    study = studies.take(studies.queued())
    attempt = study.next()
    assert attempt is not None
    study.report(attempt.id, Batch("failed", failure=Failure("error", "no such column")))
    study.close("budget", "0.1 of 0.1 GPU-hours are used up")
    deliver_all(store)
    kinds = ["sweep.started", "trial.failed", "budget.reached", "sweep.finished"]
    assert sorted(kind for kind, _ in sent(receiver)) == sorted(kinds)
    told = dict(sent(receiver))
    assert told["trial.failed"]["trial"]["id"] == attempt.trial_id
    assert "no such column" in told["trial.failed"]["message"]
    assert told["budget.reached"]["message"] == "0.1 of 0.1 GPU-hours are used up"


def test_an_event_becomes_one_delivery_however_many_couriers_look(
    store: Store, receiver: Receiver
) -> None:
    made = webhook(store, receiver)
    for number in range(5):
        sweep = store.create_sweep({}, 1, f"sweep {number}")
        store.cancel_queued(sweep.id)
    looks = [threading.Thread(target=store.outbox.make_deliveries) for _ in range(4)]
    for look in looks:
        look.start()
    for look in looks:
        look.join()
    assert len(store.webhooks.deliveries(made.id).items) == 5
    claims: list[list[str]] = [[], [], []]

    def claim(mine: list[str]) -> None:
        mine += [due.id for due in store.outbox.claim(2, 60)]

    takers = [threading.Thread(target=claim, args=(mine,)) for mine in claims]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    taken = [delivery for mine in claims for delivery in mine]
    assert len(taken) == len(set(taken))
    assert store.outbox.claim(100, 60) == [] or len(taken) < 5


def test_a_webhook_hears_only_of_its_project_its_events_and_what_comes_after_it(
    store: Store, receiver: Receiver
) -> None:
    store.add_project("lab", store.projects()[0].quota)
    before = store.create_sweep({}, 1, "before")
    store.cancel_queued(before.id)
    webhook(store, receiver, project="lab")
    other = store.create_sweep({}, 1, "of another project")
    mine = store.create_sweep({"project": "lab"}, 1, "mine")
    for sweep in (other, mine):
        store.cancel_queued(sweep.id)
    deliver_all(store)
    assert [data["sweep"]["name"] for _, data in sent(receiver)] == ["mine"]


def test_what_was_on_its_way_when_its_courier_was_killed_is_sent_again_with_its_id(
    store: Store, receiver: Receiver
) -> None:
    made = webhook(store, receiver)
    ping = store.webhooks.ping(made.id, "test")
    (killed,) = store.outbox.claim(10, seconds=0.0)  # it never says what became of it
    (outcome,) = deliver_all(store)
    assert outcome.error is None
    (one,) = receiver.received
    assert one.headers["webhook-id"] == ping.id
    # It was not dead after all, and says so too late to be heard.
    store.outbox.failed(killed, "too late", again_in=1.0, disable_after=1.0)
    (delivery,) = store.webhooks.deliveries(made.id).items
    assert (delivery.state, delivery.attempts) == ("delivered", 2)


def test_a_receiver_that_is_away_is_tried_again_and_given_up_in_the_end(
    store: Store, receiver: Receiver
) -> None:
    made = webhook(store, receiver)
    store.webhooks.ping(made.id, "test")
    receiver.answer = lambda one: (503, {"retry-after": "3600"}, b"later")
    assert deliver_all(store)[0].error == "it answered 503: later"
    (delivery,) = store.webhooks.deliveries(made.id).items
    assert delivery.state == "pending"
    assert delivery.next_at is not None
    assert delivery.last_at is not None
    wait = (delivery.next_at - delivery.last_at).total_seconds()
    assert 3590 < wait < 3700  # as the receiver asked, not the five seconds of a first failure
    assert deliver_all(store) == []  # it is not due
    assert store.webhooks.get(made.id).failing_since is not None
    (due,) = [store.webhooks.redeliver(made.id, delivery.id)]
    assert due.state == "pending"
    (claimed,) = store.outbox.claim(1, 60)
    store.outbox.failed(claimed, "no", again_in=None, disable_after=1e9)
    (delivery,) = store.webhooks.deliveries(made.id, state="failed").items
    assert (delivery.attempts, delivery.last_error) == (2, "no")
    receiver.answer = lambda one: (200, {}, b"")
    store.webhooks.redeliver(made.id, delivery.id)
    assert deliver_all(store)[0].error is None
    assert store.webhooks.get(made.id).failing_since is None
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1


def test_a_webhook_that_is_gone_or_fails_for_days_is_disabled_with_a_note(
    store: Store, receiver: Receiver
) -> None:
    gone, failing = webhook(store, receiver), webhook(store, receiver)
    receiver.answer = lambda one: (410, {}, b"")
    store.webhooks.ping(gone.id, "test")
    deliver_all(store)
    found = store.webhooks.get(gone.id)
    assert (found.enabled, found.disabled_reason) == (False, "it answered 410")
    store.webhooks.ping(failing.id, "test")
    (due,) = store.outbox.claim(1, 60)
    assert store.outbox.failed(due, "no", again_in=0.0, disable_after=1e-9) is None
    (due,) = store.outbox.claim(1, 60)
    assert "at last: no" in (store.outbox.failed(due, "no", again_in=0.0, disable_after=1e-9) or "")
    assert not store.webhooks.get(failing.id).enabled
    noted = [row.action for row in store.access.audit(10)]
    assert noted == ["webhooks.disable", "webhooks.disable"]
    enabled = store.webhooks.change(failing.id, {"enabled": True})
    assert (enabled.enabled, enabled.disabled_reason, enabled.failing_since) == (True, None, None)


def test_after_a_change_of_secret_the_old_one_verifies_too(
    store: Store, receiver: Receiver
) -> None:
    made = webhook(store, receiver)
    again = store.webhooks.rotate(made.id)
    store.webhooks.ping(made.id, "test")
    deliver_all(store)
    (one,) = receiver.received
    for secret in (made.secret, again.secret):
        Verifier(secret or "").verify(one.body.decode(), one.headers)


def test_a_slow_receiver_does_not_hold_up_the_others(
    store: Store, receiver: Receiver, courier: Courier, eventually: Callable[..., None]
) -> None:
    slow, release = Receiver().start(), threading.Event()
    slow.answer = lambda one: (200 if release.wait(20) else 500, {}, b"")
    try:
        late, quick = webhook(store, slow), webhook(store, receiver)
        for _ in range(30):
            store.webhooks.ping(late.id, "test")
        for _ in range(3):
            store.webhooks.ping(quick.id, "test")
        courier.start()
        eventually(lambda: len(receiver.received) == 3)
        assert len(slow.received) <= 4
        release.set()
        eventually(lambda: len(slow.received) == 30)
    finally:
        release.set()
        slow.stop()


def test_deliveries_that_ended_long_ago_are_deleted(store: Store, receiver: Receiver) -> None:
    made = webhook(store, receiver)
    store.webhooks.ping(made.id, "test")
    assert store.outbox.tidy(days=0.0) == 0  # it has not ended
    deliver_all(store)
    assert store.outbox.tidy(days=1.0) == 0
    assert store.outbox.tidy(days=-1.0) == 1
    store.webhooks.delete(made.id)
