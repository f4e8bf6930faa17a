"""Lets Tune's loop talk to the study, without ever waiting long for it.

The study runs in a thread of its own, one call at a time and in order. So while the database is
away its writes wait there, and Tune's loop goes on: reports queue up, trials train on, and what is
decided about them late is told to them late. At a rung the loop waits for the answer, because the
decision comes before the next step; but not for longer than `HOLD_SECONDS`.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import AbstractContextManager

from orchestrator.observe import catalogue, traces
from orchestrator.observe.context import about
from orchestrator.observe.tally import Tally
from orchestrator.raytune.assignment import Assignment
from orchestrator.raytune.workers import Control
from orchestrator.study import Attempt, Study
from trainer.metrics import Batch

log = logging.getLogger(__name__)

HOLD_SECONDS = 1.0
"""How long a trial is held at a rung, or Tune's loop for anything else, while nothing answers."""
DESK_SECONDS = 0.2
"""How often the desk is looked at: commands, slots, budget."""
MOST_WAITING = 2000
"""Reports that may wait for the database. Beyond that trials wait too, for memory's sake."""
MOST_ATTEMPTS = 2000
"""Attempts after which the driver makes room for a fresh one: Tune keeps every trial in memory."""


class StudyConductor:
    """`tune_run.Conductor` of a study. `stopping`: leave the sweep for a later driver. `tally`:
    counts reports, and how long they take."""

    def __init__(
        self,
        study: Study,
        slots: int,
        stopping: threading.Event,
        epoch: int = 0,
        tally: Tally | None = None,
    ) -> None:
        self._study = study
        self._slots = max(1, slots)
        self._stopping = stopping
        self._epoch = epoch
        self._tally = tally or Tally()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="study")
        self._told_to_stop = False
        self._begun = 0
        self._looked = 0.0
        self._desk: Future[list[tuple[str, Control]]] | None = None
        self._coming: Future[Attempt | None] | None = None
        self._reports: list[tuple[str, Future[Control]]] = []
        """Not answered yet, in order."""
        self._yielding: set[str] = set()
        """Attempts that were told to yield, so that the log says it once."""
        self.turned = 0.0
        """When Tune's loop last came by; 0 before it first did."""

    def close(self) -> None:
        """Wait until everything that was reported is stored."""
        self._thread.shutdown(wait=True)
        for _, answer in self._reports:
            answer.result()

    @property
    def limit(self) -> int:
        """Attempts that may run at once, now."""
        granted = self._study.slots
        return self._slots if granted is None else max(0, granted)

    @property
    def finished(self) -> bool:
        return self._study.finished and all(answer.done() for _, answer in self._reports)

    def next(self) -> Assignment | None:
        """What to start in a free slot. The study is asked once for each answer it gives."""
        if self._begun >= MOST_ATTEMPTS:
            self._stopping.set()
            return None
        if self._coming is None:
            self._coming = self._thread.submit(self._study.next)
        try:
            attempt = self._coming.result(0 if self._study.database_is_away else HOLD_SECONDS)
        except NotYet:
            return None
        self._coming = None
        if attempt is None:
            return None
        self._begun += 1
        with _about(attempt.id):
            log.info("attempt begins from %s", attempt.resume_from or "the start")
        return Assignment(
            attempt.id,
            attempt.trial_id,
            attempt.number,
            attempt.config,
            attempt.resume_from,
            self._epoch,
        )

    def report(self, attempt_id: str, batch: Batch) -> Control:
        """Hand on a report; what the attempt is to do, as far as is known by now."""
        answer = self._thread.submit(self._report, attempt_id, batch, time.monotonic())
        self._reports.append((attempt_id, answer))
        while len(self._reports) > MOST_WAITING:
            self._reports.pop(0)[1].result()
        if batch.status == "running" and batch.evaluations:
            return self._answer(answer)
        return "go"  # it has ended, or what is decided about it is told by the next tick

    def lost(self, attempt_id: str, message: str) -> None:
        answer = self._thread.submit(self._lost, attempt_id, message)
        self._reports.append((attempt_id, answer))

    def tick(self) -> list[tuple[str, Control]]:
        """Attempts that are to yield: for late decisions, for users, for slots and budget."""
        self.turned = now = time.monotonic()
        asked: list[tuple[str, Control]] = []
        while self._reports and self._reports[0][1].done():
            attempt_id, answer = self._reports.pop(0)
            if (control := answer.result()) != "go":
                asked.append((attempt_id, control))
        if self._stopping.is_set() and not self._told_to_stop:
            self._told_to_stop = True
            self._desk = self._thread.submit(self._study.shut_down)
        if self._desk is not None:
            if not self._desk.done():
                return asked
            asked += self._desk.result()
            self._desk = None
        if not self._told_to_stop and now - self._looked >= DESK_SECONDS:
            self._looked = now
            self._desk = self._thread.submit(self._study.drain_commands)
        return asked

    def _answer(self, answer: Future[Control]) -> Control:
        try:
            control = answer.result(0 if self._study.database_is_away else HOLD_SECONDS)
        except NotYet:
            return "go"
        return control

    def _report(self, attempt_id: str, batch: Batch, arrived: float) -> Control:
        began = time.monotonic()
        with _about(attempt_id), traces.span("study.report", steps=len(batch.steps)):
            control = self._study.report(attempt_id, batch)
            if batch.status != "running":
                self._yielding.discard(attempt_id)
                why = "" if batch.failure is None else f": {batch.failure.message}"
                log.info("attempt has %s%s", batch.status, why)
            elif control != "go" and attempt_id not in self._yielding:
                self._yielding.add(attempt_id)
                log.info("attempt is told to %s", control)
        done = time.monotonic()
        self._tally.count(catalogue.REPORTS)
        self._tally.count(catalogue.POINTS, by=len(batch.steps))
        self._tally.observe(catalogue.COMMIT_SECONDS, done - began)
        self._tally.observe(catalogue.INGEST_LAG, done - arrived)
        return control

    def _lost(self, attempt_id: str, message: str) -> Control:
        with _about(attempt_id), traces.span("study.lost"):
            log.warning("attempt is lost: %s", message)
            self._study.lost(attempt_id, message)
        return "go"


def _about(attempt_id: str) -> AbstractContextManager[None]:
    """An attempt's id is its trial's with `-a` and its number."""
    return about(trial=attempt_id.rpartition("-a")[0], attempt=attempt_id)
