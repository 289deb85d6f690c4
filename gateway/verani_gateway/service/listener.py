"""Speak HTTP on the sockets of `verani serve`: aiohttp's protocol, with a limit for the headers of a request.

Who mounts rooms in an application that another server runs has that server's limits instead.

Invariants:
- No more than `max_header_bytes` of a request wait for its header to be complete, and the parser sees none of a header
  that is longer; of what a client sends after that, nothing is kept.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong

from verani.errors import TooLarge

from ..connections.intake import Intake
from ..http.aiohttp_parts import Undelayed, drop_unread, has_failed, is_ended, keep_alive_for, waits
from ..http.bodies import LINGER
from ..http.handshake import not_of_handshakes
from ..http.proxies import UNIX
from .header_deadlines import HeaderDeadlines
from .sockets import BACKLOG

if TYPE_CHECKING:
    from ..gateway import Gateway

__all__ = ["Listener"]

# What HTTP requests of the application that are still running after the drain get, before they are cut.
_REQUEST_GRACE: Final = 5.0

# Bytes of a body that are read, or inflated, before its handler asks for them; aiohttp takes up to three times as many.
_READ_AHEAD: Final = 64 << 10

_END: Final = b"\r\n\r\n"
_STATUS: Final = 431
_BODY: Final = msgspec.json.encode({"error": {"code": TooLarge.code}})
_REFUSAL: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


class Listener:
    """An application on sockets that other processes may take connections from, too."""

    def __init__(
        self, application: web.Application, sockets: Sequence[socket.socket], gateway: Gateway, *, internal: bool
    ) -> None:
        """Prepare it; handlers get compressed bodies inflated, but not those of the internal listener."""
        self._sockets = sockets
        self._gateway = gateway
        self._internal = internal
        self._runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=_REQUEST_GRACE)
        self._servers: list[asyncio.Server] = []
        self._is_closed = False
        application.on_response_prepare.append(self._say_goodbye)

    async def start(self, runners: AsyncExitStack) -> None:
        """Start the application, which ends when `runners` is closed; clients wait until `open`."""
        runners.push_async_callback(self._runner.cleanup)
        await self._runner.setup()
        runners.callback(self.close)

    async def open(self) -> None:
        """Take connections, until `close`."""
        settings = self._gateway.settings
        options: dict[str, Any] = {
            "access_log": None,  # it would show query strings, where tokens travel
            # aiohttp times what comes after a response, see `start`.
            "keepalive_timeout": 0,
            # The limit is of all together, whichever is long.
            "max_line_size": settings.max_header_bytes,
            "max_field_size": settings.max_header_bytes,
            "read_bufsize": _READ_AHEAD,
            "auto_decompress": not self._internal,
            "tcp_keepalive": False,  # see `_tune`
            "loop": (loop := asyncio.get_running_loop()),
        }
        assert self._runner.server is not None
        gateway, server, internal = self._gateway, self._runner.server, self._internal
        deadlines = HeaderDeadlines(settings.header_timeout)

        def protocol() -> Intake:
            return Intake(_Protocol(gateway, server, deadlines, options, internal=internal), gateway.metrics)

        for each in self._sockets:
            _tune(each)
            # asyncio tries to accept `backlog` times in a row, and where the process is out of file descriptors
            # it logs and sets a timer each time. One is enough; the queue in the kernel is set again after it.
            self._servers.append(await loop.create_server(protocol, sock=each, backlog=1))
            each.listen(BACKLOG)

    def close(self) -> None:
        """Take no more connections; each that is there gets the answer that it waits for, and is closed with it."""
        self._is_closed = True
        for server in self._servers:
            server.close()

    @property
    def connections(self) -> int:
        """How many there are, WebSockets included."""
        return len(self._runner.server.connections) if self._runner.server is not None else 0

    @not_of_handshakes
    async def _say_goodbye(self, _: web.Request, response: web.StreamResponse) -> None:
        if self._is_closed and not isinstance(response, web.WebSocketResponse):
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"  # which aiohttp has decided before it asks us


def _tune(listening: socket.socket) -> None:
    """Set what aiohttp sets for each connection: they inherit it."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _HeaderTooLarge(TooLarge):
    """A request whose line and headers are larger than may be."""

    status = _STATUS


class _Protocol(web.RequestHandler, Undelayed):
    """aiohttp's protocol of one HTTP connection."""

    __slots__ = ("_deadlines", "_gateway", "_header_bytes", "_internal", "_is_over", "_last", "_left", "_refused")

    def __init__(
        self,
        gateway: Gateway,
        server: web.Server,
        deadlines: HeaderDeadlines,
        options: dict[str, Any],
        *,
        internal: bool,
    ) -> None:
        super().__init__(server, **options)
        self._gateway = gateway
        self._deadlines = deadlines
        self._internal = internal
        # What has come of a header that is not complete, and the last bytes of it.
        self._header_bytes = 0
        self._last = b""
        # Set after what no request can follow: what closes the connection if nothing else does, and how much is thrown
        # away until then.
        self._is_over = False
        self._refused: asyncio.TimerHandle | None = None
        self._left = gateway.settings.max_discard_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless it would cost a descriptor that is needed for other things."""
        super().connection_made(transport)
        self._deadlines.add(self)
        if not self._gateway.entrance.descriptors.take(internal=self._internal):
            self._count("max_connections")
            assert self.transport is not None
            self.transport.abort()

    def start(self) -> Coroutine[Any, Any, None]:
        """Handle requests, with as much time for the header of the next one as the first one has."""
        keep_alive_for(self, self._gateway.settings.header_timeout)
        return super().start()

    def data_received(self, data: bytes) -> None:
        """Hand on what was read, unless it is more of a header than may be."""
        if self._is_over:
            self._discard(data)
            return
        is_header = waits(self)
        if is_header and self._is_too_long(data):
            self._refuse()
            return
        super().data_received(data)
        if is_header and not waits(self):
            self._header_bytes, self._last = 0, b""
            self._deadlines.discard(self)
        self._is_over = has_failed(self)  # aiohttp would have its parser fail again, which costs more each time

    def _is_too_long(self, data: bytes) -> bool:
        """Note what came of a header; True if it has no end within the limit."""
        data = self._last + data
        end = data.find(_END)
        self._header_bytes += (len(data) if end < 0 else end + len(_END)) - len(self._last)
        self._last = data[1 - len(_END) :]
        return self._header_bytes > self._gateway.settings.max_header_bytes

    def _refuse(self) -> None:
        """Answer, and close in a moment: with unread bytes the connection would be reset, and the answer lost."""
        assert self.transport is not None
        self._is_over = True
        self._tell_of_header()
        self.transport.write(_REFUSAL)
        self._refused = asyncio.get_running_loop().call_later(LINGER, self.force_close)
        self.close()

    def _discard(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0 and self.transport is not None:
            self.transport.pause_reading()  # until it is closed

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._gateway.entrance.descriptors.give_back()
        self._deadlines.discard(self)
        if self._refused is not None:
            self._refused.cancel()
        super().connection_lost(exc)
        drop_unread(self)

    def is_late(self) -> None:
        """Close it, unless it has something to do."""
        self._process_keepalive()

    def _process_keepalive(self) -> None:
        super()._process_keepalive()
        if self._header_bytes and is_ended(self):
            self._count("header_timeout")

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what could not be handled."""
        if not isinstance(exc, LineTooLong):
            return super().handle_error(request, status, exc, message)
        self._tell_of_header()
        response = web.Response(status=_STATUS, body=_BODY, content_type="application/json")
        response.force_close()
        return response

    def _tell_of_header(self) -> None:
        self._count("max_header_bytes")
        limit = self._gateway.settings.max_header_bytes
        error = _HeaderTooLarge(f"expected at most {limit} bytes of request line and headers (max_header_bytes)")
        peer = self.peername
        remote = peer[0] if isinstance(peer, tuple) else UNIX  # whose name is its owner's choice
        self._gateway.refusals.log("a request", error, path="a path that was not read", remote=remote)

    def _count(self, setting: str) -> None:
        self._gateway.metrics.limited[setting] += 1
