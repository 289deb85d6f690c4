"""A gateway that only pretends, a host to start, and a room that writes down what happens to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

import pytest

from tests.judged import lifetimes, pytest_runtest_call, settled  # noqa: F401
from verani.link.messages import (
    Attach,
    CallInput,
    Close,
    Connect,
    Deliver,
    Drain,
    Drained,
    Entry,
    EntryBatch,
    FrameInput,
    GatewayMessage,
    GatewayPacket,
    HostMessage,
    HostPacket,
    Input,
    InputBatch,
    Kick,
    Outcome,
    Output,
    Pull,
    Record,
    Reply,
    Seat,
    Snapshot,
    decode_gateway_packet,
    decode_host_packet,
    encode_message,
)
from verani.room.definition import RoomDefinition, define_room
from verani.room.meta import ConnectionMeta
from verani.settings import Settings
from verani_actors.membership.share import Ownership
from verani_actors.rooms.host import RoomHost

Room = RoomDefinition[Any, Any]


class Held:
    """What a gateway keeps of one connection, from its connect until its close was processed."""

    def __init__(self, attachment: bytes) -> None:
        self.attachment = attachment
        self.order = 0
        self.connected = False
        self.closing = False
        self.refused = False
        # Its client has gone: nothing reaches it any more.
        self.gone = False


class FakeGateway:
    """Keep what a gateway keeps, for one host; with `coded`, every message travels as bytes."""

    def __init__(self, host: RoomHost, *, id: str = "g1", coded: bool = False, answers: bool = True) -> None:
        self.id = id
        self.answers = answers
        self.pulls: list[Pull] = []
        self.batches: list[EntryBatch] = []
        self.entries: list[Entry] = []
        self.outputs: list[Output] = []
        self.replies: dict[int, Outcome] = {}
        # What each client saw: frames, and at last how it was closed.
        self.seen: dict[str, list[bytes | tuple[int, str]]] = {}
        self.processed: dict[str, int] = {}
        self.held: dict[str, dict[str, Held]] = {}
        self.unprocessed: list[Input] = []
        self._host = host
        self._coded = coded
        self._number = 0
        host.link(id, self._take)

    # --- to the host ---

    def say(self, message: GatewayMessage) -> None:
        if self._coded:
            (message,) = decode_gateway_packet(encode_message(GatewayPacket(1, 0, [message]))).messages
        self._host.receive(self.id, message)

    def put(self, *inputs: Input) -> None:
        """Send inputs in one batch."""
        for input in inputs:
            records = self.held.setdefault(input.room, {})
            if isinstance(input, Connect):
                records[input.connection] = Held(input.attachment)
            elif isinstance(input, Close) and input.connection in records:
                records[input.connection].gone = True
        self.unprocessed.extend(inputs)
        self.say(InputBatch(list(inputs)))

    def number(self) -> int:
        self._number += 1
        return self._number

    def connect(
        self, definition: Room, connection: str, room: str = "chat/a", meta: ConnectionMeta | None = None
    ) -> Connect:
        meta = meta or ConnectionMeta(user_id=f"user of {connection}", client_id=connection)
        return Connect(room, self.number(), connection, definition.codec(16384).encode(meta))

    def frame(
        self, connection: str, data: Any, *, event: str = "n", room: str = "chat/a", request: int | None = None
    ) -> FrameInput:
        return FrameInput(room, self.number(), connection, event, str(data).encode(), request=request)

    def close(self, connection: str, room: str = "chat/a", code: int = 1000, reason: str = "bye") -> Close:
        return Close(room, self.number(), connection, code, reason)

    def call(self, method: str, arguments: Any = (), room: str = "chat/a", timeout: float = 60.0) -> CallInput:
        return CallInput(room, self.number(), method, json.dumps(arguments).encode(), timeout)

    def records(self, room: str = "chat/a") -> list[Record]:
        """List the records of a room as of its last processed input."""
        return [
            Record(connection, held.attachment, held.closing, held.order)
            for connection, held in self.held.get(room, {}).items()
            if held.connected and not held.refused
        ]

    def chunks(self, pull: Pull) -> list[Snapshot]:
        """Answer a pull in words, one record a chunk, as a gateway with large attachments does."""
        records = self.records(pull.room)
        return [
            *(Snapshot(pull.room, pull.incarnation, [record], last=False) for record in records),
            Snapshot(pull.room, pull.incarnation, []),
        ]

    def answer(self, pull: Pull) -> None:
        for chunk in self.chunks(pull):
            self.say(chunk)

    # --- from the host ---

    def _take(self, message: HostMessage) -> None:
        if self._coded:
            (message,) = decode_host_packet(encode_message(HostPacket(1, 0, [message]))).messages
        match message:
            case Pull():
                self.pulls.append(message)
                if self.answers:
                    self.answer(message)
            case EntryBatch():
                self.batches.append(message)
                for entry in message.entries:
                    self._apply(entry)

    def _apply(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.outputs.extend(entry.outputs)
        records = self.held.get(entry.room, {})
        for output in entry.outputs:
            self._output(entry.room, output, records)
        for note in entry.attachments:
            held = records.get(note.connection)
            if held is not None:
                match note:
                    case Attach():
                        held.attachment = note.attachment
                    case Seat():
                        held.order = note.order
        if entry.processed is not None:
            self._acknowledge(entry, entry.processed, records)

    def _output(self, room: str, output: Output, records: dict[str, Held]) -> None:
        match output:
            case Deliver():
                for connection in output.connections:
                    if connection not in output.exclude:
                        self._show(connection, output.payload, records)
            case Kick():
                self._show(output.connection, (output.code, output.reason), records)
                held = records.get(output.connection)
                if held is not None:
                    held.closing = True
                    held.refused = output.refused
            case Drain():
                self.say(Drained(room, output.token))
            case Reply():
                assert output.call not in self.replies, "a call is answered once"
                self.replies[output.call] = output.outcome

    def _show(self, connection: str, item: bytes | tuple[int, str], records: dict[str, Held]) -> None:
        held = records.get(connection)
        if held is not None and not held.closing and not held.gone:
            self.seen.setdefault(connection, []).append(item)

    def _acknowledge(self, entry: Entry, number: int, records: dict[str, Held]) -> None:
        assert number > self.processed.get(entry.room, 0), "an input is acknowledged once"
        self.processed[entry.room] = number
        left: list[Input] = []
        for input in self.unprocessed:
            if input.room != entry.room or input.number > number:
                left.append(input)
            elif isinstance(input, Connect):
                records[input.connection].connected = True
            elif isinstance(input, Close):
                records.pop(input.connection, None)
        self.unprocessed = left

    def texts(self) -> list[bytes]:
        return [output.payload for output in self.outputs if isinstance(output, Deliver)]


class Start(Protocol):
    """The fixture `start`."""

    def __call__(
        self, *rooms: Room, clock: Any = ..., ownership: Ownership | None = ..., **settings: Any
    ) -> Awaitable[RoomHost]: ...


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    hosts: list[RoomHost] = []

    async def start(*rooms: Room, clock: Any = None, ownership: Ownership | None = None, **settings: Any) -> RoomHost:
        arguments = {} if clock is None else {"clock": clock}
        host = RoomHost(rooms, Settings(**settings), ownership=ownership, **arguments)
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
