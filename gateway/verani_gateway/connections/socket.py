"""Prepare aiohttp's WebSocket so that it reads, little at a time, and writes nothing by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from aiohttp import WSMessage, web

from ..http.aiohttp_parts import has_failed, messages_of, take_early
from .intake import Intake
from .rate import Turns

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

__all__ = ["Socket"]


class Socket(web.WebSocketResponse[Any]):
    """aiohttp's WebSocket, reading only: its own close frames would overtake what waits in the outbox."""

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """Do nothing; what aiohttp closes for, it also reports to `receive`."""
        return False

    _intake: Intake | None = None
    _early = b""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Answer the handshake; what was sent with it, or is sent meanwhile, waits for `take_in_small_pieces`."""
        if request.transport is not None:
            request.transport.pause_reading()
            if has_failed(request.protocol):  # frames before the answer, where aiohttp did not see an upgrade
                request.transport.abort()
        self._early = take_early(request.protocol)
        return await super().prepare(request)

    def take_in_small_pieces(
        self, transport: asyncio.Transport, turns: Turns, max_frame_bytes: int, endless: Callable[[], None]
    ) -> Intake:
        """Put an `Intake` in front of what reads from the transport."""
        early, self._early = self._early, b""
        self._intake = Intake.install(transport, messages_of(self), early, turns, max_frame_bytes, endless)
        return self._intake

    def receive(self, timeout: float | None = None) -> Coroutine[Any, Any, WSMessage]:
        """Read the next message; the socket is read on where little waits."""
        if self._intake is not None and self._intake.is_held:
            self._intake.go_on()
        return super().receive(timeout)
