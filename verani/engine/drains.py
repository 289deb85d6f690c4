"""Wait until gateways have written what was sent to a connection."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from ..link import messages
from ..room.session import Session
from .hook_run import Turn
from .outputs import Outputs
from .roster import Roster

__all__ = ["Drains"]

# Never used twice in a process, so a late answer cannot mean a later question of the room's next incarnation.
_tokens = itertools.count(1)


class Drains:
    """The drains that gateways have not answered yet."""

    def __init__(self, turn: Turn, roster: Roster[Any], outputs: Outputs[Any]) -> None:
        self._turn = turn
        self._roster = roster
        self._outputs = outputs
        # With the gateway that is asked.
        self._waiting: dict[int, tuple[str, asyncio.Future[None]]] = {}

    async def drain(self, session: Session[Any]) -> None:
        """Wait until the gateway has written everything that was sent to a connection, or the connection is gone."""
        self._turn.check_awake()
        if not self._roster.has(session.id):
            return
        token = next(_tokens)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[token] = (session.gateway, future)
        try:
            self._outputs.put(session.gateway, messages.Drain(session.id, token))
            await future
        finally:
            self._waiting.pop(token, None)

    def drained(self, token: int) -> None:
        """Take the answer of a gateway."""
        _, future = self._waiting.get(token, (None, None))
        if future is not None and not future.done():
            future.set_result(None)

    def lost(self, gateway: str) -> None:
        """Answer for a gateway that is gone."""
        for token, (asked, _) in tuple(self._waiting.items()):
            if asked == gateway:
                self.drained(token)

    def end(self) -> None:
        """Answer everything."""
        for token in tuple(self._waiting):
            self.drained(token)
        self._waiting.clear()
