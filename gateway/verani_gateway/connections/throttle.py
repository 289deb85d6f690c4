"""Hold a connection to the rates of its frames: slow it down, drop what is too much, or close it, as the policy says.

Invariant: connections that send much take turns: reading and refusing cost time, too, and a quiet client must not wait
for it.
"""

from __future__ import annotations

from typing import Final

from .close_handshake import CloseHandshake
from .facilities import Facilities
from .liveness import Liveness
from .rate import Meter

__all__ = ["TURN", "Throttle"]

# What one connection may read before others get their turn.
TURN: Final = 4
# How long a connection above its rate pauses at least: a timer for each frame costs more than the frame.
GRAIN: Final = 0.2
# Frames that are read and thrown away in that time, at most.
SKIP: Final = 16
# A flood is over when no frame had to wait for so many seconds.
CALM: Final = 1.0


class Throttle:
    """What happens to one connection that sends more than it may."""

    __slots__ = ("_closing", "_facilities", "_gate", "_liveness", "_skipped", "_throttled_at", "since")

    def __init__(self, facilities: Facilities, closing: CloseHandshake, liveness: Liveness) -> None:
        # Since when frames have had to wait.
        self.since: float | None = None
        self._throttled_at = facilities.now()
        self._skipped = 0
        self._facilities = facilities
        self._gate = closing.gate
        self._closing = closing
        self._liveness = liveness

    async def exceeded(self, meter: Meter, setting: str, size: int) -> bool:
        """Apply the policy to a frame above the rate that `setting` says; False if it is to be dropped."""
        metrics = self._facilities.metrics
        metrics.limited[setting] += 1
        match meter.policy:
            case "close":
                self._closing.close(1008, "too many frames")
                return False
            case "drop":
                metrics.dropped_frames += 1
                await self.skip()
                return False
            case "throttle":
                return await self._wait(meter, size)

    async def _wait(self, meter: Meter, size: int) -> bool:
        facilities = self._facilities
        now = facilities.now()
        if self.since is None:
            self.since = now
        wait = meter.reserve(now, size)
        if wait > facilities.settings.max_unread:  # others of its user or address wait already
            meter.give_back(size)
            facilities.metrics.limited["max_unread"] += 1
            self._closing.close(1008, "too many frames")
            return False
        until = now + max(wait, meter.span(GRAIN))
        while now < until and not self._closing.is_lost and self._closing.sent is None:
            await self._gate.pause(until - now)
            now = facilities.now()
        if now < until:
            meter.give_back(size)
            return False
        await facilities.turns.take()
        self._throttled_at = facilities.now()
        return True

    async def skip(self) -> None:
        """Read what is thrown away anyway no faster than a few frames at a time: reading costs, too."""
        self._skipped += 1
        if self._skipped % SKIP == 0:
            self._liveness.give_sign(self._facilities.now())  # its own pings wait, or are refused
            await self._gate.pause(GRAIN)
            await self._facilities.turns.take()

    def calm_down(self, now: float) -> None:
        """Take note that the flood is over, if it is."""
        if self._gate.stopped is None and now - self._throttled_at > CALM:
            self.since = None
