"""Notice that the event loop is blocked, log the stack that blocks it, and tell whoever can do something about it.

A blocking hook cannot be cut. The watchdog is a thread that looks at a heartbeat of the loop; it stops nothing itself.
Time in which the whole process stands still (SIGSTOP, a suspended machine) does not count.
"""

from __future__ import annotations

import asyncio
import logging
import signal
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

    def __init__(
        self,
        patience: float,
        blocked: Callable[[str], None] | None = None,
        missed: Callable[[], None] | None = None,
        *,
        period: float = 1.0,
    ) -> None:
        """Be patient for so many seconds; look every `period` at least.

        `missed` is called at each look that finds no new heartbeat, `blocked` once when patience is over, with the
        stack; both in the watchdog's thread.
        """
        self._patience = patience
        self._blocked = blocked
        self._missed = missed
        self._period = min(period, patience / 4)
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
        # A signal that this thread took would not interrupt what blocks the other one, which alone can handle it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        last, missed = self._beat, 0
        while not self._stopped.wait(self._period):
            beat = self._beat
            missed = missed + 1 if beat == last else 0
            last = beat
            if missed and self._missed is not None:
                self._missed()
            # Looks that were missed, and not only the time since: this thread may have stood still itself.
            if missed != ceil(self._patience / self._period):
                continue
            stack = traceback.extract_stack(sys._current_frames().get(watched))
            text = "".join(stack.format())
            place = f" in {stack[-1].filename}:{stack[-1].lineno} ({stack[-1].name})" if stack else ""
            record = logger.makeRecord(
                logger.name,
                logging.ERROR,
                *(__file__, 0, "the event loop has been blocked for more than %g s%s", (self._patience, place), None),
                sinfo=text,
            )
            logger.handle(record)
            if self._blocked is not None:
                self._blocked(text)
