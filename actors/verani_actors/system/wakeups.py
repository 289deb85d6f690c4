"""The wakeups that actors asked for, on one timer of the event loop.

It does not send anything: whatever is due is handed to the `deliver` function it was given.

Invariants:
- Wakeups of one deadline are delivered in the order they were requested (the heap entry is deadline, number).
- Nothing of a dropped owner stays: the heap holds numbers only, at most `SLACK` more than twice the pending ones.
- At most one timer is armed, for the earliest deadline or before it.
"""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from thespian.system.timing import timePeriodSeconds

__all__ = ["Wakeups"]

# Stale heap entries that are not worth a clean-up.
SLACK = 64
# The longest single sleep: an infinite or absurd period must not reach the selector.
MAX_SLEEP = 86_400.0


@dataclass(frozen=True, slots=True)
class _Wakeup:
    owner: str
    period: timedelta | float
    payload: object


class Wakeups:
    """Hold wakeups until they are due and call `deliver(owner, period, payload)` for each, on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[str, timedelta | float, object], None],
    ) -> None:
        self._loop = loop
        self._deliver = deliver
        self._heap: list[tuple[float, int]] = []
        self._pending: dict[int, _Wakeup] = {}
        self._owned: dict[str, set[int]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, owner: str, period: timedelta | float, payload: object) -> None:
        """Deliver after `period` (seconds or timedelta); at once, within this call, if it is not positive."""
        seconds = timePeriodSeconds(period)
        if not seconds > 0:  # NaN included: it would corrupt the heap
            self._deliver(owner, period, payload)
            return
        self._count += 1
        self._pending[self._count] = _Wakeup(owner, period, payload)
        self._owned.setdefault(owner, set()).add(self._count)
        heapq.heappush(self._heap, (self._loop.time() + seconds, self._count))
        self._arm()

    def drop(self, owner: str) -> None:
        """Forget every wakeup of `owner`."""
        numbers = self._owned.pop(owner, None)
        if numbers is None:
            return
        for number in numbers:
            del self._pending[number]
        # Rebuilt only once at least half of it is stale, so a drop stays O(1) on average.
        if len(self._heap) > 2 * len(self._pending) + SLACK:
            self._heap = [entry for entry in self._heap if entry[1] in self._pending]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Forget everything and release the timer."""
        self._heap.clear()
        self._pending.clear()
        self._owned.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        when = min(self._heap[0][0], self._loop.time() + MAX_SLEEP)
        if self._timer is not None:
            # An earlier timer finds nothing due and arms again: cheaper than a cancelled handle each time.
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._heap and self._heap[0][0] <= now:
            number = heapq.heappop(self._heap)[1]
            wakeup = self._pending.pop(number, None)
            if wakeup is not None:
                self._disown(wakeup.owner, number)
                self._deliver(wakeup.owner, wakeup.period, wakeup.payload)
        if self._heap:
            self._arm()

    def _disown(self, owner: str, number: int) -> None:
        numbers = self._owned[owner]
        numbers.discard(number)
        if not numbers:
            del self._owned[owner]
