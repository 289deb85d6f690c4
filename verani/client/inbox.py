"""Carry what a client received to its callbacks and iterators, in order and in bounded memory.

It does not read sockets, know the protocol, or decide when reading stops: it only says when it is full.

Invariants:
1. Callbacks run one at a time, in the order of what they are told; only the task in `Inbox.run` calls them.
2. At most `2 * limit` entries wait in an inbox and `limit` in an iterator; beyond, the oldest are dropped.
3. Until the first iterator is opened, what it will begin with waits too: at most `limit` events and 16 MiB, because
   perhaps nobody ever iterates. What is dropped of it counts once there is an iterator that misses it.
4. Every other drop is counted, logged and told to the `verani.dropped` listeners, many drops in one call.
5. A callback that raises is logged and told to the `error` listeners; the next callback runs.
6. Nothing here refers to the client but callbacks, until `run` has ended, and nothing keeps an exception it raised:
   that has the frames of whoever caught it, and so the client.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, assert_never

from ..errors import fresh
from ..threads import OwnThread

__all__ = ["Event", "EventStream", "Inbox", "Signal", "LIFECYCLE_EVENTS"]

logger = logging.getLogger("verani.client")

Callback = Callable[..., Any]

_MAX_UNCLAIMED_BYTES = 16 * 1024 * 1024  # as what waits in an outbox

# Protocol 11. `error` is missing on purpose: applications may use that name.
LIFECYCLE_EVENTS = frozenset(
    {"open", "connected", "connecting", "close", "disconnected", "reconnecting"},
)
# Listeners of these names are never called for a frame of that name: their arguments are not frame data.
_NOT_FROM_FRAMES = LIFECYCLE_EVENTS | {"*", "verani.dropped"}


@dataclass(frozen=True, slots=True)
class Event:
    """One application event from the server.

    `data` is the whole payload as the server sent it (with the `type` key that `emit` puts into it), None where
    there is none; `channel` is None on frames without a channel.
    """

    type: str
    data: Any
    channel: str | None


@dataclass(frozen=True, slots=True)
class Signal:
    """One life-cycle change of the client itself, with the arguments its listeners get."""

    name: str
    args: tuple[Any, ...]


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


class Inbox:
    """Queue events and signals for callbacks, and run those; `on_space` is called after each one taken out."""

    def __init__(self, limit: int, on_space: Callable[[], None], thread: OwnThread) -> None:
        self._limit = limit
        self._on_space = on_space
        self._thread = thread
        self._entries: deque[Event | Signal] = deque()
        self._callbacks: dict[str, dict[Callback, bool]] = {}
        # Weak: leaving an `async for` early drops the last reference to its iterator, nobody has to close it.
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._unclaimed: EventStream | None = EventStream(limit, thread)
        self._dropped_unclaimed = 0
        self._unreported: Counter[str] = Counter()
        self._finished = False
        self._wake = asyncio.Event()
        self.dropped = 0

    @property
    def full(self) -> bool:
        """Tell whether the reader should stop."""
        return len(self._entries) >= self._limit

    def add(self, event: str, callback: Callback, *, once: bool) -> None:
        """Register a callback; a second registration changes nothing but may make a `once` permanent."""
        registered = self._callbacks.setdefault(event, {})
        registered[callback] = once and registered.get(callback, True)

    def remove(self, event: str, callback: Callback | None) -> None:
        """Forget one callback of an event, or all of them; what is not registered is ignored."""
        registered = self._callbacks.get(event, {})
        if callback is None:
            registered.clear()
        else:
            registered.pop(callback, None)
        if not registered:
            self._callbacks.pop(event, None)

    @property
    def has_streams(self) -> bool:
        """Tell whether somebody may be iterating."""
        return bool(self._streams)

    def open_stream(self) -> EventStream:
        """Return an iterator over every event put from now on; the first one begins with those put before."""
        stream, self._unclaimed = (
            self._unclaimed or EventStream(self._limit, self._thread),
            None,
        )
        stream.claim()
        self._streams.add(stream)
        if self._dropped_unclaimed:
            self.drop("iterator", self._dropped_unclaimed)
            self._dropped_unclaimed = 0
        return stream

    def end_streams(self, failure: Exception | None) -> None:
        """End every iteration, by raising `failure` if there is one."""
        for stream in list(self._streams):
            stream.end(None if failure is None else fresh(failure))
        self._streams.clear()

    def put(self, entry: Event | Signal, size: int = 0) -> None:
        """Queue one entry of `size` bytes, dropping the oldest if twice the limit wait already."""
        if isinstance(entry, Event):
            if self._unclaimed is not None:
                self._dropped_unclaimed += self._unclaimed.put(entry, size)
            for stream in list(self._streams):
                self.drop("iterator", stream.put(entry, size))
        if len(self._entries) >= 2 * self._limit:
            self._entries.popleft()
            self.drop("inbox")
        self._entries.append(entry)
        self._wake.set()

    def drop(self, where: str, count: int = 1) -> None:
        """Count entries lost in `where`, to be reported by the next turn of `run`."""
        if not count:
            return
        self.dropped += count
        self._unreported[where] += count
        self._wake.set()

    def finish(self) -> None:
        """Let `run` return once everything queued has been told."""
        self._finished = True
        self._wake.set()

    async def run(self) -> None:
        """Tell callbacks what is queued, until `finish`; then forget them."""
        try:
            await self._tell_all()
        finally:
            self._callbacks.clear()

    async def _tell_all(self) -> None:
        while True:
            await self._report_drops()
            if self._entries:
                entry = self._entries.popleft()
                self._on_space()
                await self._tell(entry)
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
            await self._call("verani.dropped", where, count)
        # A listener that emits may cause the next drop: without this it would hold the loop for ever.
        await asyncio.sleep(0)

    async def _tell(self, entry: Event | Signal) -> None:
        match entry:
            case Event():
                if entry.type not in _NOT_FROM_FRAMES:
                    await self._call(entry.type, entry.data)
                await self._call("*", entry)
            case Signal():
                await self._call(entry.name, *entry.args)
            case _:
                assert_never(entry)

    async def _call(self, event: str, *args: Any) -> None:
        for callback, once in list(self._callbacks.get(event, {}).items()):
            if callback not in self._callbacks.get(event, {}):
                continue  # an earlier callback of this round removed it
            if once:
                self.remove(event, callback)
            try:
                result = callback(*args)
                if inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Nobody cancelled us: the callback awaited something that was cancelled.
                await self._callback_failed(event, exc)
            except Exception as exc:  # noqa: BLE001 - logged with its traceback below
                # The hook runner: a user's exception must not end the client.
                await self._callback_failed(event, exc)

    async def _callback_failed(self, event: str, error: BaseException) -> None:
        logger.error("callback of %r raised", event, exc_info=error)
        if event != "error":  # an error listener that raises is not told about itself
            await self._call("error", error)
