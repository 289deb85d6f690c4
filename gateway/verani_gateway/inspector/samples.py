"""Keep the last minutes of a service for charts: rates between two looks, in a ring."""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

from verani_actors.operating.activity import Activity

__all__ = ["LEAST_TIME", "MAX_SAMPLES", "Sample", "Samples", "rate"]

# Ten minutes at a look every two seconds.
MAX_SAMPLES: Final = 300

# Seconds that a rate is of at least: what happened in less says little.
LEAST_TIME: Final = 1.0


class Sample(Struct, frozen=True, array_like=True):
    """One point of every chart; `at` is in seconds of the wall clock.

    `frames`, `deliveries` and `wakes` are per second since the sample before, None where there was none.
    """

    at: float
    frames: float | None
    deliveries: float | None
    connections: int
    awake: int
    asleep: int
    wakes: float | None


class Samples:
    """The samples of one room of inspectors, the oldest first."""

    def __init__(self) -> None:
        self._ring: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        # What was counted at the last look, and when that was on a clock that never jumps.
        self._last: tuple[float, Activity] | None = None

    def listed(self) -> list[Sample]:
        """List them."""
        return [*self._ring]

    def take(self, activity: Activity, *, now: float, at: float) -> Sample | None:
        """Make a sample of what is counted `now`; None where the last one is too new to say how much that is."""
        before_at, before = self._last or (now, activity)
        passed = now - before_at
        if self._last is not None and passed < LEAST_TIME:
            return None
        self._last = now, activity
        asleep = activity.rooms.get("asleep", 0)
        sample = Sample(
            at,
            rate(activity.frames, before.frames, passed),
            rate(activity.deliveries, before.deliveries, passed),
            activity.connections,
            sum(activity.rooms.values()) - asleep,
            asleep,
            rate(activity.wakes, before.wakes, passed),
        )
        self._ring.append(sample)
        return sample


def rate(count: int, before: int, seconds: float) -> float | None:
    """Say how much a second a count has grown, None where no time has passed.

    Who counts from 0 again, as a process does that was started anew, has grown by nothing.
    """
    return max(0, count - before) / seconds if seconds > 0 else None
