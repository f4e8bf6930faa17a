"""Logs: one line an event, about what it is about, in text or in JSON, without secrets."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable

import pytest

from orchestrator import redaction
from orchestrator.observe import context
from orchestrator.observe.context import about, answering, current, whole_process
from orchestrator.observe.logs import Json, Text


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", {"madeup-token"})
    monkeypatch.setattr(context, "_process", {})


@pytest.fixture
def written() -> Callable[..., str]:
    """What a formatter makes of a line."""

    def write(formatter: logging.Formatter, message: str, *args: object, **kwargs: object) -> str:
        record = logging.LogRecord("x", logging.WARNING, "", 1, message, args, None)
        for name, value in kwargs.items():
            setattr(record, name, value)
        return formatter.format(record)

    return write


def test_a_line_of_json_says_what_it_is_about(written: Callable[..., str]) -> None:
    whole_process(sweep="abc")
    with answering({"request_id": "r1"}), about(trial="abc-1", attempt="abc-1-a2"):
        line = json.loads(written(Json(), "stored %d", 3, seconds=0.5, path=object, _own=1))
    assert line["message"] == "stored 3"
    assert line["level"] == "warning"
    assert line["time"].endswith("Z")
    assert (line["request"], line["sweep"]) == ("r1", "abc")
    assert (line["trial"], line["attempt"]) == ("abc-1", "abc-1-a2")
    assert line["seconds"] == 0.5
    assert "_own" not in line
    assert current() == {"sweep": "abc"}


def test_text_is_one_line_whatever_is_in_it(written: Callable[..., str]) -> None:
    with about(trial="abc-1"):
        line = written(Text(), "got %s", "a\nforged 2026 ERROR \x1b[31mline\u2028x")
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert line.endswith("[trial=abc-1]")


@pytest.mark.parametrize("formatter", [Json(), Text()])
def test_secrets_are_masked_in_messages_fields_and_tracebacks(
    written: Callable[..., str], formatter: logging.Formatter
) -> None:
    try:
        raise ValueError("with madeup-token")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    line = written(formatter, "sent %s", "madeup-token", exc_info=trace, at="madeup-token")
    assert "madeup-token" not in line
    assert "ValueError" in line


def test_a_thread_begins_with_nothing_but_what_the_process_is_about() -> None:
    whole_process(sweep="abc")
    found: list[dict[str, str]] = []
    with about(trial="abc-1"):
        thread = threading.Thread(target=lambda: found.append(current()))
        thread.start()
        thread.join()
    assert found == [{"sweep": "abc"}]
