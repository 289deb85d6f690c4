"""Keep the last minutes of a service for charts: rates between two looks, in a ring."""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

from verani_actors.operating.activity import Activity

__all__ = ["MAX_SAMPLES", "Sample", "Samples"]

# Ten minutes at a look every two seconds.
MAX_SAMPLES: Final = 300


class Sample(Struct, frozen=True, array_like=True):
    """One point of every chart; `at` is in seconds of the wall clock, rates are per second since the sample before."""

    at: float
    frames: float
    deliveries: float
    connections: int
    awake: int
    asleep: int
    wakes: float


class Samples:
    """The samples of one room of inspectors, the oldest first."""

    def __init__(self) -> None:
        self._ring: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        # What was counted at the last look, and when that was on a clock that never jumps.
        self._last: tuple[float, Activity] | None = None

    def listed(self) -> list[Sample]:
        """List them."""
        return [*self._ring]

    def take(self, activity: Activity, *, now: float, at: float) -> Sample:
        """Make a sample of what is counted `now`; rates are 0 where there is nothing to compare with."""
        before_at, before = self._last or (now, activity)
        self._last = now, activity
        passed = now - before_at

        def rate(count: int, earlier: int) -> float:
            # A process that was started anew counts from 0 again.
            return max(0, count - earlier) / passed if passed > 0 else 0.0

        asleep = activity.rooms.get("asleep", 0)
        sample = Sample(
            at,
            rate(activity.frames, before.frames),
            rate(activity.deliveries, before.deliveries),
            activity.connections,
            sum(activity.rooms.values()) - asleep,
            asleep,
            rate(activity.wakes, before.wakes),
        )
        self._ring.append(sample)
        return sample
