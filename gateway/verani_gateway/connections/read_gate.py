"""Stop the reading of one connection until there is reason to look again."""

from __future__ import annotations

import asyncio

from .intake import Intake

__all__ = ["ReadGate"]


class ReadGate:
    """Where a connection waits before it reads on: in its task, or, while the gate `is_shut`, without one."""

    __slots__ = ("_intake", "is_shut", "stopped")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        # Set while the task of the connection waits.
        self.stopped: asyncio.Future[None] | None = None
        self.is_shut = False

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
        """Have the connection look again, if it waits."""
        if self.stopped is not None and not self.stopped.done():
            self.stopped.set_result(None)
        if self.is_shut:
            self.is_shut = False
            asyncio.get_running_loop().call_soon(self._intake.look)
