"""Carry events to iterators, each with a queue of its own in bounded memory.

Invariants:
1. At most `limit` events wait in an iterator; beyond, the oldest are dropped and counted.
2. Until the first iterator is opened, what it will begin with waits too: at most `limit` events and 16 MiB, because
   perhaps nobody ever iterates. What is dropped of it counts once there is an iterator that misses it.
3. An exception that was raised is not kept: it has the frames of whoever caught it, and so the client.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator

from ..errors import fresh
from ..threads import OwnThread
from .events import Event

__all__ = ["EventStream", "EventStreams"]

_MAX_UNCLAIMED_BYTES = 16 * 1024 * 1024  # as what waits in an outbox


class EventStream(AsyncIterator[Event]):
    """Iterate over events until the client ends; raise what ended it, where that was a failure."""

    def __init__(self, limit: int, thread: OwnThread) -> None:
        self._limit = limit
        self._thread = thread
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._claimed = False
        self._ended = False
        self._failure: Exception | None = None
        self._wake = asyncio.Event()

    def put(self, event: Event, size: int) -> int:
        """Keep an event of `size` bytes for the iterating task; count the oldest ones that it had to drop for it."""
        self._events.append((event, size))
        self._bytes += size
        dropped = 0
        while len(self._events) > 1 and self._is_over_limit():
            self._pop()
            dropped += 1
        self._wake.set()
        return dropped

    def claim(self) -> None:
        """Let it grow to its full limit: somebody iterates."""
        self._claimed = True

    def end(self, failure: Exception | None) -> None:
        """Stop the iteration, or raise `failure` in it, behind the events that already wait; the first call counts."""
        if not self._ended:
            self._ended, self._failure = True, failure
            self._wake.set()

    def _is_over_limit(self) -> bool:
        return len(self._events) > self._limit or (not self._claimed and self._bytes > _MAX_UNCLAIMED_BYTES)

    def _pop(self) -> Event:
        event, size = self._events.popleft()
        self._bytes -= size
        return event

    def _take_failure(self, failure: Exception) -> Exception:
        self._failure = fresh(failure)
        return failure

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        self._thread.check("async for", "iterate in the client's own thread, and hand the events on from there")
        while not self._events:
            if self._failure is not None:
                raise self._take_failure(self._failure)
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._pop()


class EventStreams:
    """The iterators of one client."""

    def __init__(self, limit: int, thread: OwnThread) -> None:
        self._limit = limit
        self._thread = thread
        # Weak: leaving an `async for` early drops the last reference to its iterator, nobody has to close it.
        self._open: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._unclaimed: EventStream | None = EventStream(limit, thread)
        self._dropped_unclaimed = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> tuple[EventStream, int]:
        """Return an iterator over every event put from now on, and how many it misses that were dropped before.

        The first one begins with the events put before.
        """
        stream, self._unclaimed = self._unclaimed or EventStream(self._limit, self._thread), None
        stream.claim()
        self._open.add(stream)
        missed, self._dropped_unclaimed = self._dropped_unclaimed, 0
        return stream, missed

    def put(self, event: Event, size: int) -> int:
        """Queue an event of `size` bytes in every iterator; return how many that are open had to drop for it."""
        if self._unclaimed is not None:
            self._dropped_unclaimed += self._unclaimed.put(event, size)
        return sum(stream.put(event, size) for stream in list(self._open))

    def end(self, failure: Exception | None) -> None:
        """End every iteration, by raising `failure` if there is one."""
        for stream in list(self._open):
            stream.end(None if failure is None else fresh(failure))
        self._open.clear()
