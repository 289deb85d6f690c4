"""Take little from a socket at a time, whatever the event loop would take, and nothing while enough of it waits.

Loops read up to 256 KiB at once, or as often in a row, and aiohttp parses all of it in one go: thousands of small
frames that everybody else waits for. What is done with what is read remains aiohttp's business.

Invariants:
- The transport is paused when more than `HIGH` waits, and after `hold`, until `go_on` finds no more than `LOW`.
- aiohttp pauses it, too, far above `HIGH`: by the time it is resumed here, aiohttp has nothing against it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol

__all__ = ["HIGH", "LOW", "Intake", "Queue"]

# Bytes that wait to be handled, as aiohttp counts them (128 for each message besides its own): the socket is left
# alone above the first, which is more than one small read of anything but the smallest frames, and read again below
# the second.
HIGH, LOW = 6 << 10, 1 << 10

# Hundreds of small frames in one go hold up everybody; large ones in many small pieces cost too much.
_SMALL: Final = 2 << 10
_LARGE: Final = 16 << 10
# A frame is large from here on.
_LARGE_FRAME: Final = 1 << 10

# One for all: what was read is copied before anything else may read.
_buffer: Final = memoryview(bytearray(_LARGE))
_small_buffer: Final = _buffer[:_SMALL]


class Queue(Protocol):
    """aiohttp's queue of the messages of one WebSocket; it shows to nobody how much there is."""

    _size: int


class Intake(asyncio.BufferedProtocol):
    """The protocol of a transport, in front of the one that it had."""

    __slots__ = ("_held", "_is_large", "_protocol", "_queue", "_transport")

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, queue: Queue) -> None:
        self._transport = transport
        self._protocol = protocol
        self._queue = queue
        self._is_large = False
        self._held = False

    @classmethod
    def install(cls, transport: asyncio.Transport, queue: Queue) -> Intake:
        """Put one in front of the transport's protocol; `queue` is what it fills."""
        protocol = transport.get_protocol()
        assert isinstance(protocol, asyncio.Protocol), "aiohttp's is not buffered"
        intake = cls(transport, protocol, queue)
        transport.set_protocol(intake)
        return intake

    def hold(self) -> None:
        """Leave the socket alone until `go_on`."""
        if not self._held:
            self._held = True
            with suppress(RuntimeError):  # a closed transport of uvloop
                self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again, if little waits to be handled."""
        if self._held and self._queue._size <= LOW:
            self._held = False
            with suppress(RuntimeError):
                self._transport.resume_reading()

    def expect(self, size: int) -> None:
        """Read in pieces that fit frames of this size: the last one's."""
        self._is_large = size >= _LARGE_FRAME

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer."""
        return _buffer if self._is_large else _small_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read."""
        self._protocol.data_received(bytes(_buffer[:nbytes]))
        if self._queue._size > HIGH:
            self.hold()

    def eof_received(self) -> bool | None:
        """Hand on the end."""
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on the loss."""
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand on that the transport is full."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that it is not."""
        self._protocol.resume_writing()
