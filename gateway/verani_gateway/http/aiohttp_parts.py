"""Wrap the private parts of aiohttp that are used here; no other module names them.

`check` says at the start, in one sentence, that one of them is gone, instead of failing with the first client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final, cast

from aiohttp import WSMessage, WSMsgType, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage

from verani.errors import VeraniError

try:
    from aiohttp._websocket.helpers import websocket_mask
    from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
except ImportError:  # `check` says so
    websocket_mask = None  # type: ignore[assignment]
    WebSocketDataQueue = WebSocketReader = object  # type: ignore[assignment]

__all__ = [
    "AiohttpError",
    "Messages",
    "WebSocketReader",
    "Undelayed",
    "check",
    "drop_unread",
    "feeds_a_websocket",
    "has_failed",
    "is_ended",
    "keep_alive_for",
    "parser_for",
    "take_over",
    "waits",
    "websocket_mask",
]

# What a message weighs besides its payload, in bytes, so that empty ones count, too.
_OVERHEAD: Final = 128

_NO_CAUSE: Final = Exception()

# The requests that wait at a connection which reads none any more: one queue for all, as an empty one is large.
_NO_MORE: Final = deque[Any](maxlen=0)

# The version that this was written for; others are as good as long as they have the same parts.
KNOWN: Final = "3.14"

# What of aiohttp's classes is used below, or overridden in `listener`.
PARTS: Final[tuple[tuple[type, tuple[str, ...]], ...]] = (
    (
        web.RequestHandler,
        (
            "_force_close",
            "_keepalive_timeout",
            "_messages",
            "_message_tail",
            "_parser",
            "_payload_parser",
            "_process_keepalive",
            "_waiter",
            "keep_alive",
            "set_parser",
        ),
    ),
)


class AiohttpError(VeraniError):
    """An aiohttp whose insides are not the known ones."""


class Messages(WebSocketDataQueue):
    """What the parser has read of one WebSocket, and nobody has handled; one of the type ERROR is the last one."""

    __slots__ = ("arrived", "has_failed", "size")

    def __init__(self) -> None:
        # Without what its own would make: it has no stream to pause, and no reader that waits.
        # With what each weighs, and all together: bytes. A list, because few wait at a time, and most never any.
        self.arrived: list[tuple[WSMessage, int]] = []
        self.size = 0
        # Whether the parser takes nothing any more.
        self.has_failed = False

    def feed_data(self, data: Any, size: int) -> None:
        """Take a message from the parser."""
        size += _OVERHEAD
        self.size += size
        self.arrived.append((data, size))

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _NO_CAUSE) -> None:
        """Take what was wrong with the last frame."""
        self.has_failed = True
        self.feed_data(WSMessage(WSMsgType.ERROR, exc, None), 0)


def parser_for(messages: Messages, max_message_size: int) -> WebSocketReader:
    """Make aiohttp's parser of what a client sends, which appends to `messages`; feed it by `feed_data`."""
    return WebSocketReader(messages, max_message_size, False, False)  # not compressed, texts as bytes


class _TakenOver:
    """Stands where aiohttp's protocol would have the parser of a WebSocket."""

    def feed_eof(self) -> None:
        """Do nothing: who has taken over knows."""


_TAKEN_OVER: Final = _TakenOver()


def take_over(handler: web.RequestHandler) -> bytes:
    """Have a connection that became a WebSocket keep no parser, and feed none.

    Returns what the client has sent after its handshake and before the answer.
    """
    early, handler._message_tail = handler._message_tail, b""
    handler._payload_parser = _TAKEN_OVER
    handler._parser = None
    handler._messages = _NO_MORE
    handler.keep_alive(False)
    return early


def check() -> None:
    """Raise `AiohttpError` unless everything is there that is used of aiohttp."""
    if missing := list(_missing()):
        raise AiohttpError(
            f"expected an aiohttp whose insides are known, such as {KNOWN}, got {version('aiohttp')}, which has no"
            f" {', '.join(missing)}"
        )


def _missing() -> Iterator[str]:
    for owner, names in PARTS:
        yield from (f"{owner.__name__}.{name}" for name in names if not hasattr(owner, name))
    from aiohttp._websocket import helpers, reader

    if not hasattr(helpers, "websocket_mask"):
        yield "websocket_mask"
    kinds = [name for name in ("WebSocketDataQueue", "WebSocketReader") if not hasattr(reader, name)]
    yield from kinds
    if not kinds and not _parses():
        yield "WebSocketDataQueue.feed_data"


def _parses() -> bool:
    """Try whether a parser hands on what it reads: two frames, of which the second is reserved."""
    messages = Messages()
    parser_for(messages, 1).feed_data(b"\x81\x80\0\0\0\0\xf0\x80")
    return [message.type for message, _ in messages.arrived] == [WSMsgType.TEXT, WSMsgType.ERROR]


def waits(handler: web.RequestHandler) -> bool:
    """Tell whether a connection has nothing to do: what comes next is the header of a request."""
    return handler._waiter is not None and not handler._waiter.done()


def is_ended(handler: web.RequestHandler) -> bool:
    """Tell whether a connection is being dropped."""
    return handler._force_close


class Undelayed(BaseProtocol):
    """What aiohttp's protocols are made of, for sockets that have TCP_NODELAY already: from the one that listens.

    To be named after the protocol among the bases of a class, so that it comes before what it replaces.
    """

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)


def keep_alive_for(handler: web.RequestHandler, seconds: float) -> None:
    """Close a connection that is idle so long after a response."""
    handler._keepalive_timeout = seconds


def feeds_a_websocket(handler: web.RequestHandler) -> bool:
    """Tell whether what arrives goes to something else than the parser of HTTP already."""
    return handler._payload_parser is not None


def has_failed(handler: web.RequestHandler) -> bool:
    """Tell, right after it was fed, whether what came last was no HTTP: its parser is of no use any more."""
    return bool(handler._messages) and not isinstance(handler._messages[-1][0], RawRequestMessage)


def drop_unread(handler: web.RequestHandler) -> None:
    """Free the requests that came and are not handled: what could not be parsed is an exception, which holds all."""
    handler._messages.clear()
