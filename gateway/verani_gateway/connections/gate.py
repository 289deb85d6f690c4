"""Stop the reading of one connection until there is reason to look again."""

from __future__ import annotations

import asyncio

from .intake import Intake

__all__ = ["Gate"]


class Gate:
    """The one place where the reader of a connection waits, and nothing else does."""

    __slots__ = ("_intake", "stopped")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        # Set while the reader waits.
        self.stopped: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait until `resume`."""
        self.stopped = asyncio.get_running_loop().create_future()
        try:
            await self.stopped
        finally:
            self.stopped = None

    async def pause(self, seconds: float) -> None:
        """Leave the socket unread for this long, or until `resume`."""
        self._intake.hold()
        timer = asyncio.get_running_loop().call_later(seconds, self.resume)
        try:
            await self.wait()
        finally:
            timer.cancel()

    def resume(self) -> None:
        """Have the reader look again, if it waits."""
        if self.stopped is not None and not self.stopped.done():
            self.stopped.set_result(None)
