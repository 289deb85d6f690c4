"""Number, retain and confirm what one end of a link says: a broken connection loses nothing and doubles nothing.

Both ends of a link between processes have one `Stream` each for as long as their session lasts, whatever becomes of
the connections under it. Connections, timers and who gives up when are the ends' business:
`verani_actors.links.link_sessions` and `verani_gateway.placement.remote_link`. Time is passed in, as seconds of a
monotonic clock.

Invariants:
- Packets are numbered 1, 2, 3 ... and kept until the other end has confirmed them.
- What is taken is exactly what the other end put, once and in order: what was seen before is dropped, a gap is an
  error. (What is written in shorthand is written once, and read once: a packet that is sent again is the same.)
- A packet holds several messages, or a message of several parts, only up to `LONG_PACKET` bytes, and never more than
  `MAX_PACKET`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from ..errors import VeraniError
from .messages import (
    Entry,
    EntryBatch,
    GatewayMessage,
    GatewayPacket,
    HostMessage,
    HostPacket,
    InputBatch,
    decode_gateway_packet,
    decode_host_packet,
    encode_message,
)
from .shorthand import Longhand, Shorthand, ShorthandError, halves_of

__all__ = [
    "CONFIRM_AFTER",
    "CONFIRM_BYTES",
    "CONFIRM_PACKETS",
    "LONG_PACKET",
    "MAX_PACKET",
    "MAX_STALLED",
    "STALLED_AFTER",
    "Stream",
    "StreamError",
    "gateway_stream",
    "host_stream",
]

# An end with nothing to say confirms after so many seconds, or so many packets or bytes: who sends much waits for it.
CONFIRM_AFTER = 0.02
CONFIRM_PACKETS = 64
CONFIRM_BYTES = 4 << 10

# Above this, the messages of a tick are sent as several packets.
LONG_PACKET = 4 << 20

# No packet is longer; the ends read none that is.
MAX_PACKET = 64 << 20

# So much that waits to be confirmed, without progress for so many seconds, means that the other end, or the way to it,
# is broken. With progress there is no such bound: who puts waits for the other end (`verani_actors.links.flow`, and
# what a gateway may have in flight).
MAX_STALLED = 16 << 20
STALLED_AFTER = 2.0

_Sent = TypeVar("_Sent")
_Taken = TypeVar("_Taken")
_Taken_co = TypeVar("_Taken_co", covariant=True)


class StreamError(VeraniError):
    """The other end broke the rules of the stream, or a message is too long for it."""


class _Packet(Protocol[_Taken_co]):
    @property
    def number(self) -> int: ...
    @property
    def confirmed(self) -> int: ...
    @property
    def messages(self) -> Sequence[_Taken_co]: ...


# A packet that is not confirmed: its number, what it confirms itself, its bytes. Plain: one is made for every packet.
_Kept: TypeAlias = tuple[int, int, bytes]


class Stream(Generic[_Sent, _Taken]):
    """One end's half of a link session."""

    __slots__ = (
        "_decode",
        "_make",
        "_owed",
        "_owed_bytes",
        "_owed_since",
        "_read",
        "_sent",
        "_unsent",
        "_write",
        "confirmed",
        "numbered",
        "progress",
        "received",
        "unconfirmed",
    )

    def __init__(
        self,
        make: Callable[[int, int, list[_Sent]], object],
        decode: Callable[[bytes], _Packet[_Taken]],
        now: float,
        *,
        write: Callable[[list[_Sent]], list[_Sent]] | None = None,
        read: Callable[[Sequence[_Taken]], Sequence[_Taken]] | None = None,
    ) -> None:
        """Begin a session; `make` and `decode` are those of the packets that this end sends and takes.

        `write` and `read` are the shorthand of what it sends, or takes.
        """
        self._make = make
        self._decode = decode
        self._write = write
        self._read = read
        # Given to the connection, and not yet.
        self._sent: deque[_Kept] = deque()
        self._unsent: deque[_Kept] = deque()
        self._owed = 0
        self._owed_bytes = 0
        self._owed_since = now
        # Highest packet put, highest one of them confirmed, highest one taken.
        self.numbered = 0
        self.confirmed = 0
        self.received = 0
        # Bytes of the packets that are not confirmed, and when one was last, or they began to be some.
        self.unconfirmed = 0
        self.progress = now

    # --- sending ---------------------------------------------------------------------------------------

    def put(self, messages: list[_Sent], now: float) -> None:
        """Pack what one tick says; `next` gives it out. Raises StreamError for a message that is too long."""
        self._pack(messages if self._write is None else self._write(messages), now)

    def _pack(self, messages: list[_Sent], now: float) -> None:
        number = self.numbered + 1
        data = encode_message(self._make(number, self.received, messages))
        size = len(data)
        if size > LONG_PACKET and (halves := _halves(messages)) is not None:
            for half in halves:
                self._pack(half, now)
            return
        if size > MAX_PACKET:
            raise StreamError(f"a message of {size} bytes does not fit into a packet of {MAX_PACKET}")
        self.numbered = number
        if not self.unconfirmed:
            self.progress = now
        self._unsent.append((number, self.received, data))
        self.unconfirmed += size

    def next(self) -> bytes | None:
        """Give out the packet that is to be written next, None if all were."""
        if not self._unsent:
            return None
        packet = _, confirmed, data = self._unsent.popleft()
        self._sent.append(packet)
        if confirmed == self.received:
            self._owed = self._owed_bytes = 0
        return data

    # --- taking ----------------------------------------------------------------------------------------

    def take(self, data: bytes, now: float) -> Sequence[_Taken]:
        """Take a packet and return its messages, none if it was taken before."""
        try:
            packet = self._decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise StreamError(f"{len(data)} bytes are not a packet: {error}") from error
        number = packet.number
        if packet.confirmed > self.confirmed:
            self._confirm(packet.confirmed, now)
        if number != self.received + 1:
            if 0 < number <= self.received or (number == 0 and not packet.messages):
                return ()
            raise StreamError(f"packet {number} came after packet {self.received}")
        self.received = number
        if not self._owed:
            self._owed_since = now
        self._owed += 1
        self._owed_bytes += len(data)
        if self._read is None:
            return packet.messages
        try:
            return self._read(packet.messages)
        except ShorthandError as error:
            raise StreamError(f"packet {number} cannot be read: {error}") from error

    def _confirm(self, number: int, now: float) -> None:
        if number > self.numbered:
            raise StreamError(f"packet {number} was confirmed, packet {self.numbered} is the last")
        self.confirmed = number
        self.progress = now
        while (kept := self._sent or self._unsent) and kept[0][0] <= number:
            self.unconfirmed -= len(kept.popleft()[2])

    # --- confirming ------------------------------------------------------------------------------------

    @property
    def confirm_at(self) -> float | None:
        """Tell when a pure confirmation is due, None if nothing is to be confirmed."""
        if not self._owed:
            return None
        at_once = self._owed >= CONFIRM_PACKETS or self._owed_bytes >= CONFIRM_BYTES
        return self._owed_since if at_once else self._owed_since + CONFIRM_AFTER

    def confirmation(self) -> bytes:
        """Pack a confirmation and nothing else; it has no number and is not kept."""
        self._owed = self._owed_bytes = 0
        return encode_message(self._make(0, self.received, []))

    # --- broken connections ----------------------------------------------------------------------------

    def resume(self, received: int, now: float) -> None:
        """Go on over a new connection: the other end has what was sent up to `received`, the rest is sent again."""
        if received < self.confirmed:
            raise StreamError(f"packet {received} is the last received, packet {self.confirmed} was confirmed")
        if received > self.confirmed:
            self._confirm(received, now)
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._owed = self._owed_bytes = 0
        self.progress = now

    def is_stuck(self, now: float) -> bool:
        """True if too much waits without progress: the other end, or the way to it, is broken."""
        return self.unconfirmed > MAX_STALLED and now - self.progress >= STALLED_AFTER


def gateway_stream(now: float) -> Stream[GatewayMessage, HostMessage]:
    """Begin the gateway's half of a session."""
    return Stream(GatewayPacket, decode_host_packet, now, read=Longhand().read)


def host_stream(now: float) -> Stream[HostMessage, GatewayMessage]:
    """Begin the host's half of a session."""
    return Stream(HostPacket, decode_gateway_packet, now, write=Shorthand().write)


def _halves(messages: list[Any]) -> tuple[list[Any], list[Any]] | None:
    """Cut messages in two, or the batch that is the only one of them; None for what cannot be cut."""
    if len(messages) > 1:
        middle = len(messages) // 2
        return messages[:middle], messages[middle:]
    match messages:
        case [InputBatch(inputs, epoch, again)] if len(inputs) > 1:
            middle = len(inputs) // 2
            return [InputBatch(inputs[:middle], epoch, again)], [InputBatch(inputs[middle:], epoch, again)]
        case [EntryBatch(entries)] if len(entries) > 1:
            middle = len(entries) // 2
            return [EntryBatch(entries[:middle])], [EntryBatch(entries[middle:])]
        case [EntryBatch([Entry() as entry])] if (parts := halves_of(entry)) is not None:
            return [EntryBatch([parts[0]])], [EntryBatch([parts[1]])]
        case _:
            return None
