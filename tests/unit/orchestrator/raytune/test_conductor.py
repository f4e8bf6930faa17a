"""Tune's loop goes on while the database is away, and hears late what was decided late."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.observe import catalogue
from orchestrator.observe.context import current
from orchestrator.observe.tally import Tally
from orchestrator.raytune import conductor as module
from orchestrator.raytune.conductor import StudyConductor
from orchestrator.study import Attempt
from trainer.metrics import Batch, Evaluation, Failure


class AwayStudy:
    """A study whose database can be away: its calls wait until it is back."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.back.set()
        self.slots: int | None = None
        self.finished = False
        self.reported: list[tuple[str, Batch]] = []
        self.answer: Any = "go"
        self.asked: list[Any] = []
        self.fault: Exception | None = None

    @property
    def database_is_away(self) -> bool:
        return not self.back.is_set()

    def next(self) -> Attempt | None:
        self.back.wait(120)
        return Attempt("s-1-a1", "s-1", 1, "{}", None)

    def report(self, attempt_id: str, batch: Batch) -> Any:
        self.back.wait(120)
        if self.fault is not None:
            raise self.fault
        self.reported.append((attempt_id, batch))
        return self.answer

    def drain_commands(self) -> list[Any]:
        self.back.wait(120)
        return self.asked

    def shut_down(self) -> list[Any]:
        return [("s-1-a1", "pause")]


RUNNING = Batch(status="running")
AT_A_RUNG = Batch(status="running", evaluations=(Evaluation(1, 8, "eval", "held-out", 1.0, 10),))
AT_ITS_END = Batch(status="completed", evaluations=AT_A_RUNG.evaluations)


@pytest.fixture
def study() -> AwayStudy:
    return AwayStudy()


@pytest.fixture
def conductor(study: AwayStudy, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyConductor]:
    monkeypatch.setattr(module, "DESK_SECONDS", 0.0)
    made = StudyConductor(study, 2, threading.Event(), epoch=3)  # type: ignore[arg-type]
    yield made
    study.back.set()


def ticks(conductor: StudyConductor, until: int) -> list[Any]:
    """What ticks tell, until they have told so much."""
    found: list[Any] = []
    for _ in range(10_000):
        found += conductor.tick()
        if len(found) >= until:
            break
        threading.Event().wait(0.001)
    return found


def test_trials_train_on_while_the_database_is_away(
    study: AwayStudy, conductor: StudyConductor
) -> None:
    study.back.clear()
    study.answer = "pause"
    assert [conductor.report("s-1-a1", AT_A_RUNG) for _ in range(3)] == ["go"] * 3
    assert conductor.next() is None
    assert conductor.tick() == []
    assert not study.reported
    study.back.set()
    assert ticks(conductor, until=3)[:3] == [("s-1-a1", "pause")] * 3
    assert [attempt for attempt, _ in study.reported] == ["s-1-a1"] * 3


def test_the_answer_at_a_rung_comes_before_the_next_step(
    study: AwayStudy, conductor: StudyConductor
) -> None:
    study.answer = "stop"
    assert conductor.report("s-1-a1", AT_A_RUNG) == "stop"


def test_a_report_without_a_decision_is_not_waited_for(
    study: AwayStudy, conductor: StudyConductor
) -> None:
    study.back.clear()
    assert conductor.report("s-1-a1", RUNNING) == "go"


def test_the_run_is_not_over_before_everything_is_stored(
    study: AwayStudy, conductor: StudyConductor
) -> None:
    study.back.clear()
    conductor.report("s-1-a1", RUNNING)
    study.finished = True
    assert not conductor.finished
    study.back.set()
    while not conductor.finished:
        conductor.tick()
    assert len(study.reported) == 1


def test_an_end_is_not_waited_for_and_what_comes_next_knows_of_it(
    study: AwayStudy, conductor: StudyConductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    storing, stored = threading.Event(), study.report

    def slow(attempt_id: str, batch: Batch) -> Any:
        storing.wait(20)
        return stored(attempt_id, batch)

    def known() -> Attempt | None:
        assert [attempt for attempt, _ in study.reported] == ["s-1-a1"]
        study.finished = True
        return None

    monkeypatch.setattr(module, "HOLD_SECONDS", 60.0)
    monkeypatch.setattr(study, "report", slow)
    monkeypatch.setattr(study, "next", known)
    conductor.report("s-1-a1", AT_ITS_END)
    assert not study.reported
    storing.set()
    assert conductor.next() is None
    assert conductor.finished  # at once: Tune sleeps a second before it asks again


def test_what_goes_wrong_with_the_last_report_is_raised_at_the_end(
    study: AwayStudy, conductor: StudyConductor
) -> None:
    study.fault = RuntimeError("a fault of ours")
    conductor.report("s-1-a1", AT_ITS_END)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        conductor.close()


def test_what_goes_wrong_in_the_study_ends_the_run(
    study: AwayStudy, conductor: StudyConductor
) -> None:
    study.fault = RuntimeError("a fault of ours")
    conductor.report("s-1-a1", RUNNING)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        ticks(conductor, until=1)


def test_an_attempt_carries_its_driver_s_epoch(study: AwayStudy, conductor: StudyConductor) -> None:
    assignment = conductor.next()
    assert assignment is not None
    assert (assignment.attempt_id, assignment.epoch) == ("s-1-a1", 3)


def test_the_granted_slots_are_the_limit(study: AwayStudy, conductor: StudyConductor) -> None:
    assert conductor.limit == 2
    study.slots = 5
    assert conductor.limit == 5


def test_reports_are_counted_and_what_is_logged_meanwhile_says_of_which_attempt() -> None:
    class Telling(AwayStudy):
        def report(self, attempt_id: str, batch: Batch) -> Any:
            self.about = current()
            return super().report(attempt_id, batch)

    study, tally = Telling(), Tally()
    conductor = StudyConductor(study, 1, threading.Event(), tally=tally)  # type: ignore[arg-type]
    conductor.report("s-1-a2", RUNNING)
    conductor.close()
    counted = tally.take()
    assert counted[catalogue.REPORTS] == {"": 1}
    assert sum(counted[catalogue.COMMIT_SECONDS][""][:-1]) == 1
    assert sum(counted[catalogue.INGEST_LAG][""][:-1]) == 1
    assert study.about == {"trial": "s-1", "attempt": "s-1-a2"}


def test_what_becomes_of_each_attempt_is_a_line_of_the_log(
    study: AwayStudy, conductor: StudyConductor, caplog: pytest.LogCaptureFixture
) -> None:
    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append((current().get("attempt"), record.getMessage()))

    told: list[tuple[str | None, str]] = []
    caplog.set_level(logging.INFO, "orchestrator.raytune.conductor")
    logger, lines = logging.getLogger("orchestrator.raytune.conductor"), Lines()
    logger.addHandler(lines)
    try:
        conductor.next()
        conductor.report("s-1-a1", RUNNING)
        study.answer = "stop"
        conductor.report("s-1-a1", AT_A_RUNG)
        failure = Failure("oom", "out of memory")
        conductor.report("s-1-a1", Batch(status="failed", failure=failure))
        conductor.close()
    finally:
        logger.removeHandler(lines)
    assert told == [
        ("s-1-a1", "attempt begins from the start"),
        ("s-1-a1", "attempt is told to stop"),
        ("s-1-a1", "attempt has failed: out of memory"),
    ]
