"""Stand between the ends of a link, or in place of one of them, and break what can break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from verani.link.messages import (
    CallInput,
    Deliver,
    Entry,
    EntryBatch,
    FrameInput,
    GatewayMessage,
    HostMessage,
    InputBatch,
)
from verani_actors.links.flow import Flow

__all__ = ["FakeHost", "Proxy", "call", "frame"]


class FakeHost:
    """A room host that writes down what it is given and answers each frame with an entry, or with many bytes."""

    def __init__(self, *, answers: bool = True, size: int = 0) -> None:
        self.gateways: dict[str, Callable[[HostMessage], None]] = {}
        self.received: list[tuple[str, GatewayMessage]] = []
        self.unlinked: list[str] = []
        # Rooms that `unlink` names.
        self.rooms: list[str] = []
        self.runs = 0
        self.answers = answers
        self.size = size
        self.flow = Flow()
        self.wakes = 0
        # How long the rooms have waited for each gateway.
        self.waits: dict[str, float] = {}

    def link(self, gateway: str, send: Callable[[HostMessage], None]) -> None:
        self.gateways[gateway] = send

    def unlink(self, gateway: str) -> list[str]:
        del self.gateways[gateway]
        self.unlinked.append(gateway)
        return list(self.rooms)

    def receive(self, gateway: str, message: GatewayMessage) -> None:
        self.received.append((gateway, message))
        if isinstance(message, InputBatch) and self.answers:
            self.gateways[gateway](
                EntryBatch(
                    [
                        Entry(input.room, input.number, outputs=[Deliver(("c",), bytes(self.size))], seq=input.number)
                        for input in message.inputs
                    ]
                )
            )

    def longest_wait(self, gateway: str) -> float:
        return self.waits.get(gateway, 0.0)

    def run(self) -> None:
        self.runs += 1

    def flush(self) -> None: ...

    def numbers(self, gateway: str = "g") -> list[int]:
        """List the numbers of the inputs of a gateway, as they came."""
        return [
            input.number
            for sender, message in self.received
            if sender == gateway and isinstance(message, InputBatch)
            for input in message.inputs
        ]


class Proxy:
    """A Unix socket before another one: it cuts connections, also in the middle of a packet, or stops to carry."""

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self.connections = 0
        # Bytes that are still carried before the next cut; None: any number.
        self.fuse: int | None = None
        self._target = target
        self._going = asyncio.Event()
        self._going.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=1 << 12)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            further_reader, further_writer = await asyncio.open_unix_connection(self._target, limit=1 << 12)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, further_writer}
        for source, sink in ((reader, further_writer), (further_reader, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 12):
                await self._going.wait()
                if self.fuse is not None:
                    data, self.fuse = data[: self.fuse], self.fuse - len(data)
                    if self.fuse <= 0:
                        sink.write(data)
                        self.fuse = None
                        self.cut()
                        return
                sink.write(data)
                await sink.drain()
        sink.close()

    def freeze(self) -> None:
        """Carry nothing for the time being, and read nothing."""
        self._going.clear()

    def thaw(self) -> None:
        self._going.set()

    def cut(self) -> None:
        """End all connections; what is in flight is lost."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def stop(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def frame(number: int, room: str = "chat/a", data: bytes = b"1") -> FrameInput:
    return FrameInput(room, number, "c", "n", data)


def call(number: int, size: int, room: str = "chat/a") -> CallInput:
    return CallInput(room, number, "m", bytes(size), 5.0)
