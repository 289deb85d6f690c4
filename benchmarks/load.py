"""Make load on a WebSocket server and check every delivery: arrived, in order per sender, none twice.

The client is a bare asyncio protocol, so that it costs less than what it measures.
"""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import dataclass, field

import msgspec

__all__ = ["Client", "Report", "Scenario", "run_scenario"]


class _Data(msgspec.Struct):
    s: int
    n: int


class _Event(msgspec.Struct):
    data: _Data


_PONG = b'{"type":"pong"}'
_decode = msgspec.json.Decoder(_Event).decode


@dataclass(frozen=True)
class Scenario:
    """`senders` per room keep `window` frames under way each, `messages` in all each."""

    name: str
    event: str
    rooms: int
    members: int
    senders: int
    messages: int
    window: int

    @property
    def deliveries(self) -> int:
        receivers = self.members if self.event == "cast" else 1
        return self.rooms * self.senders * self.messages * receivers


@dataclass
class Report:
    """What came back."""

    delivered: int = 0
    out_of_order: int = 0
    latencies: list[float] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One connection: counts what comes, and sends while it is a sender with frames left."""

    def __init__(self, scenario: Scenario, report: Report, sender: int | None, room: str, done: asyncio.Event) -> None:
        self._scenario = scenario
        self._report = report
        self._sender = sender
        self._room = room
        self._done = done
        self._buffer = b""
        self._last: dict[int, int] = {}
        self._sent = 0
        self._returned = 0
        self._started: dict[int, float] = {}
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /ws?room={self._room} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def start(self) -> None:
        """Send the first window."""
        if self._sender is not None:
            self._send(min(self._scenario.window, self._scenario.messages))

    def _send(self, count: int) -> None:
        assert self._sender is not None
        now = asyncio.get_running_loop().time()
        frames = []
        for _ in range(count):
            body = b'{"type":"%b","data":{"s":%d,"n":%d}}' % (self._scenario.event.encode(), self._sender, self._sent)
            # A mask of zeros is a mask: the payload stays as it is.
            frames.append(bytes([0x81, 0x80 | len(body), 0, 0, 0, 0]) + body)
            self._started[self._sent] = now
            self._sent += 1
        self.transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        position = 0
        if not self.open.done():
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.open.set_exception(ConnectionError(data[:80].decode(errors="replace")))
                return
            position = end + 4
            self.open.set_result(None)
        size = len(data)
        while size - position >= 2:
            length, start = data[position + 1], position + 2
            if length == 126:
                if size - start < 2:
                    break
                length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            if size - start < length:
                break
            # A sign of life, which unread clients get, has no data.
            if data[position] == 0x81 and data[start : start + length] != _PONG:
                self._take(data[start : start + length])
            position = start + length
        self._buffer = data[position:]

    def _take(self, payload: bytes) -> None:
        event = _decode(payload).data
        if event.n != self._last.get(event.s, -1) + 1:
            self._report.out_of_order += 1
        self._last[event.s] = event.n
        self._report.delivered += 1
        if event.s == self._sender:
            self._returned += 1
            self._report.latencies.append(asyncio.get_running_loop().time() - self._started.pop(event.n))
            if self._sent < self._scenario.messages:
                self._send(1)
        if self._report.delivered == self._scenario.deliveries:
            self._done.set()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.open.done():
            self.open.set_exception(error or ConnectionError("closed during the handshake"))


async def open_clients(port: int, scenario: Scenario, report: Report, done: asyncio.Event) -> list[Client]:
    """Connect everybody, some at a time."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    for room in range(scenario.rooms):
        for member in range(scenario.members):
            sender = room * scenario.members + member if member < scenario.senders else None
            clients.append(Client(scenario, report, sender, f"r{room}", done))
    for first in range(0, len(clients), 100):
        batch = clients[first : first + 100]
        await asyncio.gather(*(loop.create_connection(lambda c=c: c, "127.0.0.1", port) for c in batch))  # type: ignore[misc]
        await asyncio.gather(*(client.open for client in batch))
    return clients


async def run_scenario(port: int, scenario: Scenario, started: asyncio.Event, timeout: float = 120) -> Report:
    """Run one scenario; `started` is set once all are connected and before the first frame is sent."""
    report, done = Report(), asyncio.Event()
    clients = await open_clients(port, scenario, report, done)
    started.set()
    for client in clients:
        client.start()
    try:
        await asyncio.wait_for(done.wait(), timeout)
    except TimeoutError:
        pass  # the report shows what is missing
    finally:
        for client in clients:
            client.transport.abort()
    return report
