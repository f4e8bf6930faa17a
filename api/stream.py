"""Live streams, as server-sent events: one look at the database for all who listen.

Messages with an `id:` are stored events; a client that sends the last one it saw as Last-Event-ID
gets all that came after it, each once. A client that sends none hears of what is yet to come.
Messages without an id say where things stand:

    event     an Event, as stored                      (id: its id)
    progress  {trials: [Trial]}: those that changed; on opening all, or of many the open ones
    points    {curves: [Curve]}: new points of learning curves; to be merged by step
    sweep     the Sweep, when it has changed; also on opening
    reset     {reason}: events are missing from here on; read the state anew   (id: goes on from it)
    end       the Sweep: it has ended, all was sent; the stream closes

`points` begin where the curves stood when the stream was opened. A client opens the stream first,
then gets the metrics, and merges by step: so no point is missed. When a trial's new attempt goes
on from an earlier step, its event `attempt.started` says from which, and the whole curve follows.

A client that reads more slowly than things happen has a buffer of BUFFER_BYTES. When that is full
it is emptied, and a `reset` takes its place; so does one for events that are no longer kept.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter

from api.feeds import EVENTS_A_QUERY, EventFeed, Message, SweepFeed, event_message
from api.numbers import dump
from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store
from winnow.types import Event

SSE_MESSAGE = {
    "type": "object",
    "description": "One message of the stream",
    "properties": {name: {"type": "string"} for name in ("event", "data", "id")},
}
"""What OpenAPI says of each message."""

POLL_SECONDS = 0.4
HEARTBEAT_SECONDS = 10.0
BUFFER_BYTES = 2**20
READS_AT_ONCE = 4
"""Threads that look at the database for streams: other requests keep theirs."""

log = logging.getLogger(__name__)


class Listener:
    """One client's buffer. What is put into it is sent in order, or replaced by a `reset`."""

    def __init__(self, accepts: Callable[[Event, str], bool] = lambda event, project: True) -> None:
        self.accepts = accepts
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, chunk: bytes, last_event_id: int) -> None:
        """`last_event_id`: of the last event in the chunk, or before it."""
        if self._chunks and self._size + len(chunk) > BUFFER_BYTES:
            self._chunks.clear()
            self._size = 0
            chunk = reset("you read too slowly", last_event_id).encode()
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._ready.set()

    def close(self) -> None:
        self._closed = True
        self._ready.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """What is put in, and a comment when that is nothing for a while; until `close`."""
        while True:
            if not self._chunks:
                if self._closed:
                    return
                self._ready.clear()
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await self._ready.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                continue
            chunk = self._chunks.popleft()
            self._size -= len(chunk)
            yield chunk


def reset(reason: str, last_event_id: int) -> Message:
    return Message("reset", dump({"reason": reason}), last_event_id)


class Channel(ABC):
    """A feed, polled by one task for all its listeners while there are any."""

    def __init__(self, feed: SweepFeed | EventFeed, hub: Hub) -> None:
        self._feed = feed
        self._hub = hub
        self.listeners: set[Listener] = set()
        self.told = 0
        """Id of the last event that listeners were told of, or that was there before them."""
        self.task: asyncio.Task[None] | None = None
        self._begun: asyncio.Task[Any] | None = None

    async def join(self, listener: Listener) -> None:
        """From the return of this on, what is new is put into `listener`. Raises what the feed's
        first poll does."""
        if self._begun is None:
            self._begun = asyncio.ensure_future(self._begin())
        await asyncio.shield(self._begun)
        self.listeners.add(listener)
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    async def _begin(self) -> None:
        await self._hub.blocking(self._feed.poll)
        self.told = self._feed.last_event_id

    @abstractmethod
    def tell(self, found: list[Any]) -> None:
        """Put what a poll found into the listeners' buffers."""

    def leave(self, listener: Listener) -> None:
        self.listeners.discard(listener)

    async def _run(self) -> None:
        """Polls until there is nothing more to tell, or nobody to tell it."""
        try:
            while self.listeners:
                await asyncio.sleep(POLL_SECONDS)
                try:
                    found = await self._hub.blocking(self._feed.poll)
                except StoreUnavailable:
                    continue  # the feed has not moved on: nothing is lost, it asks again
                self.told = self._feed.last_event_id
                self.tell(found)
                if self._feed.ended:
                    return
        except Exception:
            log.exception("a stream's feed failed; its clients connect again")
        finally:
            self._hub.forget(self)
            for listener in self.listeners:
                listener.close()


class SweepChannel(Channel):
    def __init__(self, store: Store, sweep_id: str, hub: Hub) -> None:
        self._sweep = SweepFeed(store, sweep_id)
        super().__init__(self._sweep, hub)
        self._opening: tuple[int, asyncio.Task[bytes]] | None = None
        self._polls = 0

    def tell(self, found: list[Message]) -> None:
        self._polls += 1
        if found:
            chunk = b"".join(message.encode() for message in found)
            for listener in self.listeners:
                listener.put(chunk, self.told)

    async def opening(self) -> bytes:
        """The opening messages: read once for all who come between two polls."""
        if self._opening is None or self._opening[0] != self._polls:

            async def read() -> bytes:
                found = await self._hub.blocking(self._sweep.opening)
                return b"".join(message.encode() for message in found)

            self._opening = (self._polls, asyncio.ensure_future(read()))
        return await asyncio.shield(self._opening[1])


class EventChannel(Channel):
    def __init__(self, store: Store, hub: Hub) -> None:
        self.feed = EventFeed(store)
        super().__init__(self.feed, hub)

    def tell(self, found: list[tuple[Event, str, Message]]) -> None:
        encoded = [(event, project, message.encode()) for event, project, message in found]
        for listener in self.listeners:
            for event, project, chunk in encoded:
                if listener.accepts(event, project):
                    listener.put(chunk, event.id)


@dataclass(frozen=True)
class Live:
    """A client's stream: its bytes, and what has to be called when it is gone."""

    chunks: AsyncIterator[bytes]
    leave: Callable[[], None]


class Hub:
    """All channels of a process. For its event loop only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limiter: CapacityLimiter | None = None
        self._sweeps: dict[str, SweepChannel] = {}
        self._events: EventChannel | None = None
        self._closed = False

    async def blocking(self, work: Callable[[], Any]) -> Any:
        """Run `work` in one of the streams' threads."""
        if self._limiter is None:
            self._limiter = CapacityLimiter(READS_AT_ONCE)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    def forget(self, channel: Channel) -> None:
        """A channel that ends: who comes next gets a new one."""
        self._sweeps = {id: c for id, c in self._sweeps.items() if c is not channel}
        if self._events is channel:
            self._events = None

    def close(self) -> None:
        """The server ends: all streams end, and clients connect again elsewhere."""
        self._closed = True
        for channel in (*self._sweeps.values(), self._events):
            for listener in channel.listeners if channel is not None else ():
                listener.close()

    @property
    def listeners(self) -> int:
        """How many clients listen now."""
        channels = (*self._sweeps.values(), self._events)
        return sum(len(channel.listeners) for channel in channels if channel is not None)

    async def sweep(self, sweep_id: str, last_event_id: int | None) -> Live:
        """A sweep's stream for one client, which has heard of it from here on. Raises NotFound."""
        channel = self._sweeps.get(sweep_id)
        if channel is None:
            channel = self._sweeps[sweep_id] = SweepChannel(self._store, sweep_id, self)

        def after(event_id: int) -> list[tuple[int, bytes]]:
            found = self._store.events_after(sweep_id, event_id, limit=EVENTS_A_QUERY)
            return [(event.id, event_message(event).encode()) for event in found]

        trimmed = partial(self._store.live.trimmed, sweep_id)
        return await self._listen(
            channel, Listener(), after, trimmed, last_event_id, channel.opening
        )

    async def events(
        self,
        sees: Callable[[str], bool],
        types: Collection[str] | None,
        last_event_id: int | None,
    ) -> Live:
        """All events of projects that `sees` holds for, of some types or of all, for one client."""

        def accepts(event: Event, project: str) -> bool:
            return sees(project) and (types is None or event.type in types)

        channel = self._events = self._events or EventChannel(self._store, self)

        def after(event_id: int) -> list[tuple[int, bytes]]:
            return [
                (event.id, message.encode() if accepts(event, project) else b"")
                for event, project, message in channel.feed.after(event_id)
            ]

        return await self._listen(
            channel, Listener(accepts), after, self._store.live.trimmed, last_event_id, None
        )

    async def _listen(
        self,
        channel: Channel,
        listener: Listener,
        after: Callable[[int], list[tuple[int, bytes]]],
        trimmed: Callable[[], int],
        last_event_id: int | None,
        opening: Callable[[], Awaitable[bytes]] | None,
    ) -> Live:
        try:
            await channel.join(listener)
        except BaseException:
            if not channel.listeners:
                self.forget(channel)
            raise
        told = channel.told
        if self._closed:
            listener.close()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"retry: 500\n\n"
            async for chunk in self._missed(after, trimmed, last_event_id, told):
                yield chunk
            if opening is not None:
                yield await opening()
            async for chunk in listener.chunks():
                yield chunk

        return Live(chunks(), partial(channel.leave, listener))

    async def _missed(
        self,
        after: Callable[[int], list[tuple[int, bytes]]],
        trimmed: Callable[[], int],
        last: int | None,
        now: int,
    ) -> AsyncIterator[bytes]:
        """Events above `last` up to `now`, which the channel tells no more; page by page, so that
        they wait in the database and not here."""
        if last is None or last >= now:
            return
        if last < await self.blocking(trimmed):
            yield reset("events before this are no longer kept", now).encode()
            return
        at = last
        while at < now:
            found = await self.blocking(partial(after, at))
            chunk = b"".join(text for id, text in found if id <= now)
            if chunk:
                yield chunk
            if len(found) < EVENTS_A_QUERY:
                return
            at = found[-1][0]
