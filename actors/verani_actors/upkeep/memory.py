"""Set up the garbage collector of a process that serves, and give free memory back to the system.

C's allocator keeps what Python has freed, at best for what comes next: hundreds of MiB that belonged to rooms which
sleep by now. Only glibc can be told; other allocators do as they think best.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Trimmer", "quieten_collector"]

# Allocations and collections; Python's own is (700, 10, 10). Whatever stays is looked at twice, at half the price while
# it is in the caches of the processor, hence few at a time; everything, once in two million allocations.
_THRESHOLD: Final = (1_000, 20, 100)

# Seconds between two looks at least.
_PERIOD: Final = 1.0

# A trim takes about 70 us for each MiB that goes back, on the loop; trims may take this part of the time.
_SHARE: Final = 0.05


def quieten_collector() -> None:
    """Let the garbage collector hold up the loop less; for a process that has loaded all it needs.

    What is here stays, so it need not walk through all modules, tens of milliseconds each time. And connections that
    come and go are freed without it: it hardly ever has to look through all of them for cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLD)


def _find_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


class Trimmer:
    """Trims the allocator after something has ended, and not too often."""

    def __init__(self) -> None:
        self._trim = _find_trim()
        self._ended = 0
        self._next = 0.0

    def look(self, ended: int) -> None:
        """Trim if more has `ended`, counted since the start, than at the last trim; call it every now and then."""
        now = time.monotonic()
        if self._trim is None or ended == self._ended or now < self._next:
            return
        self._ended = ended
        self._trim(0)
        end = time.monotonic()
        self._next = end + max(_PERIOD, (end - now) / _SHARE)
