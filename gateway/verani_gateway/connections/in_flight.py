"""Hold up a connection whose room has not processed what it has sent."""

from __future__ import annotations

from collections.abc import Callable

from ..inputs.congestion import Congestion
from .close_handshake import CloseHandshake

__all__ = ["MAX_IN_FLIGHT", "MAX_IN_FLIGHT_BYTES", "InFlight"]

# In flight per connection (design section 7); beyond, its socket is not read.
MAX_IN_FLIGHT = 16
MAX_IN_FLIGHT_BYTES = 64 << 10


class InFlight:
    """The inputs of one connection that its room has not processed."""

    __slots__ = ("_closing", "_congestion", "_gate", "_now", "_room", "bytes", "count", "since")

    def __init__(self, room: str, congestion: Congestion, closing: CloseHandshake, now: Callable[[], float]) -> None:
        self.count = 0
        self.bytes = 0
        # Since when the socket is unread because of them.
        self.since: float | None = None
        self._room = room
        self._congestion = congestion
        self._gate = closing.gate
        self._closing = closing
        self._now = now

    def charge(self, size: int) -> None:
        """Account for an input that was sent to the room; if there are too many, no more is read until it `goes_on`."""
        self.count += 1
        self.bytes += size
        if (
            self.count >= MAX_IN_FLIGHT
            or self.bytes >= MAX_IN_FLIGHT_BYTES
            or (self._congestion.attachments.in_flight >= self._congestion.least and self.exceed())
        ):
            self.since = self._now()

    def release(self, size: int) -> None:
        """Account for an input that was processed."""
        self.count -= 1
        self.bytes -= size
        if self._gate.is_shut:
            self._gate.resume()

    def exceed(self) -> bool:
        """Tell whether there are too many, of this connection or of its room."""
        return self.count >= MAX_IN_FLIGHT or self.bytes >= MAX_IN_FLIGHT_BYTES or self._congestion.holds_up(self._room)

    def goes_on(self) -> bool:
        """Tell whether the room has caught up, or the connection closes; if not, the gate says when to look again."""
        if self._closing.sent is None and self.exceed() and not self._closing.is_lost:
            self._gate.is_shut = True
            self._congestion.wait_for(self._room, self._gate)
            return False
        self._congestion.wait_no_more(self._room, self._gate)
        self.since = None
        return True
