"""End a process although something hangs: give up a start when a stop comes first, and exit after a while."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

__all__ = ["EXIT_GRACE", "START_GRACE", "Stopped", "end_in", "unless_stopped"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds for what is to end while nobody waits for it any more, or what has nothing to finish.
EXIT_GRACE: Final = 2.0
# What a start that is given up gets in all, in seconds: a hook may block the loop, or leave threads behind.
START_GRACE: Final = 1.2
# The part of it that hooks get to end once they are cancelled.
_CANCEL_GRACE: Final = 0.6


class Stopped(Exception):
    """A stop came before the start was over."""


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do a part of the start; raises `Stopped` if `stop` comes first: it was cancelled then, and has ended or hangs."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.wait((working,), timeout=_CANCEL_GRACE)
    finally:
        waiting.cancel()
    if working.done() and not working.cancelled() and (error := working.exception()) is not None:
        logger.warning("the start was given up, and failed: %r", error)
    raise Stopped


def end_in(seconds: float, code: int) -> None:
    """End this process with an exit code after so many seconds: a hook may block, or a thread never end."""
    end = threading.Timer(seconds, os._exit, (code,))
    end.daemon = True
    end.start()
