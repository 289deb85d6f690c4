"""Use aiohttp's WebSocket for the handshake; after that, it neither reads nor writes by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..http.aiohttp_parts import has_failed, take_early, take_over
from ..inputs.metrics import Metrics
from .intake import Intake, MessageSource
from .rate import Turns

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

__all__ = ["Socket"]


class Socket(web.WebSocketResponse[Any]):
    """aiohttp's WebSocket: its own close frame would overtake what waits in the outbox."""

    _early = b""

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """Do nothing; the connection says its own goodbye."""
        return False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Answer the handshake; what was sent with it, or is sent meanwhile, waits for `take_in_small_pieces`."""
        if request.transport is not None:
            request.transport.pause_reading()
            if has_failed(request.protocol):  # frames before the answer, where aiohttp did not see an upgrade
                request.transport.abort()
        self._early = take_early(request.protocol)
        return await super().prepare(request)

    def take_in_small_pieces(
        self,
        request: web.Request,
        turns: Turns,
        max_frame_bytes: int,
        source: Callable[[], MessageSource | None],
        metrics: Metrics,
    ) -> Intake:
        """Put an `Intake` in front of what reads from the transport; raises ConnectionResetError if that is gone."""
        if request.transport is None:
            raise ConnectionResetError("the client left during the handshake")
        early, self._early = self._early, b""
        intake = Intake.install(request.transport, early, turns, max_frame_bytes, source, metrics)
        take_over(request.protocol, self, intake.parser)
        return intake
