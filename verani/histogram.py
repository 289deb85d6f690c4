"""Count durations in buckets: plain numbers, so that what is counted in the way of a frame costs no call of ours."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

__all__ = ["BOUNDS", "Histogram"]

# The longest durations that each bucket holds, in seconds; the last bucket holds all that is longer. Hooks that do not
# wait take microseconds, those that ask a database milliseconds, and `hook_timeout` is 30 s by default.
BOUNDS: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)


class Histogram:
    """How long something took, each time: how often it fell in each bucket, and all of it together in seconds."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds
