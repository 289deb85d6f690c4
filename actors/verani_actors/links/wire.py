"""Carry the packets of a stream over one WebSocket: what both ends of a link share.

What a session survives, who connects to whom and what the messages mean is the ends' business (`links` here,
`verani_gateway.placement.remote_link` there).

Invariants:
- Packets leave in order, one message each. While the socket takes no more, the rest waits in the stream.
- Writing never waits: what the socket does not take at once is finished by a task that the wire owns.
"""

from __future__ import annotations

import asyncio
import os
import socket
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import msgspec
from aiohttp import ClientError, ClientResponse, ClientWebSocketResponse, WSCloseCode, WSMsgType, web

from verani.link.messages import PROTOCOL_VERSIONS, Hello, decode_hello
from verani.link.stream import MAX_PACKET, Stream
from verani.tracebacks import forget_traceback

__all__ = [
    "LAST_WORDS",
    "LINK_PATH",
    "MAX_MESSAGE",
    "PATIENCE",
    "REFUSED",
    "ClientSocket",
    "ServerSocket",
    "Socket",
    "VersionError",
    "Wire",
    "WireError",
    "cut_loose",
    "receive_hello",
]

# Where a host takes links.
LINK_PATH = "/link"

# aiohttp refuses a message that is as long as its limit.
MAX_MESSAGE = MAX_PACKET + 1

# Close code of a link whose ends have no version in common.
REFUSED = 4400

# A machine that does not answer any more is noticed by the kernel: seconds of silence, between probes, probes, and
# milliseconds that what was sent may stay unacknowledged (tcp(7)). Longer than any lease: this only frees sockets.
_SILENCE, _BETWEEN, _PROBES, _UNACKNOWLEDGED = 5, 1, 5, 10_000

# Seconds that a hello may take to come, and the last words of a connection.
PATIENCE = 5.0
LAST_WORDS = 1.0

_BINARY = WSMsgType.BINARY

# Seconds that a connection may keep others of its process waiting while it has more to read.
_TURN = 0.005

Socket: TypeAlias = web.WebSocketResponse[Any] | ClientWebSocketResponse[Any]


class ClientSocket(ClientWebSocketResponse[Any]):
    """aiohttp's WebSocket of a client, which may let go of its connection: it does not by itself if that was reset.

    It is free when it has ended.
    """

    def __init__(
        self, reader: Any, writer: Any, protocol: str | None, response: ClientResponse, *rest: Any, **more: Any
    ):
        super().__init__(reader, writer, protocol, response, *rest, **more)
        self.response = response

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"") -> bool:
        """Close as aiohttp does."""
        try:
            return await super().close(code=code, message=message)
        finally:
            cut_loose(self)


class ServerSocket(web.WebSocketResponse[Any]):
    """aiohttp's WebSocket of a server, which is free when it has ended."""

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """Close as aiohttp does."""
        try:
            return await super().close(code=code, message=message, drain=drain)
        finally:
            cut_loose(self)


class WireError(Exception):
    """The other end sent something that is no packet, or no hello."""


class VersionError(WireError):
    """The ends of a link have no version in common."""


async def receive_hello(ws: Socket, own: str) -> Hello:
    """Read the first message of the other end; `own` names this end, a host or gateway, should they not fit."""
    try:
        hello = decode_hello(await ws.receive_bytes())
    except (TypeError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(f"the first message is no hello: {error}") from error
    (lowest, highest), (least, most) = PROTOCOL_VERSIONS, hello.versions
    if least > highest or most < lowest:
        raise VersionError(f"{hello.sender} speaks {least} to {most}, this {own} {lowest} to {highest}")
    return hello


class Wire:
    """One connection of a link, from its `Hello` to its end."""

    def __init__(self, ws: Socket, stream: Stream[Any, Any], serves: Callable[[], bool] | None = None) -> None:
        """Take a WebSocket; packets wait while `serves` says no, confirmations do not."""
        self._ws = ws
        self._stream = stream
        self._serves = serves
        self._loop = asyncio.get_running_loop()
        self._opened = False
        self._writing: asyncio.Task[None] | None = None
        self._confirming: asyncio.TimerHandle | None = None
        self._since = self._loop.time()
        self.broken = False
        _watch_over(ws)

    def open(self) -> None:
        """Begin to write: the hellos are over."""
        self._opened = True
        self.flush()

    def flush(self) -> None:
        """Write what the stream has, as far as the socket takes it."""
        if self._writing is not None or self.broken or not self._opened:
            return
        if self._serves is not None and not self._serves():
            return
        while self._writing is None and not self.broken and (data := self._stream.next()) is not None:
            self._write(data)

    async def read(self) -> bytes | None:
        """Return the next message, None at the end; raises WireError for what is not binary or too long."""
        if self._loop.time() - self._since > _TURN:  # `receive` does not wait while there is more
            await asyncio.sleep(0)
            self._since = self._loop.time()
        message = await self._ws.receive()
        if message.type is _BINARY:
            data: bytes = message.data
            return data
        match message.type:
            case WSMsgType.CLOSE | WSMsgType.CLOSING | WSMsgType.CLOSED:
                return None
            case WSMsgType.ERROR:
                forget_traceback(message.data)
                raise WireError(str(message.data))
            case _:
                raise WireError(f"a message of type {message.type.name}")

    def took(self) -> None:
        """Note that a packet was taken and answered with what there was: a confirmation may be due."""
        due = self._stream.confirm_at
        if due is None or self.broken:
            return
        if due <= self._loop.time():
            self._confirm()
        elif self._confirming is None:
            self._confirming = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._confirming = None
        self.took()

    def _confirm(self) -> None:
        if self._writing is not None:
            # The socket takes nothing now; what is written next may confirm, too.
            self._confirming = self._confirming or self._loop.call_later(_BETWEEN / 10, self._look)
        elif self._opened:
            self._write(self._stream.confirmation())

    def _write(self, data: bytes) -> None:
        try:
            rest = _begin(self._ws.send_bytes(data))
        except (ConnectionError, ClientError):
            self.abort()
            return
        if rest is not None:
            self._writing = self._loop.create_task(rest)
            self._writing.add_done_callback(self._wrote)

    def _wrote(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            forget_traceback(error)
            self.abort()
        else:
            self.flush()

    def abort(self) -> None:
        """End the connection now, whatever waits; `read` comes to its end."""
        if self.broken:
            return
        self.broken = True
        if self._confirming is not None:
            self._confirming.cancel()
        _shut_down(self._ws)

    async def close(self) -> None:
        """Abort, and wait for the task that still writes."""
        self.abort()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])


def cut_loose(ws: Socket) -> None:
    """Free a WebSocket that has ended: it keeps the exception that ended it, whose traceback keeps the WebSocket."""
    forget_traceback(ws.exception())


def _begin(sending: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Run a coroutine up to where it waits, and return its rest: None if it never waits, as nearly always.

    A task for each packet, or one that is woken for it, would cost a pass of the loop. What it awaits before the first
    wait must not ask for the current task. (From Python 3.12 on, an eager task would be the same.)
    """
    try:
        waits_for = sending.send(None)
    except StopIteration:
        return None
    return _rest(sending, waits_for)


async def _rest(sending: Coroutine[Any, Any, None], waits_for: Any) -> None:
    going = _go_on(sending, [waits_for])
    del waits_for
    await going


@types.coroutine
def _go_on(sending: Coroutine[Any, Any, None], waits_for: list[Any]) -> Generator[Any, Any, None]:
    # A list from which each future is taken: one that failed would hold, by its traceback, the frame that holds it.
    try:
        while True:
            try:
                value = yield waits_for.pop()
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - passed on to the coroutine, as `yield from` does
                waits_for.append(sending.throw(error))
            else:
                waits_for.append(sending.send(value))
    except StopIteration:
        return
    finally:
        sending.close()


def _watch_over(ws: Socket) -> None:
    """Have the kernel end a TCP connection whose other machine is gone, and write small packets at once."""
    with _connection(ws) as connection:
        if connection is None or connection.family == socket.AF_UNIX:
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _BETWEEN)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED)


def _shut_down(ws: Socket) -> None:
    """Shut a connection down both ways, below whatever layers a transport has; both ends see its end at once."""
    with suppress(OSError), _connection(ws) as connection:
        if connection is not None:
            connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _connection(ws: Socket) -> Iterator[socket.socket | None]:
    """Give the socket of a connection, None if it has ended.

    Under uvloop a transport's own object for it can do next to nothing, hence the duplicate.
    """
    shown = ws.get_extra_info("socket")
    descriptor = -1 if shown is None else shown.fileno()
    if descriptor < 0:
        yield None
        return
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        yield connection
