"""Obey the signals that stop a process from its start on; `verani_gateway.service.early` does so before."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from verani_actors.upkeep.ending import START_GRACE, end_in

from .early import stop_signals

__all__ = ["StopSignals", "stopping"]


class StopSignals:
    """What the stop signals do while a process serves: the first stops it, the second ends it at once.

    These are handlers of the interpreter, not of the loop: a hook that blocks the loop must not keep the second signal
    from ending the process, nor the first one before there is anything that could be lost.
    """

    def __init__(self, stop: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self._stopping = False
        self._started = False

    def started(self) -> None:
        """Take note that clients may have come by now: a stop has its time from here on."""
        self._started = True

    def handle(self, number: int, _: FrameType | None) -> None:
        """Be the handler."""
        if self._stopping:
            # Whoever sends a second signal wants the end now. Raising or `sys.exit` would still run
            # `finally` blocks and wait for threads; 128 + number is how a shell reports such a death.
            os._exit(128 + number)
        self._stopping = True
        if not self._started:
            end_in(START_GRACE, 0)
        self._loop.call_soon_threadsafe(self._stop)


@contextmanager
def stopping(stop: Callable[[], object]) -> Iterator[StopSignals]:
    """Call `stop` in the event loop at the first stop signal; end the process at the second."""
    signals = StopSignals(stop)
    before = {number: signal.signal(number, signals.handle) for number in stop_signals()}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            # None is a handler that C code set; Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
