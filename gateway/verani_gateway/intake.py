"""Take little from a socket at a time, whatever the event loop would take, and nothing while enough of it waits.

Loops read up to 256 KiB at once, or as often in a row, and aiohttp parses all of it in one go: thousands of small
frames that everybody else waits for. What is done with what is read remains aiohttp's business.

Invariants:
- The transport is paused while more than `BACKLOG` waits, and until `go_on` after `hold`.
- aiohttp pauses it, too, far above `BACKLOG`: by the time it is resumed here, aiohttp has nothing against it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

__all__ = ["BACKLOG", "Intake"]

# The socket is read again when no more than this waits to be handled.
BACKLOG: Final = 1 << 10

# Hundreds of small frames in one go hold up everybody; large ones in many small pieces cost too much.
_SMALL: Final = 2 << 10
_LARGE: Final = 16 << 10
# A frame is large from here on.
_LARGE_FRAME: Final = 1 << 10

# One for all: what was read is copied before anything else may read.
_buffer: Final = memoryview(bytearray(_LARGE))
_small_buffer: Final = _buffer[:_SMALL]


class Intake(asyncio.BufferedProtocol):
    """The protocol of a transport, in front of the one that it had."""

    __slots__ = ("_backlog", "_held", "_is_large", "_protocol", "_transport")

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, backlog: Callable[[], int]) -> None:
        self._transport = transport
        self._protocol = protocol
        self._backlog = backlog
        self._is_large = False
        self._held = False

    @classmethod
    def install(cls, transport: asyncio.Transport, backlog: Callable[[], int]) -> Intake:
        """Put one in front of the transport's protocol; `backlog` tells how many bytes wait to be handled."""
        protocol = transport.get_protocol()
        assert isinstance(protocol, asyncio.Protocol), "aiohttp's is not buffered"
        intake = cls(transport, protocol, backlog)
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
        if self._held and self._backlog() <= BACKLOG:
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
        if self._backlog() > BACKLOG:
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
