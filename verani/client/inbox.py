"""Queue what a client learns for its callbacks and iterators, in order and in bounded memory.

It does not read sockets, know the protocol, or decide when reading stops: it only says when it is full.

Invariants:
1. Callbacks run one at a time, in the order of arrival; only the inbox's own task calls them.
2. At most `2 * limit` entries wait for callbacks; beyond, the oldest are dropped.
3. Every drop is counted, logged and reported to the `verani.dropped` listeners, many drops in one call.
4. Nothing here refers to the client but callbacks, until the task has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import assert_never

from .callbacks import Callbacks
from .client_thread import ClientThread
from .events import LIFECYCLE_EVENTS, Event, Signal
from .streams import EventStream, EventStreams

__all__ = ["Inbox"]

logger = logging.getLogger("verani.client")

# Listeners of these names are never called for a frame of that name: their arguments are not frame data.
_NOT_FROM_FRAMES = LIFECYCLE_EVENTS | {"*", "verani.dropped"}


class Inbox:
    """The queue of one client, and the task that empties it; `on_space` is called after each entry taken out."""

    def __init__(self, limit: int, on_space: Callable[[], None], thread: ClientThread) -> None:
        self._limit = limit
        self._on_space = on_space
        self._entries: deque[Event | Signal] = deque()
        self._unreported: Counter[str] = Counter()
        self._finished = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.callbacks = Callbacks(thread)
        self.streams = EventStreams(limit, thread)
        self.dropped = 0

    @property
    def full(self) -> bool:
        """Tell whether the reader should stop."""
        return len(self._entries) >= self._limit

    def open_stream(self) -> EventStream:
        """Return a new iterator, and report what it misses."""
        stream, missed = self.streams.open()
        self.drop("iterator", missed)
        return stream

    def put(self, entry: Event | Signal, size: int = 0) -> None:
        """Queue one entry of `size` bytes, dropping the oldest if twice the limit wait already."""
        if isinstance(entry, Event):
            self.drop("iterator", self.streams.put(entry, size))
        if len(self._entries) >= 2 * self._limit:
            self._entries.popleft()
            self.drop("inbox")
        self._entries.append(entry)
        self._wake.set()

    def drop(self, where: str, count: int = 1) -> None:
        """Count entries lost in `where`, to be reported by the next turn of the task."""
        if not count:
            return
        self.dropped += count
        self._unreported[where] += count
        self._wake.set()

    def start(self) -> None:
        """Begin to call callbacks; harmless where that has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="verani-client-dispatcher")

    async def finish(self, patience: float) -> None:
        """Wait until callbacks know everything queued, at most `patience` seconds; from a callback, return at once."""
        self._finished = True
        self._wake.set()
        if self._task is not None and self._task is not asyncio.current_task():
            await asyncio.wait({self._task}, timeout=patience)

    async def cancel(self, patience: float) -> None:
        """End the task, unless it is the one that runs; callbacks have `patience` seconds to give in."""
        if self._task is None or self._task is asyncio.current_task():
            return
        self._task.cancel()
        try:
            await asyncio.wait({self._task}, timeout=patience)
        finally:
            self._task = None  # one that was cancelled keeps the frames it ran in, and so the client

    async def _run(self) -> None:
        try:
            await self._call_all()
        finally:
            self.callbacks.clear()

    async def _call_all(self) -> None:
        while True:
            await self._report_drops()
            if self._entries:
                entry = self._entries.popleft()
                self._on_space()
                await self._call(entry)
            elif self._unreported:
                continue
            elif self._finished:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _report_drops(self) -> None:
        if not self._unreported:
            return
        unreported, self._unreported = self._unreported, Counter()
        for where, count in unreported.items():
            logger.warning("dropped %d from the full %s", count, where)
            await self.callbacks.call("verani.dropped", where, count)
        # A listener that emits may cause the next drop: without this it would hold the loop for ever.
        await asyncio.sleep(0)

    async def _call(self, entry: Event | Signal) -> None:
        match entry:
            case Event():
                if entry.type not in _NOT_FROM_FRAMES:
                    await self.callbacks.call(entry.type, entry.data)
                await self.callbacks.call("*", entry)
            case Signal():
                await self.callbacks.call(entry.name, *entry.args)
            case _:
                assert_never(entry)
