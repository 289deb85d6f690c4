"""A gateway that only pretends, a host to start, and a room that writes down what happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

import pytest

from verani.messages import (
    PROTOCOL_VERSIONS,
    Close,
    Connect,
    Deliver,
    Drain,
    Drained,
    Entry,
    EntryBatch,
    Frame,
    GatewayMessage,
    Hello,
    HostMessage,
    Input,
    InputBatch,
    Output,
    Pull,
    Record,
    Snapshot,
    decode_gateway_message,
    decode_host_message,
    encode_message,
)
from verani.meta import ConnectionMeta
from verani.room import RoomDefinition, define_room
from verani.settings import Settings
from verani_actors.host import RoomHost

Room = RoomDefinition[Any, Any]


class FakeGateway:
    """Keep what a gateway keeps, for one host; with `coded`, every message travels as bytes."""

    def __init__(self, host: RoomHost, *, id: str = "g1", coded: bool = False) -> None:
        self.id = id
        self.answers = True
        self.pulls: list[Pull] = []
        self.batches: list[EntryBatch] = []
        self.entries: list[Entry] = []
        self.outputs: list[Output] = []
        self.processed: dict[str, int] = {}
        self._host = host
        self._coded = coded
        self._records: dict[str, dict[str, Record]] = {}
        self._unprocessed: list[Input] = []
        self._number = 0
        self._sent = 0
        host.link(id, self._take)
        self.say(Hello(versions=PROTOCOL_VERSIONS, build="test", gateway=id, incarnation="1"))

    # --- to the host ---

    def say(self, message: GatewayMessage) -> None:
        if self._coded:
            message = decode_gateway_message(encode_message(message))
        self._host.receive(self.id, message)

    def put(self, *inputs: Input) -> None:
        """Send inputs in one batch."""
        self._unprocessed.extend(inputs)
        self._sent += 1
        self.say(InputBatch(self._sent, len(self.batches), list(inputs)))

    def number(self) -> int:
        self._number += 1
        return self._number

    def connect(self, definition: Room, connection: str, room: str = "chat/a") -> Connect:
        meta = ConnectionMeta(user_id=f"user of {connection}", client_id=connection)
        return Connect(room, self.number(), connection, definition.codec(16384).encode(meta))

    def frame(
        self, connection: str, data: Any, *, event: str = "n", room: str = "chat/a", request: int | None = None
    ) -> Frame:
        return Frame(room, self.number(), connection, event, str(data).encode(), request=request)

    def close(self, connection: str, room: str = "chat/a") -> Close:
        return Close(room, self.number(), connection, 1000, "bye")

    def answer(self, pull: Pull) -> None:
        """Answer a pull, one record a chunk, as a gateway with large attachments does."""
        records = list(self._records.get(pull.room, {}).values())
        for record in records:
            self.say(Snapshot(pull.room, pull.incarnation, [record], last=False))
        self.say(Snapshot(pull.room, pull.incarnation, []))

    # --- from the host ---

    def _take(self, message: HostMessage) -> None:
        if self._coded:
            message = decode_host_message(encode_message(message))
        match message:
            case Pull():
                self.pulls.append(message)
                if self.answers:
                    self.answer(message)
            case EntryBatch():
                self.batches.append(message)
                for entry in message.entries:
                    self._apply(entry)
            case Hello():
                assert message.versions == PROTOCOL_VERSIONS

    def _apply(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.outputs.extend(entry.outputs)
        for output in entry.outputs:
            if isinstance(output, Drain):
                self.say(Drained(entry.room, output.token))
        records = self._records.setdefault(entry.room, {})
        for attach in entry.attachments:
            if attach.connection in records:
                records[attach.connection] = Record(attach.connection, attach.attachment)
        if entry.processed is None:
            return
        assert entry.processed > self.processed.get(entry.room, 0), "an input is acknowledged once"
        self.processed[entry.room] = entry.processed
        # A connect's attachment may have been replaced by the very entry that acknowledges it.
        newer = {attach.connection: attach.attachment for attach in entry.attachments}
        left: list[Input] = []
        for input in self._unprocessed:
            if input.room != entry.room or input.number > entry.processed:
                left.append(input)
            elif isinstance(input, Connect):
                records[input.connection] = Record(input.connection, newer.get(input.connection, input.attachment))
            elif isinstance(input, Close):
                records.pop(input.connection, None)
        self._unprocessed = left

    def texts(self) -> list[bytes]:
        return [output.payload for output in self.outputs if isinstance(output, Deliver)]


class Start(Protocol):
    """The fixture `start`."""

    def __call__(self, *rooms: Room, clock: Any = ..., **settings: Any) -> Awaitable[RoomHost]: ...


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    hosts: list[RoomHost] = []

    async def start(*rooms: Room, clock: Any = None, **settings: Any) -> RoomHost:
        arguments = {} if clock is None else {"clock": clock}
        host = RoomHost(rooms, Settings(**settings), **arguments)
        await host.start()
        hosts.append(host)
        return host

    yield start
    for host in hosts:
        await host.stop(1.0)


class Recorder:
    """A room that writes down what happens to it; its handler `n` may be held up."""

    def __init__(self, **options: Any) -> None:
        self.seen: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.hold: int | None = None
        self.room: Room = define_room("chat", **options)
        self.room.on("n")(self._n)
        self.room.on_connect(lambda ctx: self.seen.append(("connect", ctx.actor.get_session_count())))
        self.room.on_disconnect(lambda ctx: self.seen.append(("disconnect", ctx.meta.user_id, ctx.close_code)))
        self.room.on_hibernation_restore(
            lambda actor: self.seen.append(("restore", actor.get_session_count(), actor.wake_reason))
        )

    async def _n(self, ctx: Any, data: Any) -> None:
        if data == self.hold:
            self.seen.append("held")
            await self.gate.wait()
        self.seen.append(data)

    @property
    def numbers(self) -> list[int]:
        return [item for item in self.seen if isinstance(item, int)]
