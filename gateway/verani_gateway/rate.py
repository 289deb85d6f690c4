"""Meter one connection: a token bucket for frames, a window for invalid ones.

Time is passed in, in seconds of any monotonic clock. What happens beyond the limit is the connection's choice.
"""

from __future__ import annotations

from collections import deque

__all__ = ["INVALID_WINDOW", "InvalidFrames", "TokenBucket"]

# Protocol 7: invalid frames count for this long.
INVALID_WINDOW = 60.0


class TokenBucket:
    """Allow `rate` frames a second and `burst` at once."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take one token if there is one; return 0, or how many seconds are missing for one."""
        tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if tokens >= 1:
            self._tokens = tokens - 1
            return 0.0
        self._tokens = tokens
        return (1 - tokens) / self._rate


class InvalidFrames:
    """Count invalid frames of the last minute."""

    __slots__ = ("_limit", "_times")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: deque[float] = deque(maxlen=max(1, limit))

    def add(self, now: float) -> bool:
        """Count one; True if the limit within the window is reached (never, if the limit is 0)."""
        if not self._limit:
            return False
        self._times.append(now)
        return len(self._times) == self._limit and now - self._times[0] <= INVALID_WINDOW
