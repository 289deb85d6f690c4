"""Wrap the private parts of aiohttp that are used here; no other module names them.

`check` says at the start, in one sentence, that one of them is gone, instead of failing with the first client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from operator import attrgetter
from typing import Any, Final, Protocol

from aiohttp import web
from aiohttp.http import RawRequestMessage

from verani.errors import VeraniError

__all__ = [
    "AiohttpError",
    "Queue",
    "check",
    "drop_unread",
    "feeds_a_websocket",
    "has_failed",
    "is_ended",
    "messages_of",
    "take_early",
    "waiting",
    "waits",
]

# The version that this was written for; others are as good as long as they have the same parts.
KNOWN: Final = "3.14"

# What of aiohttp's classes is used below, or overridden in `listener`.
PARTS: Final[tuple[tuple[type, tuple[str, ...]], ...]] = (
    (
        web.RequestHandler,
        (
            "_force_close",
            "_messages",
            "_message_tail",
            "_payload_parser",
            "_process_keepalive",
            "_waiter",
            "set_parser",
        ),
    ),
    (web.WebSocketResponse, ("_reader",)),
)


class AiohttpError(VeraniError):
    """An aiohttp whose insides are not the known ones."""


class Queue(Protocol):
    """aiohttp's queue of the messages of one WebSocket, whose size is private."""

    _size: int


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
    try:
        from aiohttp._websocket.reader import WebSocketDataQueue
    except ImportError:
        yield "WebSocketDataQueue"
        return
    unused: Any = None  # by an empty one
    if not hasattr(WebSocketDataQueue(unused, 1, loop=unused), "_size"):
        yield "WebSocketDataQueue._size"


def messages_of(ws: web.WebSocketResponse[Any]) -> Queue:
    """Return the queue that a prepared WebSocket reads from."""
    assert ws._reader is not None, "prepare comes first"
    return ws._reader


# Bytes that wait in a queue, with 128 for each message besides its own.
waiting: Callable[[Queue], int] = attrgetter("_size")


def waits(handler: web.RequestHandler) -> bool:
    """Tell whether a connection has nothing to do: what comes next is the header of a request."""
    return handler._waiter is not None and not handler._waiter.done()


def is_ended(handler: web.RequestHandler) -> bool:
    """Tell whether a connection is being dropped."""
    return handler._force_close


def feeds_a_websocket(handler: web.RequestHandler) -> bool:
    """Tell whether what arrives goes to something else than the parser of HTTP already."""
    return handler._payload_parser is not None


def has_failed(handler: web.RequestHandler) -> bool:
    """Tell, right after it was fed, whether what came last was no HTTP: its parser is of no use any more."""
    return bool(handler._messages) and not isinstance(handler._messages[-1][0], RawRequestMessage)


def drop_unread(handler: web.RequestHandler) -> None:
    """Free the requests that came and are not handled: what could not be parsed is an exception, which holds all."""
    handler._messages.clear()


def take_early(handler: web.RequestHandler) -> bytes:
    """Take what a client has sent after its handshake and before the answer, so that aiohttp does not read it."""
    early, handler._message_tail = handler._message_tail, b""
    return early
