"""Take little from a socket at a time, whatever the event loop would take, and nothing while enough of it waits.

Loops read up to 256 KiB at once, or as often in a row, and aiohttp parses all of it in one go: thousands of small
frames that everybody else waits for. Its parser is fed here, without its protocol.

Invariants:
- Pieces that complete no message, of a large frame or of endless fragments, cost a turn each, and a frame that is not
  complete after twice its limit ends the connection: fragments are no way around the rate.
- The transport is paused when more than `HIGH` waits, and after `hold`, until `go_on` finds no more than `LOW`.
- Who reads is told of all that arrives, and of the end, at the bottom of the stack: in a callback of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, cast

from aiohttp import web

from ..http.aiohttp_parts import Messages, WebSocketReader, parser_for, take_over
from ..inputs.metrics import Metrics
from .frame_headers import FrameHeaders, whole_text
from .rate import Turns

__all__ = ["HIGH", "LOW", "Intake", "MessageSource"]

# What waits to be handled, as `Messages` weighs it: the socket is left alone above the first, which is more than one
# small read of anything but the smallest frames, and read again below the second.
HIGH, LOW = 6 << 10, 1 << 10

# Hundreds of small frames in one go hold up everybody; large ones in many small pieces cost too much.
_SMALL: Final = 2 << 10
_LARGE: Final = 16 << 10
# What is no frame may come in pieces as large as what aiohttp reads ahead.
_LARGEST: Final = 64 << 10
# What is thrown away of a connection that is over, at most: more than clients of ours ever send ahead.
_MAX_DISCARDED: Final = 16 << 20
# A frame is large from here on.
_LARGE_FRAME: Final = 1 << 10

# One for all: what was read is copied before anything else may read.
_bytes: Final = bytearray(_LARGEST)
_buffer: Final = memoryview(_bytes)
_large_buffer: Final = _buffer[:_LARGE]
_small_buffer: Final = _buffer[:_SMALL]


# What all have that have needed none of their own; nothing is ever put there.
_NO_MESSAGES: Final = Messages()
_NO_HEADERS: Final = FrameHeaders()


class MessageSource(Protocol):
    """Whose client sends messages."""

    def endless(self) -> None:
        """Close for a message that does not end."""


class MessageReader(Protocol):
    """Who handles messages."""

    def arrived(self, text: bytearray | None) -> bool:
        """Handle what has arrived; or a text that came alone, which becomes one of the messages if it is not taken."""


class Intake(asyncio.BufferedProtocol):
    """The protocol of a transport, in front of aiohttp's: hands everything on to that until this takes over."""

    __slots__ = (
        "__weakref__",
        "_discarded",
        "_early",
        "_fruitless",
        "_is_between",
        "_is_open",
        "_metrics",
        "_most",
        "_over",
        "_parser",
        "_protocol",
        "_source",
        "_turn",
        "_turns",
        "headers",
        "is_held",
        "is_lost",
        "last_size",
        "messages",
        "reader",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, protocol: asyncio.Protocol, metrics: Metrics) -> None:
        self._protocol = protocol
        self._metrics = metrics
        # Whether frames are read: not before this takes over, nor while everything is thrown away.
        self._is_open = False
        # Who is told when there are new messages, or when no more will come; without one, what arrives waits.
        self.reader: MessageReader | None = None
        # The size of the last frame, which decides how much is read at once.
        self.last_size = _LARGEST
        # Whether the socket is left alone, and whether it is gone.
        self.is_held = False
        self.is_lost = False
        # The turn that the next bytes wait for.
        self._turn: asyncio.Future[None] | None = None
        # What to call when nothing more is worth reading; set while all of it is thrown away.
        self._over: Callable[[], None] | None = None

    @classmethod
    def install(
        cls,
        handler: web.RequestHandler,
        turns: Turns,
        max_frame_bytes: int,
        source: Callable[[], MessageSource | None],
        metrics: Metrics,
    ) -> Intake:
        """Have the one in front of aiohttp's protocol take over, which hears of nothing but the end from now on.

        Where another server listens than ours, it is put there now. The `source`, a weak reference, is told of a
        message that does not end; nothing more is read then. Raises ConnectionResetError if the transport is gone.
        """
        transport = handler.transport
        if transport is None:
            raise ConnectionResetError("the client left during the handshake")
        intake = transport.get_protocol()
        if type(intake) is not cls:
            intake = cls(handler, metrics)
            intake.transport = transport
            transport.set_protocol(intake)  # costs the loop system calls
        intake._take_over(handler, turns, max_frame_bytes, source)
        return intake

    def _take_over(
        self,
        handler: web.RequestHandler,
        turns: Turns,
        max_frame_bytes: int,
        source: Callable[[], MessageSource | None],
    ) -> None:
        """Read frames from now on; hold it if something came early."""
        self._is_open = True
        self.last_size = 0
        # Made when they are needed, which they are not while every text comes alone.
        self.headers = _NO_HEADERS
        self.messages = _NO_MESSAGES
        self._parser: WebSocketReader | None = None
        self._turns = turns
        self._most = max_frame_bytes
        # Whether what comes next may be handled without the parser.
        self._is_between = True
        self._source = source
        # Bytes since the last message was complete.
        self._fruitless = 0
        self._discarded = 0
        # What came before.
        self._early = take_over(handler)
        if self._early:
            self._begin_to_parse()
        if self._early or not self.transport.is_reading():  # aiohttp may have paused it
            self.hold()
        self._metrics.received_bytes += len(self._early)

    def hold(self) -> None:
        """Leave the socket alone until `go_on`."""
        self.is_held = True
        with suppress(RuntimeError):  # a closed transport of uvloop
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Read again, if little waits to be handled."""
        while self.is_held and self.messages.size <= LOW and self._turn is None:
            if not self._early:
                self.is_held = False
                with suppress(RuntimeError):
                    self.transport.resume_reading()
                return
            piece, self._early = self._early[:_SMALL], self._early[_SMALL:]
            self._take(piece)

    def expect_compressed(self) -> None:
        """Look at the header of each message from now on: it may be compressed."""
        self.headers = FrameHeaders()
        self.headers.compressed = []
        self._is_between = False

    def look(self) -> None:
        """Have who reads look at what has arrived."""
        if self.reader is not None:
            self.reader.arrived(None)

    def leave(self) -> None:
        """Tell nobody of what arrives any more."""
        self.reader = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand on the connection."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one, and does not inherit from it
        self._protocol.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer."""
        if self.last_size < _LARGE_FRAME:
            return _small_buffer
        return _large_buffer if self._is_open else _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read."""
        if self._is_open:
            self._metrics.received_bytes += nbytes
            if (
                self._is_between
                and self.reader is not None
                and (text := whole_text(_bytes, nbytes, self._most)) is not None
                and self.reader.arrived(text)
            ):
                return
            self._take(bytes(_buffer[:nbytes]))
            if self.messages.size:
                self.look()
                if self.messages.size > HIGH:
                    self.hold()
        elif self._over is None:
            self._protocol.data_received(bytes(_buffer[:nbytes]))
        else:
            self._metrics.received_bytes += nbytes
            self._discard(nbytes)

    def _take(self, data: bytes) -> None:
        parser = self._parser or self._begin_to_parse()
        messages = self.messages
        before = messages.size
        parser.feed_data(self.headers.checked(data))
        self._is_between = self.headers.is_between and not messages.has_failed
        if messages.size != before:
            self._fruitless = 0
        else:
            self._wait_for_the_rest(len(data))

    def _begin_to_parse(self) -> WebSocketReader:
        self.messages = Messages()
        if self.headers is _NO_HEADERS:
            self.headers = FrameHeaders()
        # aiohttp refuses a message that is as long as its limit.
        self._parser = parser_for(self.messages, self._most + 1)
        return self._parser

    def _wait_for_the_rest(self, nbytes: int) -> None:
        self._fruitless += nbytes
        if self._fruitless > 2 * self._most + _SMALL:
            self.hold()
            if (source := self._source()) is not None:
                source.endless()
        elif self._fruitless > _SMALL:
            self.hold()
            self._turn = self._turns.ask()
            self._turn.add_done_callback(self._take_turn)

    def _take_turn(self, _: asyncio.Future[None]) -> None:
        self._turn = None
        self.go_on()
        self.look()

    def discard(self, over: Callable[[], None]) -> None:
        """Throw away what else comes; `over` is called at its end, or when it is too much."""
        self._is_open = False
        self._over = over
        self._early = b""
        self.last_size = _LARGEST
        self.is_held = False
        with suppress(RuntimeError):
            self.transport.resume_reading()

    def _discard(self, nbytes: int) -> None:
        self._discarded += nbytes
        if self._discarded > _MAX_DISCARDED:
            self._end()

    def _end(self) -> None:
        if self._over is not None:
            self._over()

    def eof_received(self) -> bool | None:
        """Hand on the end."""
        self._end()
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on the loss."""
        self._metrics.full.discard(self.transport)
        if self._turn is not None:
            self._turn.cancel()
        self._end()
        self._protocol.connection_lost(exc)
        self.is_lost = True
        self.look()

    def pause_writing(self) -> None:
        """Note and hand on that the transport is full; of a response of HTTP, nothing is noted."""
        if self._is_open or self._over is not None:
            self._metrics.full.add(self.transport)
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Note and hand on that it is not."""
        self._metrics.full.discard(self.transport)
        self._protocol.resume_writing()
