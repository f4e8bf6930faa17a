"""Which events are told, when a message is sent again, and how it is signed."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from orchestrator.webhooks.messages import message, told
from orchestrator.webhooks.schedule import JITTER, LONGEST_WAIT, MOST_ATTEMPTS, next_delay
from orchestrator.webhooks.signing import new_secret, signed_headers


@pytest.mark.parametrize(
    ("type", "data", "kind"),
    [
        ("sweep.state", {"from": "QUEUED", "to": "RUNNING"}, "sweep.started"),
        ("sweep.state", {"from": "PAUSED", "to": "RUNNING"}, None),
        ("sweep.state", {"from": "RUNNING", "to": "PAUSED"}, "sweep.paused"),
        ("sweep.state", {"from": "RUNNING", "to": "COMPLETED"}, "sweep.finished"),
        ("sweep.state", {"from": "QUEUED", "to": "CANCELED"}, "sweep.finished"),
        ("sweep.state", {"from": "RUNNING", "to": "FAILED"}, "sweep.finished"),
        ("trial.state", {"from": "RUNNING", "to": "FAILED"}, "trial.failed"),
        ("trial.state", {"from": "RUNNING", "to": "PRUNED"}, None),
        ("budget.reached", {"message": "used up"}, "budget.reached"),
        ("evaluation", {}, None),
    ],
)
def test_what_is_told_of_an_event(type: str, data: dict[str, str], kind: str | None) -> None:
    found = told(type, data)
    assert (found.kind if found else None) == kind


def test_a_message_has_a_type_a_time_in_utc_and_data() -> None:
    moment = datetime(2026, 1, 31, 13, 0, 0, 5000, tzinfo=timezone(timedelta(hours=1)))
    body = json.loads(message("sweep.finished", moment, {"name": "größer"}))
    assert body == {
        "type": "sweep.finished",
        "timestamp": "2026-01-31T12:00:00.005Z",
        "data": {"name": "größer"},
    }


@given(st.text(), st.integers(1, 4))
def test_every_secret_that_signs_verifies_and_no_other(text: str, count: int) -> None:
    body = json.dumps({"text": text})
    secrets = [new_secret() for _ in range(count)]
    at = int(datetime.now().timestamp())
    headers = signed_headers("msg_1", at, body.encode(), secrets)
    for secret in secrets:
        assert Verifier(secret).verify(body, headers) == {"text": text}
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body + " ", headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(new_secret()).verify(body, headers)


def test_attempts_are_spread_over_a_day_and_then_end() -> None:
    delays = [next_delay(n, None, 0.5) for n in range(1, MOST_ATTEMPTS + 1)]
    assert delays[-1] is None
    waits = [delay for delay in delays if delay is not None]
    assert waits == sorted(waits)
    assert waits[0] <= 10
    assert 20 * 3600 <= sum(waits) <= 28 * 3600


@given(st.integers(1, MOST_ATTEMPTS - 1), st.floats(0, 1), st.floats(0, 1e9))
def test_a_receiver_can_ask_for_later_but_not_for_sooner_nor_for_ever(
    attempts: int, random: float, asked: float
) -> None:
    alone, middle = next_delay(attempts, None, random), next_delay(attempts, None, 0.5)
    heard = next_delay(attempts, asked, random)
    assert alone is not None
    assert middle is not None
    assert heard is not None
    assert abs(alone - middle) <= middle * JITTER + 1e-9
    assert alone <= heard <= max(alone, LONGEST_WAIT)


def test_what_failed_together_is_not_sent_again_together() -> None:
    soon, middle, late = (next_delay(3, None, random) or 0.0 for random in (0.0, 0.5, 1.0))
    assert soon < middle < late
