"""Give up a start that takes long, because a stop has come first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

__all__ = ["START_GRACE", "Stopped", "unless_stopped"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

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
