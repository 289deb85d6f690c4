"""End one connection: its close frame, the peer's, and the TCP connection below.

Invariants:
- One close frame leaves at most, after everything put before it.
- A connection that is closing is gone `CLOSE_TIMEOUT` seconds later at the latest, and one that is hung up, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

from .intake import Intake
from .outbox import Outbox, Writer, close_frame
from .read_gate import ReadGate

__all__ = ["CLOSE_TIMEOUT", "RESTART", "CloseHandshake"]

# With what connections are closed by a process that ends.
RESTART: Final = 1012, "service restart"
# How long a peer may take to answer a close frame before its connection is aborted.
CLOSE_TIMEOUT = 5.0

_NO_STATUS: Final = 1005
# Close codes that may travel (RFC 6455 7.4 and its registry); another one from a peer is a protocol error.
_PEER_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})


class CloseHandshake:
    """How one connection ends."""

    __slots__ = ("_abort_at", "_now", "_outbox", "_transport", "_writer", "gate", "heeds", "sent")

    def __init__(
        self, now: Callable[[], float], writer: Writer, outbox: Outbox, transport: asyncio.Transport, gate: ReadGate
    ) -> None:
        # The code and reason of our close frame, None before.
        self.sent: tuple[int, str] | None = None
        # Whether frames count that come after our close frame has left.
        self.heeds = False
        self._abort_at = inf
        self._now = now
        self._writer = writer
        self._outbox = outbox
        self._transport = transport
        # What holds up the reading of the connection; not once it closes.
        self.gate = gate

    @property
    def is_sent(self) -> bool:
        """True once our close frame is on its way."""
        return self.sent is not None

    @property
    def is_lost(self) -> bool:
        """True once the TCP connection is over, or about to be."""
        return self._transport.is_closing()

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame after everything put before, and wait a while for the peer's."""
        if self.sent is None:
            self._seal(code, reason)
            self.gate.resume()

    def leave(self) -> None:
        """Close for a restart; what the client sends until it hears of that still reaches its room, within limits."""
        self.heeds = True
        self.close(*RESTART)

    def _seal(self, code: int, reason: str) -> None:
        self.sent = code, reason
        self._abort_at = self._now() + CLOSE_TIMEOUT
        self._outbox.seal(close_frame(code, reason))

    def answer(self, code: int, reason: str) -> tuple[int, str]:
        """Echo the peer's close frame (F10: also one without a code), unless it is itself an answer."""
        if self.sent is None:
            if code and code not in _PEER_CODES:
                code = 1002
            self._outbox.seal(close_frame(code or None))
        return code or _NO_STATUS, reason

    def fail(self, code: int) -> None:
        """Close for a violation of RFC 6455."""
        self._seal(code, "")

    async def linger(self, intake: Intake) -> None:
        """Let the peer read the close frame: bytes left unread would reset the connection, and lose it on its way."""
        if self.sent is None or self.is_lost:
            return
        self._writer.flush()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        over = asyncio.Event()
        intake.discard(over.set)
        await over.wait()

    def hang_up(self) -> None:
        """End the TCP connection once what was put is sent, but not wait for ever for a peer that does not read."""
        self._writer.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._transport.abort()
        self.gate.resume()

    def tick(self, now: float) -> None:
        """Drop the connection if the peer has not answered in time."""
        if now >= self._abort_at:
            self.abort()
