"""`winnow webhook …` against a server that listens, with a courier that delivers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from orchestrator.settings import Settings
from orchestrator.store import Store
from orchestrator.webhooks.courier import Courier
from orchestrator.webhooks.sending import Sender
from tests.fixtures.receiver import Receiver
from tests.integration.api.conftest import LiveServer
from winnow.cli.main import app


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("WINNOW_WEBHOOK_ALLOW", "127.0.0.1")
    started = Receiver().start()
    yield started
    started.stop()


@pytest.fixture
def here(
    receiver: Receiver, live: LiveServer, live_store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CliRunner]:
    """A command line that talks to the server, which a courier serves."""
    live.settings.webhook_allow = "127.0.0.1"
    monkeypatch.setenv("WINNOW_URL", live.url)
    monkeypatch.setenv("WINNOW_TOKEN", live.token)
    courier = Courier(live_store.outbox, Sender(Settings().webhook_policy))
    courier.start()
    yield CliRunner()
    courier.stop()


def test_a_webhook_from_its_making_to_its_end(here: CliRunner, receiver: Receiver) -> None:
    made = here.invoke(app, ["webhook", "create", receiver.url, "--event", "sweep.finished"])
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("whsec_")
    assert made.stdout.count("\n") == 1  # for a script to take
    listed = here.invoke(app, ["webhook", "ls", "--json"])
    assert "whsec_" not in listed.output
    webhook = listed.output.split('"id": "')[1].split('"')[0]

    sent = here.invoke(app, ["webhook", "test", webhook])
    assert (sent.exit_code, "answered 204" in sent.output) == (0, True), sent.output
    receiver.answer = lambda one: (500, {}, b"no room")
    sent = here.invoke(app, ["webhook", "test", webhook])
    assert sent.exit_code == 1
    assert "no room" in " ".join(sent.output.split())
    shown = here.invoke(app, ["webhook", "deliveries", webhook])
    assert shown.output.count("webhook.ping") == 2

    changed = here.invoke(app, ["webhook", "set", webhook, "--disable"])
    assert "disabled" in changed.output
    assert here.invoke(app, ["webhook", "rotate", webhook]).output.startswith("whsec_")
    assert here.invoke(app, ["webhook", "rm", webhook]).exit_code == 0
    assert "there are no webhooks" in here.invoke(app, ["webhook", "ls"]).output


def test_an_event_that_there_is_not_is_refused_before_anything_is_asked(here: CliRunner) -> None:
    refused = here.invoke(app, ["webhook", "create", "https://ci.example", "--event", "boom"])
    assert refused.exit_code == 2
    assert "sweep.finished" in refused.output
