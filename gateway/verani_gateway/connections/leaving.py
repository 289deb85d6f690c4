"""Leave for a restart: close all connections, and wait until their rooms have heard of it.

Connections are closed in batches, so that clients do not all come back at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from .connection import Connection

__all__ = ["Leaving"]

logger = logging.getLogger(__name__)

# So many connections are closed at once, and so long a pause follows, in seconds.
BATCH = 200
PAUSE = 0.05

# What hooks get to answer, at most for each batch, and how often it is looked whether they have, in seconds.
_ANSWER_GRACE = 1.0
_ANSWER_LOOK = 0.005


class Leaving:
    """The end of one gateway; `progress` is to be set whenever there may be nothing left that a drain waits for."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self.progress = asyncio.Event()
        self._connections = connections
        self._until: float | None = None

    def left(self, drain_seconds: float) -> float:
        """Say how many seconds a stop may still take; the first call starts the clock."""
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + drain_seconds
        return self._until - now

    async def drain(self, drain_seconds: float, is_over: Callable[[], bool], *, answers: bool) -> None:
        """Close all connections with 1012 and return when `is_over`, or when the time is.

        With `answers`, each is closed at a moment when it waits for none, if there soon is such a moment; without,
        nothing that clients send is read any more, so their close frames are not waited for.
        """
        try:
            async with asyncio.timeout(self.left(drain_seconds)):
                await self._close_all(answers)
                while self._connections or not is_over():
                    self.progress.clear()
                    await self.progress.wait()
        except TimeoutError:
            logger.warning("%d connections were left at the end of the drain", len(self._connections))

    async def _close_all(self, answers: bool) -> None:
        while batch := [each for each in self._connections.values() if not each.closing.is_sent][:BATCH]:
            if answers:
                await _answer(batch)
            for connection in batch:
                connection.closing.leave()
                if not answers:
                    connection.closing.hang_up()
            await asyncio.sleep(PAUSE)


async def _answer(connections: Sequence[Connection]) -> None:
    now = asyncio.get_running_loop().time
    until = now() + _ANSWER_GRACE
    while now() < until and (waiting := [each for each in connections if not each.closing.is_sent]):
        for connection in waiting:
            if not connection.in_flight.count:
                connection.closing.leave()
        await asyncio.sleep(_ANSWER_LOOK)
