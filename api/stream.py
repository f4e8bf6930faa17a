"""A sweep live, as server-sent events.

Messages with an `id:` are stored events; a client that sends the last one it saw as Last-Event-ID
gets all that came after it, each once. Messages without one say where things stand:

    event     an Event, as stored                      (id: its id)
    progress  {trials: [Trial]}: those that changed; all, on opening
    points    {curves: [Curve]}: new points of learning curves; to be merged by step
    sweep     the Sweep, when it has changed; also on opening
    end       the Sweep: it has ended, all was sent; the stream closes

`points` begin where the curves stood when the stream was opened. A client opens the stream first,
then gets the metrics, and merges by step: so no point is missed. When a trial's new attempt goes
on from an earlier step, its event `attempt.started` says from which, and the whole curve follows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from winnow.types import Curve, Sweep, Trial

POLL_SECONDS = 0.4
HEARTBEAT_SECONDS = 10.0
POLLS_A_LOOK = 5
"""The sweep is read at every so many polls, though no event tells of it: slots and budget change
without one."""
EVENTS_A_QUERY = 500
POINTS_A_TRIAL = 1000
"""Points of one trial in one message; more is thinned out, as in GET metrics."""


class Progress(BaseModel):
    trials: list[Trial]


class Points(BaseModel):
    curves: list[Curve]


@dataclass(frozen=True, slots=True)
class Message:
    kind: str
    data: BaseModel
    id: int | None = None

    def encode(self) -> bytes:
        lines = [f"event: {self.kind}", f"data: {self.data.model_dump_json()}"]
        if self.id is not None:
            lines.insert(0, f"id: {self.id}")
        return ("\n".join(lines) + "\n\n").encode()


class SweepFeed:
    """What one listener has been told about a sweep, and so what is new to it."""

    def __init__(self, store: Store, sweep_id: str, last_event_id: int) -> None:
        self._store = store
        self._sweep_id = sweep_id
        self._last_event_id = last_event_id
        self._version = 0
        self._sweep: Sweep | None = None
        self._polls = 0
        self._reached: dict[str, tuple[int, int]] = {}
        """By trial: the attempt and the step whose points are known."""
        self.ended = False

    def poll(self) -> list[Message]:
        """What is new. Blocks on the database. Raises NotFound if there is no such sweep.

        `ended` turns true with the poll whose last message is `end`.
        """
        opening = self._sweep is None
        # Whether it had ended is read before all else is: what is read later is then complete. One
        # that a user has asked to go on is not over.
        was_over = (
            self._sweep is not None
            and self._sweep.state.ended
            and not self._store.pending_commands(self._sweep_id)
        )
        messages = self._new_events()
        trials, version = self._store.trials_changed_since(self._sweep_id, self._version)
        curves = self._new_points(trials, opening)
        self._version = version
        if trials:
            messages.append(Message("progress", Progress(trials=trials)))
        if curves:
            messages.append(Message("points", Points(curves=curves)))
        self._polls += 1
        if messages or opening or self._polls % POLLS_A_LOOK == 0:
            sweep = self._store.get_sweep(self._sweep_id)
            if sweep != self._sweep:
                messages.append(Message("sweep", sweep))
            self._sweep = sweep
        if was_over and self._sweep is not None and self._sweep.state.ended:
            messages.append(Message("end", self._sweep))
            self.ended = True
        return messages

    def _new_events(self) -> list[Message]:
        found: list[Message] = []
        while True:
            events = self._store.events_after(
                self._sweep_id, self._last_event_id, limit=EVENTS_A_QUERY
            )
            found += [Message("event", event, event.id) for event in events]
            if events:
                self._last_event_id = events[-1].id
            if len(events) < EVENTS_A_QUERY:
                return found

    def _new_points(self, trials: list[Trial], opening: bool) -> list[Curve]:
        moved: dict[str, int] = {}
        for trial in trials:
            now = (trial.attempt, trial.step)
            attempt, step = self._reached.get(trial.id, (trial.attempt, 0))
            if not opening and (trial.attempt, trial.step) != (attempt, step) and trial.step:
                moved[trial.id] = step if trial.attempt == attempt and trial.step > step else 0
            self._reached[trial.id] = now
        if not moved:
            return []
        return self._store.curves(self._sweep_id, list(moved), moved, POINTS_A_TRIAL)


async def stream(feed: SweepFeed, first: list[Message]) -> AsyncIterator[bytes]:
    """The feed's messages as bytes, until the sweep has ended or the client is gone."""
    yield b"retry: 500\n\n"
    messages, last_sent = first, time.monotonic()
    while True:
        if messages:
            yield b"".join(message.encode() for message in messages)
            last_sent = time.monotonic()
        elif time.monotonic() - last_sent > HEARTBEAT_SECONDS:
            yield b": still here\n\n"
            last_sent = time.monotonic()
        if feed.ended:
            return
        await asyncio.sleep(POLL_SECONDS)
        try:
            messages = await run_in_threadpool(feed.poll)
        except StoreUnavailable:
            messages = []  # the feed has not moved on: nothing is lost, it asks again
