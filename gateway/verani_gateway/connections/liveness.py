"""Find out whether the peer of one connection is still there, and have it know that the server is."""

from __future__ import annotations

from typing import Final

from verani import frames
from verani.settings import Settings

from .outbox import Outbox, control_frame, text_frame

__all__ = ["UNREAD_PONG", "Liveness"]

# How often an unread client is told that the server lives; the original client gives up after 10 s.
UNREAD_PONG = 4.0

_PING: Final = control_frame(9, b"")
_PONG_FRAME: Final = text_frame(frames.PONG)


class Liveness:
    """Pings and pongs of one connection; times are seconds of the loop's clock."""

    __slots__ = ("_outbox", "_ping_interval", "_pinged_at", "_pong_at", "_pong_timeout", "since")

    def __init__(self, settings: Settings, outbox: Outbox, now: float) -> None:
        self._ping_interval = settings.ping_interval
        self._pong_timeout = settings.pong_timeout
        self._outbox = outbox
        # When the connection began, and when the last ping left.
        self.since = now
        self._pinged_at: float | None = None
        self._pong_at = now

    def pong(self, now: float) -> None:
        """Answer a ping of the client's, or tell it that the server lives."""
        self._pong_at = now
        self._outbox.put(_PONG_FRAME)

    def give_sign(self, now: float) -> None:
        """Send an unsolicited pong if the last one is long ago."""
        if now - self._pong_at >= UNREAD_PONG:
            self.pong(now)

    def tick(self, now: float, seen_at: float) -> bool:
        """Ping a peer of which nothing was read since `seen_at`; False if it has not answered in time."""
        if self._pinged_at is not None and self._pinged_at > seen_at:
            return now - self._pinged_at <= self._pong_timeout
        if now - seen_at > self._ping_interval:
            self._pinged_at = now
            self._outbox.put(_PING)
        return True
