"""Tick all connections periodically, a slice in each pass of the loop, so that sockets never wait for all of them.

Invariant: nothing that goes wrong for one connection ends the ticks of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, Protocol

from verani.settings import Settings

__all__ = ["SLICE", "Ticked", "Ticker"]

# The longest period, in seconds.
_LONGEST: Final = 1.0

# Connections that are ticked in one go, 50 us, which is what a frame waits at most that comes meanwhile; and into how
# many slices a round is divided at most, as each takes a pass of the loop.
SLICE: Final = 64
_SLICES: Final = 256


class Ticked(Protocol):
    """What is ticked."""

    def tick(self, now: float) -> None:
        """Do what is due by the loop's clock."""


class Ticker:
    """The clock of all connections; `sweep` is called once each period."""

    def __init__(self, settings: Settings, ticked: Mapping[str, Ticked], sweep: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticked = ticked
        self._sweep = sweep
        # As often as what is shortest needs.
        self.period = min(_LONGEST, settings.ping_interval / 4, settings.pong_timeout / 4, settings.max_unread / 4)
        self._timer: asyncio.TimerHandle | None = None
        # The rest of the round that is under way.
        self._round: asyncio.Handle | None = None

    def tick(self) -> None:
        """Begin a round, unless one is under way, and the next one after a period."""
        # First, so that nothing that goes wrong below ends the keepalive of all.
        self._timer = self._loop.call_later(self.period, self.tick)
        if self._round is None:
            ticked = tuple(self._ticked.values())
            self._tick_some(iter(ticked), max(SLICE, len(ticked) // _SLICES))
        self._sweep(self._loop.time())

    def _tick_some(self, left: Iterator[Ticked], size: int) -> None:
        now, some = self._loop.time(), list(islice(left, size))
        # First, as above.
        self._round = self._loop.call_soon(self._tick_some, left, size) if some else None
        for each in some:
            each.tick(now)

    def stop(self) -> None:
        """Tick no more."""
        for timer in (self._timer, self._round):
            if timer is not None:
                timer.cancel()
