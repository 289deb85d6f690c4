"""Keep the frames of a client until its connection takes them, in order and in bounded memory.

It does not write to sockets or measure deadlines.

Invariants:
1. Without a connection at most `max_frames` frames wait; with or without one at most 16 MiB (or one larger frame).
   Beyond, the oldest are dropped and `on_drop` is called. With one the number is free: a burst is about to leave.
2. A request whose frame was taken is `sent`; one whose frame was dropped fails with `NotSent`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .requests import NotSent, Request

__all__ = ["QueuedFrame", "SendQueue"]

_MAX_BYTES = 16 * 1024 * 1024  # as the unsent data of a link, design 7.5
_OVERHEAD = 256  # what a waiting frame costs besides its payload, roughly


@dataclass(frozen=True, slots=True, eq=False)
class QueuedFrame:
    """One encoded frame, and the request it asks, if any."""

    payload: bytes
    request: Request | None = None

    @property
    def cost(self) -> int:
        """Bytes of memory, roughly."""
        return len(self.payload) + _OVERHEAD


class SendQueue:
    """Queue frames for one writer at a time."""

    def __init__(self, max_frames: int, on_drop: Callable[[], None]) -> None:
        self._max_frames = max_frames
        self._on_drop = on_drop
        self._frames: deque[QueuedFrame] = deque()
        self._bytes = 0
        self._connected = False
        self._writing = False
        # The size of the largest frame that this connection was given.
        self.largest = 0
        self._work = asyncio.Event()
        self._progress = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def flushed(self) -> bool:
        """Tell whether nothing waits and nothing is being written."""
        return not self._frames and not self._writing

    def put(self, frame: QueuedFrame) -> None:
        """Queue one frame, dropping the oldest if there is no space."""
        self._frames.append(frame)
        self._bytes += frame.cost
        self._trim()
        self._work.set()

    async def ready(self) -> None:
        """Wait until there is a frame; the one taken before counts as written now."""
        self._writing = False
        while not self._frames:
            self._progress.set()
            self._work.clear()
            await self._work.wait()

    def take(self) -> QueuedFrame:
        """Hand out the oldest frame, which is lost if it cannot be written."""
        frame = self._pop()
        self._writing = True
        self.largest = max(self.largest, len(frame.payload))
        if frame.request is not None:
            frame.request.sent = True
            frame.request.size = len(frame.payload)
        return frame

    def connected(self) -> None:
        """Begin handing out: what is queued is about to leave."""
        self._connected = True
        self.largest = 0

    def disconnected(self) -> None:
        """Stop handing out: what is queued has to wait."""
        self._connected = self._writing = False
        self._trim()
        self._progress.set()

    async def progress(self) -> None:
        """Wait until `flushed` may have become true, or `wake`."""
        self._progress.clear()
        await self._progress.wait()

    def wake(self) -> None:
        """Let those who wait for progress look again."""
        self._progress.set()

    def withdraw(self, frame: QueuedFrame) -> None:
        """Take a frame back if it still waits."""
        if frame in self._frames:
            self._frames.remove(frame)
            self._bytes -= frame.cost

    def clear(self) -> None:
        """Drop everything."""
        while self._frames:
            self._drop_oldest("the client is closed")

    def _trim(self) -> None:
        while len(self._frames) > 1 and self._is_full():
            self._drop_oldest("the queue is full")

    def _is_full(self) -> bool:
        return self._bytes > _MAX_BYTES or (len(self._frames) > self._max_frames and not self._connected)

    def _drop_oldest(self, why: str) -> None:
        frame = self._pop()
        if frame.request is None:
            self._on_drop()
        else:  # its caller is told, that is report enough
            frame.request.fail(NotSent(f"the request was not sent: {why}"))

    def _pop(self) -> QueuedFrame:
        frame = self._frames.popleft()
        self._bytes -= frame.cost
        return frame
