"""Make load on a WebSocket server and check every delivery: arrived, in order per sender, none twice.

The client is a bare asyncio protocol, so that it costs less than what it measures.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import cast

from .wires import FRAMES, Wire

__all__ = ["Client", "Report", "Scenario", "open_clients", "run_scenario", "sever"]

_TEXT, _PING, _PONG = 0x81, 0x89, 0x8A
# At loopback, with nobody to wait for: the port is free again at once, also after ten thousand connections.
_NO_LINGER = struct.pack("ii", 1, 0)
# A server that lets nobody in for so long never will.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Scenario:
    """`senders` per room keep `window` frames under way each, `messages` in all each.

    `size` is how many bytes of text each frame carries beside its number. With a `rate`, all senders together send
    so many frames a second, whatever comes back.
    """

    name: str
    event: str
    rooms: int
    members: int
    senders: int
    messages: int
    window: int
    size: int = 0
    rate: float = 0

    @property
    def deliveries(self) -> int:
        receivers = self.members if self.event == "cast" else 1
        return self.rooms * self.senders * self.messages * receivers


@dataclass
class Report:
    """What came back; `latencies` are those of senders, and of everybody where frames are sent at a rate."""

    delivered: int = 0
    out_of_order: int = 0
    latencies: list[float] = field(default_factory=list)
    # After how many deliveries nobody waits for more.
    expected: int = 0
    # When each frame of a sender left.
    starts: dict[int, list[float]] = field(default_factory=dict)


class Client(asyncio.Protocol):
    """One connection: counts what comes, and sends while it is a sender with frames left."""

    def __init__(
        self,
        scenario: Scenario,
        report: Report,
        sender: int | None,
        room: str,
        done: asyncio.Event,
        wire: Wire = FRAMES,
    ) -> None:
        self._scenario = scenario
        self._report = report
        self._sender = sender
        self._room = room
        self._done = done
        self._wire = wire
        self._buffer = b""
        self._last: dict[int, int] = {}
        self._due = 0
        self._starts: list[float] = []
        self._outbox: list[bytes] = []
        self._padding = b',"p":"%b"' % (b"x" * scenario.size) if scenario.size else b""
        if sender is not None:
            report.starts[sender] = self._starts
        self._upgraded = False
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one, and does not inherit from it
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET {self._wire.path(self._room)} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    @property
    def sends(self) -> bool:
        return self._sender is not None

    def start(self, messages: int) -> None:
        """Send the first window of so many more messages."""
        if self._sender is not None:
            self._due += messages
            self.send(min(self._scenario.window, self._due - len(self._starts)))

    def send(self, count: int) -> None:
        """Send the next frames, whatever is under way."""
        self._add(count)
        self._flush()

    def _add(self, count: int) -> None:
        assert self._sender is not None
        now = time.perf_counter()
        for _ in range(count):
            data = b'{"s":%d,"n":%d%b}' % (self._sender, len(self._starts), self._padding)
            self._outbox.append(_masked(_TEXT, self._wire.encode(self._scenario.event, data)))
            self._starts.append(now)

    def _flush(self) -> None:
        """Write once for all answers of one read: the load must be cheaper than what it measures."""
        self.transport.write(b"".join(self._outbox))
        self._outbox.clear()

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        position = 0
        if not self._upgraded:
            position = self._upgrade(data)
            if not self._upgraded:
                self._buffer = data
                return
        size = len(data)
        while size - position >= 2:
            length, start = data[position + 1], position + 2
            if length >= 126:
                end = start + (2 if length == 126 else 8)
                if size < end:
                    break
                length, start = int.from_bytes(data[start:end], "big"), end
            if size - start < length:
                break
            if data[position] == _TEXT:
                self._take(data[start : start + length])
            elif data[position] == _PING:
                self.transport.write(_masked(_PONG, data[start : start + length]))
            position = start + length
        self._buffer = data[position:]
        if self._outbox:
            self._flush()

    def _upgrade(self, data: bytes) -> int:
        """Look at the answer to the handshake; return where frames begin, once it is there."""
        end = data.find(b"\r\n\r\n")
        if end >= 0 and data.startswith(b"HTTP/1.1 101"):
            self._upgraded = True
            if self._wire.opens_at_once:
                self.open.set_result(None)
        elif end >= 0 and not self.open.done():
            self.open.set_exception(ConnectionError(data[:80].decode(errors="replace")))
        return end + 4

    def _take(self, payload: bytes) -> None:
        event = self._wire.decode(payload)
        if event is None:
            self._control(payload)
            return
        report = self._report
        if event.n != self._last.get(event.s, -1) + 1:
            report.out_of_order += 1
        self._last[event.s] = event.n
        report.delivered += 1
        mine = event.s == self._sender
        if mine or self._scenario.rate:
            report.latencies.append(time.perf_counter() - report.starts[event.s][event.n])
        if mine and not self._scenario.rate and len(self._starts) < self._due:
            self._add(1)
        if report.delivered == report.expected:
            self._done.set()

    def _control(self, payload: bytes) -> None:
        if answer := self._wire.answer(payload):
            self.transport.write(_masked(_TEXT, answer))
        if self._wire.opens(payload) and not self.open.done():
            self.open.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.open.done():
            self.open.set_exception(error or ConnectionError("closed during the handshake"))


def _masked(first: int, body: bytes) -> bytes:
    """Make a frame of a client. A mask of zeros is a mask: the payload stays as it is."""
    length = len(body)
    if length < 126:
        return bytes([first, 0x80 | length, 0, 0, 0, 0]) + body
    if length < 1 << 16:
        return bytes([first, 0x80 | 126]) + length.to_bytes(2, "big") + bytes(4) + body
    return bytes([first, 0x80 | 127]) + length.to_bytes(8, "big") + bytes(4) + body


async def open_clients(
    port: int, scenario: Scenario, report: Report, done: asyncio.Event, wire: Wire = FRAMES, *, prefix: str = "r"
) -> list[Client]:
    """Connect everybody, some at a time, to rooms whose names begin alike."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    for room in range(scenario.rooms):
        for member in range(scenario.members):
            sender = room * scenario.members + member if member < scenario.senders else None
            clients.append(Client(scenario, report, sender, f"{prefix}{room}", done, wire))
    for first in range(0, len(clients), 100):
        batch = clients[first : first + 100]
        await asyncio.gather(*(loop.create_connection(lambda c=c: c, "127.0.0.1", port) for c in batch))  # type: ignore[misc]
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(client.open for client in batch))
    return clients


def sever(clients: list[Client]) -> None:
    """End all connections at once, without a goodbye."""
    for client in clients:
        peer: socket.socket | None = client.transport.get_extra_info("socket")
        if peer is not None and not client.transport.is_closing():
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        client.transport.abort()


async def run_scenario(port: int, scenario: Scenario, started: asyncio.Event, timeout: float = 120) -> Report:
    """Run one scenario; `started` is set once all are connected and before the first frame is sent."""
    report, done = Report(expected=scenario.deliveries), asyncio.Event()
    clients = await open_clients(port, scenario, report, done)
    started.set()
    for client in clients:
        client.start(scenario.messages)
    try:
        await asyncio.wait_for(done.wait(), timeout)
    except TimeoutError:
        pass  # the report shows what is missing
    finally:
        for client in clients:
            client.transport.abort()
    return report
