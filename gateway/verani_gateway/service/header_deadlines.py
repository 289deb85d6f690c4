"""Close connections that have sent no complete header in time, with one timer for all of them.

A timer of its own costs a connection more than all else that is done when it is accepted, and hardly any runs out.

Invariant: there is a timer exactly while a connection waits, for the one that came first.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["HeaderDeadlines", "Unheard"]


class Unheard(Protocol):
    """A connection whose first header is not complete."""

    def is_late(self) -> None:
        """Close it: its time is over."""


class HeaderDeadlines:
    """The connections of one listener that may take so many `seconds` for their first header."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        # In the order in which they are due.
        self._due: dict[Unheard, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Unheard) -> None:
        """Wait for the header of a new connection."""
        due = self._due[connection] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def discard(self, connection: Unheard) -> None:
        """Wait no more: it is complete, or the connection is gone."""
        if self._due.pop(connection, None) is not None and not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        late = []
        for connection, due in self._due.items():
            if due > now:
                self._timer = self._loop.call_at(due, self._look)
                break
            late.append(connection)
        for connection in late:
            del self._due[connection]
            self._loop.call_soon(connection.is_late)
