"""Notice that the event loop is blocked, log the stack that blocks it, and tell whoever can do something about it.

A blocking hook cannot be cut. The watchdog is a thread that looks at a heartbeat of the loop; it stops nothing itself.
Time in which the whole process stands still (SIGSTOP, a suspended machine) does not count.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from math import ceil

__all__ = ["Watchdog"]

logger = logging.getLogger(__name__)


class Watchdog:
    """Log once per blockage longer than `patience` seconds."""

    def __init__(self, patience: float, blocked: Callable[[str], None] | None = None) -> None:
        """Be patient for so many seconds; `blocked` is called in the watchdog's thread, with the stack."""
        self._patience = patience
        self._blocked = blocked
        self._period = min(1.0, patience / 4)
        self._beat = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the running loop, in whose thread this is called."""
        loop = asyncio.get_running_loop()
        self._heart(loop)
        watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(watched,), name="verani-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; returns when it has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _heart(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat = time.monotonic()
        self._timer = loop.call_later(self._period, self._heart, loop)

    def _watch(self, watched: int) -> None:
        last, missed = self._beat, 0
        while not self._stopped.wait(self._period):
            beat = self._beat
            missed = missed + 1 if beat == last else 0
            last = beat
            # Looks that were missed, and not only the time since: this thread may have stood still itself.
            if missed != ceil(self._patience / self._period):
                continue
            frame = sys._current_frames().get(watched)
            stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
            logger.error("the event loop has been blocked for more than %g s:\n%s", self._patience, stack)
            if self._blocked is not None:
                self._blocked(stack)
