"""Handle the events of a room one after the other, also past a hook that never ends.

Invariant: one task works at a time. A task whose hook was abandoned takes nothing more; the next one goes on with the
rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

__all__ = ["Mailbox"]

T = TypeVar("T")


class Mailbox(Generic[T]):
    """The events that wait, and the task that handles them; there is one while something waits."""

    def __init__(self, handle: Callable[[T], Awaitable[bool]]) -> None:
        """`handle` returns False where its hook was abandoned, as `Engine.handle` does."""
        self._handle = handle
        self._waiting: deque[T] = deque()
        self.worker: asyncio.Task[None] | None = None
        self.abandoned: list[asyncio.Task[None]] = []

    def __iter__(self) -> Iterator[T]:
        return iter(self._waiting)

    def put(self, event: T) -> None:
        """Handle an event after all that wait."""
        self._waiting.append(event)
        if self.worker is None or self.worker.done():
            self._start()

    def put_back(self, event: T) -> None:
        """Handle an event before all that wait; for `handle`, which is called with it again."""
        self._waiting.appendleft(event)

    def _start(self) -> None:
        self.worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            if not await self._handle(self._waiting.popleft()):
                return

    def resume(self) -> None:
        """Go on without the task whose hook was abandoned (`Engine.expire`)."""
        assert self.worker is not None
        self.abandoned.append(self.worker)
        self._start()

    @property
    def is_quiet(self) -> bool:
        """True if nothing is handled and nothing waits."""
        return not self._waiting and (self.worker is None or self.worker.done())

    def check(self) -> None:
        """Raise what `handle` raised."""
        if self.worker is not None and self.worker.done():
            self.worker.result()

    async def until_quiet(self, *, patience: float | None = None) -> None:
        """Wait until all is handled; not longer than `patience` seconds, if given."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.worker is not None and not self.worker.done():
                    await asyncio.wait((self.worker,))

    async def end(self, *, patience: float) -> None:
        """Cancel all tasks, and give each so many seconds to end."""
        for task in (self.worker, *self.abandoned):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,), timeout=patience)
