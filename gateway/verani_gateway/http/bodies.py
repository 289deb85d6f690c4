"""Read request bodies where a handler wants one, and discard those that no handler has read.

aiohttp goes on reading, and inflating, what its handlers have left unread; that costs the sender nearly nothing and
everybody else seconds.

Invariants:
- Once the handler of a request has returned, not a byte of its body is parsed or inflated. Some of it is taken and
  thrown away as it came, then the socket is left unread, and closed after a while: a connection that is closed with
  unread bytes is reset, and the answer must arrive before that.
- A body that is read is not compressed, has a limit and a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import hdrs, web

from verani.errors import DeadlineExceeded, InvalidArguments, TooLarge
from verani.settings import Settings

from ..inputs.metrics import Metrics
from .aiohttp_parts import feeds_a_websocket

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

__all__ = ["LINGER", "leaving_bodies", "read_body"]

# How long a client gets to read an answer that came before it had sent everything.
LINGER: Final = 2.0


class Limiting(Protocol):
    """Whose settings limit bodies, and who counts which ones they have cut short."""

    @property
    def settings(self) -> Settings:
        """Those that are in force now."""

    @property
    def metrics(self) -> Metrics:
        """Where it is counted."""


class Compressed(InvalidArguments):
    """A body that would have to be inflated."""

    status = 415


async def read_body(request: web.Request, limiting: Limiting, seconds: float) -> bytes:
    """Read a body of at most `max_rpc_bytes` that arrives within this time; raises a `VeraniError` for any other."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding.strip().lower() != "identity":
        limiting.metrics.refused("compressed")
        raise Compressed("expected a body that is not compressed (Content-Encoding)")
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except TimeoutError:
        limiting.metrics.limited["rpc_timeout"] += 1
        raise DeadlineExceeded("the body did not arrive in time") from None
    except web.HTTPRequestEntityTooLarge:
        limiting.metrics.limited["max_rpc_bytes"] += 1
        raise TooLarge(f"expected a body of at most {limiting.settings.max_rpc_bytes} bytes") from None
    except (web.RequestPayloadError, ConnectionResetError):
        # What came is not encoded as the headers say, or the caller left and nobody reads this.
        raise InvalidArguments("the body could not be read") from None


def leaving_bodies(limiting: Limiting, strayed: Callable[[web.Request], None] | None = None) -> Middleware:
    """Make the middleware that has nothing read of a request once its handler has returned.

    Tells of those that have `strayed`: there is no handler for them.
    """

    @web.middleware
    async def leave(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as refusal:
            if _leave_body(request, limiting):
                refusal.force_close()
            raise
        except Exception:  # aiohttp answers it, and closes
            _leave_body(request, limiting)
            raise
        finally:
            if strayed is not None and request.match_info.http_exception is not None:
                strayed(request)
        if _leave_body(request, limiting):
            response.force_close()
        return response

    return leave


def _leave_body(request: web.Request, limiting: Limiting) -> bool:
    """Have the rest of a body thrown away; False if there is none."""
    content, protocol = request.content, request.protocol
    if content.is_eof() or protocol.transport is None or feeds_a_websocket(protocol):
        return False
    rest = _Rest(request, protocol.transport, limiting)
    protocol.set_parser(rest)  # type: ignore[arg-type]  # it is called like aiohttp's reader of frames
    if content.exception() is not None:
        rest.feed_eof()
    return True


class _Rest:
    """What is still to come of a body: aiohttp's protocol feeds it instead of its parser, and closes at its end."""

    def __init__(self, request: web.Request, transport: asyncio.Transport, limiting: Limiting) -> None:
        self._content = request.content
        self._transport = transport
        self._limiting = limiting
        self._left = limiting.settings.max_discard_bytes
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(LINGER, self._cut)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Throw it away."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.pause_reading()  # until the time is over
        return False, b""

    def feed_eof(self) -> None:
        """Let aiohttp, which waits for the end of the body, close the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._content.feed_eof()

    def _cut(self) -> None:
        self._limiting.metrics.limited["max_discard_bytes"] += 1
        self.feed_eof()
