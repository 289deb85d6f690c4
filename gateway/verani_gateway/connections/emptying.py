"""Answer hooks that wait until a connection has nothing left to send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from verani.link.messages import Drain, Drained, GatewayMessage

from .outbox import Outbox

__all__ = ["Emptying"]

# How often a socket is looked at, in seconds; asyncio tells nobody when a transport runs empty but its protocol, which
# is aiohttp's.
_LOOK: Final = 0.05


class Emptying:
    """The hooks that wait at one gateway; it looks only while any does."""

    def __init__(self, outboxes: Mapping[str, Outbox]) -> None:
        self._outboxes = outboxes
        self._waiting: list[tuple[str, Drain, Callable[[GatewayMessage], None]]] = []
        self._timer: asyncio.Handle | None = None

    def wait(self, room: str, drain: Drain, answer: Callable[[GatewayMessage], None]) -> None:
        """Answer once the connection has sent everything, or is gone."""
        self._waiting.append((room, drain, answer))
        self._timer = self._timer or asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for room, drain, answer in waiting:
            outbox = self._outboxes.get(drain.connection)
            if outbox is not None and outbox.unsent:
                self._waiting.append((room, drain, answer))
            else:
                answer(Drained(room, drain.token))
        self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look) if self._waiting else None

    def stop(self) -> None:
        """Stop looking; hooks that still wait get no answer."""
        if self._timer is not None:
            self._timer.cancel()
