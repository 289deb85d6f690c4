"""Write to clients: every byte for a connection passes its outbox, and leaves at the end of the tick, or before.

What goes to many clients at once leaves in slices, so that others need not wait until all of it is written.

Invariants:
- Order is kept per connection: parts leave in the order they were put.
- A run of broadcasts to one audience is joined once and written as one buffer to each member; it ends at any
  other output of its room and at 256 KiB, so joining never reorders.
- What is for few is written at the end of its tick, whatever waits for many; in a slice, as much more is written as
  waits, so that what waits stays bounded by how fast it comes.
- Unsent bytes of a connection are bounded: its transport holds at most `limit` and one part; when more waits and the
  transport does not empty, the connection is slow, and nothing of what waits is written any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from operator import attrgetter
from struct import Struct
from typing import Protocol

from ..inputs.metrics import Metrics
from .deflate import deflated

__all__ = [
    "LOOKS",
    "MAX_RUN",
    "MAX_WAITING",
    "Outbox",
    "Run",
    "Writer",
    "close_frame",
    "control_frame",
    "deflated_frame",
    "text_frame",
]

# A joined run of broadcasts ends here (design section 7).
MAX_RUN = 256 << 10

# A burst that does not fit into a transport is looked at this often, in seconds, and so many times before its
# client counts as slow: half of the limit must have left by then. One that reads has done so, and a loop that writes
# at the end of its iteration (uvloop) has tried.
LOOK = 0.01
LOOKS = 5

# What may wait beyond the limit meanwhile: the output of one hook. Broadcasts wait as one object for all.
MAX_WAITING = 16 << 20

# A run for more members than this is written in slices: seconds of each, and bytes that wait for which it is longer by
# as much again.
MANY = 32
SLICE = 0.005
CALM = 32 << 20

# RFC 6455 5.2: final fragment, opcode text; lengths in one, three or nine bytes.
_SHORT = Struct("!BB").pack
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack
_TEXT = 0x81
# RFC 7692 6: with the bit of the extension.
_DEFLATED = 0xC1
_CLOSE = 0x88


def text_frame(payload: bytes, first: int = _TEXT) -> bytes:
    """Wrap a payload in an unmasked WebSocket text frame; `first` is the first byte of the header."""
    length = len(payload)
    if length < 126:
        return _SHORT(first, length) + payload
    if length < 65536:
        return _MEDIUM(first, 126, length) + payload
    return _LONG(first, 127, length) + payload


def deflated_frame(payload: bytes, least: int) -> bytes:
    """Wrap a payload in a text frame, compressed if it has at least so many bytes, and gets smaller."""
    if len(payload) >= least:
        data = deflated(payload)
        if len(data) < len(payload):
            return text_frame(data, _DEFLATED)
    return text_frame(payload)


def control_frame(opcode: int, payload: bytes) -> bytes:
    """Wrap at most 125 bytes in a control frame: 8 close, 9 ping, 10 pong."""
    return _SHORT(0x80 | opcode, len(payload)) + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Build a close frame, empty without a code; the reason is cut to what fits (RFC 6455 5.5)."""
    if code is None:
        return _SHORT(_CLOSE, 0)
    body = code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()
    return _SHORT(_CLOSE, len(body)) + body


class Consumer(Protocol):
    """Whose client does not read."""

    def too_slow(self) -> None:
        """Close; nothing of what waits is written any more."""


class Outbox:
    """What waits to be written to one connection, which is not kept by it: `consumer` is a weak reference."""

    __slots__ = (
        "__weakref__",
        "_consumer",
        "_limit",
        "_looks",
        "_parts",
        "_patient",
        "_sealed",
        "_transport",
        "_writer",
        "deflates_from",
        "pending",
    )

    def __init__(
        self, writer: Writer, transport: asyncio.WriteTransport, limit: int, consumer: Callable[[], Consumer | None]
    ) -> None:
        self._writer = writer
        self._transport = transport
        self._limit = limit
        self._consumer = consumer
        self._parts: list[bytes] = []
        self._sealed = False
        # Scheduled, and all that waits is for many.
        self._patient = False
        self._looks = 0
        # Bytes put and not yet given to the transport.
        self.pending = 0
        # The size from which on what a room says is to be compressed; None for a client that takes nothing compressed.
        self.deflates_from: int | None = None

    def put(self, data: bytes, *, patient: bool = False) -> None:
        """Queue ready WebSocket frames, `patient` ones if they are for many; dropped once the outbox is sealed."""
        if self._sealed:
            return
        parts = self._parts
        if not parts or (self._patient and not patient):
            self._patient = patient
            writer = self._writer
            if patient:
                writer.have_patience(self)
            else:
                writer.dirty.append(self)
                if writer.is_resting:
                    writer.start()
        parts.append(data)
        self.pending = pending = self.pending + len(data)
        if pending > self._limit + MAX_WAITING:
            self._give_up()

    def write(self, data: bytes) -> None:
        """Do what `put` does, and give the frames to the transport at once if nothing waits and they fit."""
        transport, size = self._transport, len(data)
        if (
            self._parts
            or self._sealed
            or transport.is_closing()
            or transport.get_write_buffer_size() + size > self._limit
        ):
            self.put(data)
        else:
            transport.write(data)
            self._writer.metrics.sent_bytes += size

    def seal(self, last: bytes) -> None:
        """Queue the close frame and take nothing after it."""
        self.put(last)
        self._sealed = True

    @property
    def unsent(self) -> int:
        """Bytes that have not reached the socket."""
        return self.pending + self._transport.get_write_buffer_size()

    def flush(self) -> None:
        """Give the transport what waits, as long as it holds no more than the limit."""
        transport, parts, pending = self._transport, self._parts, self.pending
        if not parts:
            return
        if transport.is_closing():
            parts.clear()
            self.pending = 0
            return
        room = self._limit - transport.get_write_buffer_size()
        if pending <= room or self._sealed:
            transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
            self._writer.metrics.sent_bytes += pending
            parts.clear()
            self.pending = 0
            return
        self._patient = False
        fits = 0
        while fits < len(parts) and room > 0:
            begin, size = fits, len(parts[fits])
            fits += 1
            while fits < len(parts) and size + len(parts[fits]) <= room:
                size += len(parts[fits])
                fits += 1
            transport.write(b"".join(parts[begin:fits]))
            self.pending -= size
            self._writer.metrics.sent_bytes += size
            room = self._limit - transport.get_write_buffer_size()
        del parts[:fits]
        if parts or room < 0:
            self._writer.look_again(self)

    def judge(self) -> None:
        """Go on with what did not fit; call the connection slow if its transport does not empty."""
        held = self._transport.get_write_buffer_size()
        if self._sealed or (not self._parts and held <= self._limit) or held <= self._limit // 2:
            self._looks = 0
            self.flush()
        elif self._looks == LOOKS:
            self._give_up()
        else:
            self._looks += 1
            self._writer.look_again(self)

    def _give_up(self) -> None:
        self._parts.clear()
        self.pending = 0
        if (consumer := self._consumer()) is not None:
            consumer.too_slow()


class Run:
    """Consecutive broadcasts of one room to one audience."""

    __slots__ = ("connections", "exclude", "payloads", "size")

    def __init__(self, connections: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        self.connections = connections
        self.exclude = exclude
        self.payloads: list[bytes] = []
        self.size = 0

    def takes(self, connections: tuple[str, ...], exclude: tuple[str, ...], size: int) -> bool:
        """Tell whether one more broadcast belongs to this run."""
        return (
            (connections is self.connections or connections == self.connections)
            and exclude == self.exclude
            and self.size + size <= MAX_RUN
        )

    def add(self, payload: bytes) -> None:
        """Append a message."""
        self.payloads.append(payload)
        self.size += len(payload)

    def put(self, outboxes: Mapping[str, Outbox]) -> int:
        """Hand the run to its members that are still connected; returns how many frames they get together."""
        payloads, exclude, patient = self.payloads, self.exclude, len(self.connections) > MANY
        data = text_frame(payloads[0]) if len(payloads) == 1 else b"".join(map(text_frame, payloads))
        small, missing = b"", 0
        for connection in self.connections:
            outbox = outboxes.get(connection)
            if outbox is None or connection in exclude:
                missing += 1
                continue
            if outbox.deflates_from is None:
                outbox.put(data, patient=patient)
            else:
                small = small or b"".join(deflated_frame(each, outbox.deflates_from) for each in payloads)
                outbox.put(small, patient=patient)
        return len(payloads) * (len(self.connections) - missing)


class Writer:
    """Flush all outboxes of a gateway once per tick; outboxes that hold only broadcasts to many, in slices."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop = loop
        self.metrics = metrics
        # Those whose turn is at the end of the tick; and whether nobody will `flush` them yet.
        self.dirty: list[Outbox] = []
        self.is_resting = True
        self._handle: asyncio.Handle | None = None
        self._patient: OrderedDict[Outbox, None] = OrderedDict()
        self._slice: asyncio.Handle | None = None
        self._suspects: dict[Outbox, None] = {}
        self._second_look: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Flush at the end of the tick."""
        self.is_resting = False
        self._handle = self._loop.call_soon(self.flush)

    def hold(self) -> None:
        """Leave it to the caller to `flush` before it returns to the loop."""
        self.is_resting = False

    def have_patience(self, outbox: Outbox) -> None:
        """Flush this outbox in its turn."""
        self._patient[outbox] = None
        if self._slice is None:
            self._slice = self._loop.call_soon(self._write_slice)

    def flush(self) -> None:
        """Write what the outboxes hold whose turn is now."""
        self.is_resting = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        dirty = self.dirty
        while dirty:
            dirty.pop().flush()

    def _write_slice(self) -> None:
        self._slice = None
        patient, now = self._patient, self._loop.time
        waiting = len(patient) * next(iter(patient)).pending if patient else 0  # they hold about the same
        until = now() + SLICE * (1 + waiting // CALM)
        while patient:
            patient.popitem(last=False)[0].flush()
            if now() >= until:
                break
        if patient:
            self._slice = self._loop.call_soon(self._write_slice)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of outboxes whose turn has not come, or whose transports are full."""
        return sum(map(attrgetter("pending"), {*self.dirty, *self._patient, *self._suspects}))

    def look_again(self, outbox: Outbox) -> None:
        """Judge this outbox once its client had a moment to read."""
        self._suspects[outbox] = None
        if self._second_look is None:
            self._second_look = self._loop.call_later(LOOK, self._judge)

    def _judge(self) -> None:
        self._second_look = None
        suspects, self._suspects = self._suspects, {}
        for outbox in suspects:
            outbox.judge()

    def close(self) -> None:
        """Flush for the last time and drop the timer."""
        self.flush()
        while self._patient:
            self._patient.popitem()[0].flush()
        if self._slice is not None:
            self._slice.cancel()
        if self._second_look is not None:
            self._second_look.cancel()
