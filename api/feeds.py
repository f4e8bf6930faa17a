"""What is new in the database since one last looked: of one sweep, or of all sweeps' events.

These block on the database and know nothing of who listens; see `api/stream.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from api.numbers import dump
from orchestrator.errors import NotFound
from orchestrator.store import Store, Wanted
from winnow.types import Event, Sweep, Trial

POLLS_A_LOOK = 5
"""The sweep is read at every so many polls, though no event tells of it: slots and budget change
without one."""
EVENTS_A_QUERY = 500
POINTS_A_TRIAL = 1000
"""Points of one trial in one message; more is thinned out, as in GET metrics."""
TRIALS_ON_OPENING = 1000
TRIALS_A_MESSAGE = 250


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event: its name, its JSON, and the id of a stored event."""

    kind: str
    data: bytes
    id: int | None = None

    def encode(self) -> bytes:
        head = b"" if self.id is None else b"id: %d\n" % self.id
        return b"%sevent: %s\ndata: %s\n\n" % (head, self.kind.encode(), self.data)


def event_message(event: Event) -> Message:
    return Message("event", event.model_dump_json().encode(), event.id)


class SweepFeed:
    """What has been told about a sweep, and so what is new. One thread at a time.

    The first poll tells nothing: it looks where things stand. `last_event_id` is the last event
    that was told of since, or that was there before.
    """

    def __init__(self, store: Store, sweep_id: str) -> None:
        self._store = store
        self._sweep_id = sweep_id
        self._version = 0
        self._sweep: Sweep | None = None
        self._polls = 0
        self._reached: dict[str, tuple[int, int]] = {}
        """By trial: the attempt and the step whose points are known."""
        self.last_event_id = 0
        self.ended = False

    def poll(self) -> list[Message]:
        """What is new. Raises NotFound if there is no such sweep.

        `ended` turns true with the poll whose last message is `end`.
        """
        if self._sweep is None:
            self._look()
            return []
        # Whether it had ended is read before all else is: what is read later is then complete. One
        # that a user has asked to go on is not over.
        was_over = self._sweep.state.ended and not self._store.pending_commands(self._sweep_id)
        messages = self._new_events()
        trials, self._version = self._store.trials_changed_since(self._sweep_id, self._version)
        if trials:
            messages += progress(trials)
        if moved := self._moved(trials):
            messages.append(self._new_points(moved))
        self._polls += 1
        if messages or self._polls % POLLS_A_LOOK == 0:
            sweep = self._store.get_sweep(self._sweep_id)
            if sweep != self._sweep:
                messages.append(Message("sweep", sweep.model_dump_json().encode()))
            self._sweep = sweep
        if was_over and self._sweep.state.ended:
            messages.append(Message("end", self._sweep.model_dump_json().encode()))
            self.ended = True
        return messages

    def opening(self) -> list[Message]:
        """Where things stand, for one who begins to listen: the trials (of more than
        TRIALS_ON_OPENING those that are open; pages of the others are for GET trials), and the
        sweep."""
        sweep = self._store.get_sweep(self._sweep_id)
        trials = self._store.live.trials_to_open_with(self._sweep_id, TRIALS_ON_OPENING)
        return [*progress(trials), Message("sweep", sweep.model_dump_json().encode())]

    def _look(self) -> None:
        # The event first: what happens meanwhile is then told, perhaps twice, but not missed.
        self.last_event_id = self._store.last_event_id(self._sweep_id)
        self._reached, self._version = self._store.live.marks(self._sweep_id)
        self._sweep = self._store.get_sweep(self._sweep_id)

    def _new_events(self) -> list[Message]:
        found: list[Message] = []
        while True:
            events = self._store.events_after(
                self._sweep_id, self.last_event_id, limit=EVENTS_A_QUERY
            )
            found += [event_message(event) for event in events]
            if events:
                self.last_event_id = events[-1].id
            if len(events) < EVENTS_A_QUERY:
                return found

    def _moved(self, trials: list[Trial]) -> dict[str, int]:
        """Trials with new points, and the step after which these are."""
        moved: dict[str, int] = {}
        for trial in trials:
            attempt, step = self._reached.get(trial.id, (trial.attempt, 0))
            if (trial.attempt, trial.step) != (attempt, step) and trial.step:
                moved[trial.id] = step if trial.attempt == attempt and trial.step > step else 0
            self._reached[trial.id] = (trial.attempt, trial.step)
        return moved

    def _new_points(self, moved: dict[str, int]) -> Message:
        wanted = Wanted(max_points=POINTS_A_TRIAL, after_step=moved)
        page = self._store.metrics.read(self._sweep_id, list(moved), wanted, evaluations=False)
        curves = [points.fields(lambda column: column) for points in page.curves]
        return Message("points", dump({"curves": curves}))


def progress(trials: list[Trial]) -> list[Message]:
    """Trials as messages of a bearable size."""
    parts = [trials[i : i + TRIALS_A_MESSAGE] for i in range(0, len(trials), TRIALS_A_MESSAGE)]
    return [
        Message("progress", dump({"trials": [trial.model_dump() for trial in part]}))
        for part in parts
    ]


class EventFeed:
    """All sweeps' events, each with the project that it is of."""

    ended = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self._projects: dict[str, str] = {}
        self._begun = False
        self.last_event_id = 0

    def poll(self) -> list[tuple[Event, str, Message]]:
        """Events since the last poll, in order. The first poll tells nothing."""
        if not self._begun:
            self.last_event_id, self._begun = self._store.last_event_id(), True
            return []
        found: list[tuple[Event, str, Message]] = []
        while True:
            told = self.after(self.last_event_id)
            found += told
            if told:
                self.last_event_id = told[-1][0].id
            if len(told) < EVENTS_A_QUERY:
                return found

    def after(self, event_id: int) -> list[tuple[Event, str, Message]]:
        """The next events with ids above `event_id`, at most EVENTS_A_QUERY."""
        events = self._store.events_after(None, event_id, limit=EVENTS_A_QUERY)
        return [(event, self._project(event.sweep_id), event_message(event)) for event in events]

    def _project(self, sweep_id: str) -> str:
        if sweep_id not in self._projects:
            try:
                self._projects[sweep_id] = self._store.project_of(sweep_id)
            except NotFound:
                return ""
        return self._projects[sweep_id]
