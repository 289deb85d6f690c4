"""A room without actors or sockets: the engine, fed one event at a time, with every effect recorded.

`Room` feeds its engine by a `Mailbox`: one event after the other, failures posted behind what waits, and a new task
for the rest once a hook was abandoned. Time moves only by `pass_time`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import settings

from verani import ConnectionMeta, RoomDefinition, Settings
from verani.engine.engine import Engine
from verani.engine.hook_measures import HookMeasures
from verani.engine.hook_runner import CANCEL_GRACE
from verani.engine.mailbox import Mailbox
from verani.engine.room_events import Event, HookFailed, Retire, Woken
from verani.link.messages import (
    Attach,
    Close,
    Connect,
    Deliver,
    FrameInput,
    Invalid,
    Invoke,
    Kick,
    Outcome,
    Output,
    Record,
    Reply,
    Seat,
    TakenCall,
)
from verani.room.context import WakeReason

# A loaded machine must not fail a test, so examples are bounded by their number only.
settings.register_profile("verani", deadline=None)
settings.load_profile("verani")

# Turns of the event loop after which nothing moves any more unless a test lets it.
_TURNS = 40


@dataclass(frozen=True)
class Sent:
    gateway: str
    output: Output
    cause: int | None


@dataclass(frozen=True)
class Attached:
    gateway: str
    attach: Attach


@dataclass(frozen=True)
class Processed:
    gateway: str
    number: int


Effect = Sent | Attached | Processed


class Recorder:
    """A sink that keeps every effect in order, and what each client and gateway would have of them."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.received: dict[str, list[bytes]] = {}
        self.kicks: list[tuple[str, int, str]] = []
        # Kicked before they were sessions: gateways drop their records at once.
        self.refused: set[str] = set()
        self.invalid: list[str] = []
        self.attachments: dict[str, bytes] = {}
        self.seats: dict[str, int] = {}
        self.replies: dict[int, Outcome] = {}
        self.invoked: list[Invoke] = []
        self.numbers: list[tuple[str, int]] = []

    def invoke(self, invoke: Invoke) -> None:
        self.invoked.append(invoke)

    def output(self, gateway: str, output: Output, cause: int | None) -> None:
        self.effects.append(Sent(gateway, output, cause))
        match output:
            case Deliver():
                for connection in output.connections:
                    if connection not in output.exclude:
                        self.received.setdefault(connection, []).append(output.payload)
            case Kick():
                self.kicks.append((output.connection, output.code, output.reason))
                if output.refused:
                    self.refused.add(output.connection)
            case Invalid():
                self.invalid.append(output.connection)
            case Reply():
                self.replies[output.call] = output.outcome

    def attach(self, gateway: str, attach: Attach | Seat, cause: int | None) -> None:
        if isinstance(attach, Seat):
            self.seats[attach.connection] = attach.order
            return
        self.effects.append(Attached(gateway, attach))
        self.attachments[attach.connection] = attach.attachment

    def processed(self, gateway: str, number: int) -> None:
        self.effects.append(Processed(gateway, number))
        self.numbers.append((gateway, number))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Room:
    """One room and the gateways in front of it, as far as its engine can tell."""

    def __init__(
        self, definition: RoomDefinition[Any, Any], *, settings: Settings | None = None, room_id: str = "lobby"
    ) -> None:
        self.definition = definition
        self.settings = settings or Settings()
        self.room_id = room_id
        self.sink = Recorder()
        self.clock = Clock()
        self.codec = definition.codec(self.settings.max_meta_bytes)
        self.suspended: set[Engine[Any, Any]] = set()
        self.measures = HookMeasures(definition)
        # Its gateways are far behind.
        self.is_full = False
        # What the gateways keep: the records of connections whose close was not processed.
        self.gateway_of: dict[str, str] = {}
        self.posted: list[HookFailed] = []
        self._number = 0
        self.mail: Mailbox[tuple[Event, str]] = Mailbox(self._handle)
        self.engine = self._incarnate()

    # --- life ------------------------------------------------------------------------------------------

    def _incarnate(self) -> Engine[Any, Any]:
        return Engine(
            self.definition,
            self.room_id,
            self.sink,
            settings=self.settings,
            post=self._post,
            suspended=self.suspended,
            is_full=lambda: self.is_full,
            measures=self.measures,
            clock=self.clock,
        )

    def _post(self, event: HookFailed) -> None:
        self.posted.append(event)
        self.put(event)

    async def wake(
        self, *records: tuple[str, Iterable[Record]], reason: WakeReason = "frame", fresh: bool = False
    ) -> Engine[Any, Any]:
        """Wake the room with records by gateway; `fresh` makes a new incarnation first."""
        if fresh:
            self.engine = self._incarnate()
        for gateway, found in records:
            for record in found:
                self.gateway_of[record.connection] = gateway
                self.sink.attachments[record.connection] = record.attachment
        await self.feed(Woken(tuple((gateway, tuple(found)) for gateway, found in records), reason))
        return self.engine

    async def sleep(self, *, force: bool = False) -> None:
        await self.feed(Retire(force))

    def records(self) -> list[tuple[str, list[Record]]]:
        """Build the snapshots that the gateways would answer a pull with."""
        closing = {connection for connection, _, _ in self.sink.kicks}
        found: dict[str, list[Record]] = {}
        for connection, gateway in self.gateway_of.items():
            if connection in self.sink.refused:
                continue
            record = Record(
                connection, self.sink.attachments[connection], connection in closing, self.sink.seats.get(connection, 0)
            )
            found.setdefault(gateway, []).append(record)
        return list(found.items())

    # --- one event at a time ---------------------------------------------------------------------------

    def put(self, event: Event, gateway: str = "") -> None:
        """Hand over an event without waiting for it."""
        self.mail.put((event, gateway))

    async def feed(self, event: Event, gateway: str = "") -> None:
        self.put(event, gateway)
        await self.settle()

    async def _handle(self, item: tuple[Event, str]) -> bool:
        return await self.engine.handle(*item)

    async def settle(self) -> None:
        """Let run what can run; raises what `handle` raised."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if self.mail.worker is not None and self.mail.worker.done() and not self.engine.busy:
                break
        self.mail.check()

    async def finish(self) -> None:
        """Wait in real time until everything that was put is handled."""
        assert self.mail.worker is not None
        await self.mail.worker

    async def pass_time(self, seconds: float) -> bool:
        """Move the clock and check the budget, as the host's timer does; True if a hook was abandoned."""
        self.clock.now += seconds
        expired = self.engine in self.suspended and self.engine.expire()
        if expired:
            self.mail.resume()
        await self.settle()
        return expired

    async def abandon_hook(self) -> None:
        """Let the running hook's budget and its grace pass; it must ignore its cancellation."""
        assert not await self.pass_time(self.settings.hook_timeout + 0.1)
        assert await self.pass_time(CANCEL_GRACE + 0.1)

    def cancel(self) -> asyncio.Task[None]:
        """Cancel the task that runs `handle`, as a shell that shuts down does."""
        task, self.mail.worker = self.mail.worker, None
        assert task is not None
        task.cancel()
        return task

    async def end(self) -> None:
        self.engine.end()
        for task in [self.mail.worker, *self.mail.abandoned]:
            while task is not None and not task.done():
                task.cancel()
                await asyncio.sleep(0)
            if task is not None:
                with suppress(BaseException):
                    task.result()
        for _ in range(5):
            await asyncio.sleep(0)

    # --- what clients do -------------------------------------------------------------------------------

    def number(self) -> int:
        self._number += 1
        return self._number

    def meta(
        self,
        connection: str,
        user: str | None = None,
        client: str | None = None,
        channels: tuple[str, ...] = ("default",),
        **fields: Any,
    ) -> ConnectionMeta:
        meta = self.definition.meta(
            user_id=user if user is not None else f"user-{connection}",
            client_id=client if client is not None else f"client-{connection}",
            channels=channels,
            **fields,
        )
        assert isinstance(meta, ConnectionMeta)
        return meta

    def record(self, connection: str, *, closing: bool = False, **meta: Any) -> Record:
        return Record(connection, self.codec.encode(self.meta(connection, **meta)), closing)

    def put_connect(self, connection: str, *, gateway: str = "g1", **meta: Any) -> int:
        return self.put_attachment(connection, self.codec.encode(self.meta(connection, **meta)), gateway=gateway)

    def put_attachment(self, connection: str, attachment: bytes, *, gateway: str = "g1") -> int:
        number = self.number()
        self.gateway_of[connection] = gateway
        self.sink.attachments[connection] = attachment
        self.put(Connect(f"{self.definition.name}/{self.room_id}", number, connection, attachment), gateway)
        return number

    def put_frame(
        self,
        connection: str,
        event: str,
        data: Any = msgspec.UNSET,
        *,
        raw: bytes | None = None,
        request: int | None = None,
        channel: str | None = None,
    ) -> int:
        number = self.number()
        body = raw if data is msgspec.UNSET else json.dumps(data).encode()
        room = f"{self.definition.name}/{self.room_id}"
        frame = FrameInput(room, number, connection, event, body, channel, request)
        self.put(frame, self.gateway_of.get(connection, "g1"))
        return number

    def put_call(
        self, method: str, arguments: Any = None, *, raw: bytes | None = None, gateway: str = "g1", **options: Any
    ) -> int:
        number = self.number()
        payload = raw if raw is not None else json.dumps({} if arguments is None else arguments).encode()
        options = {"timeout": 5.0, **options}
        self.put(TakenCall(f"{self.definition.name}/{self.room_id}", number, method, payload, **options), gateway)
        return number

    async def call(self, method: str, arguments: Any = None, **options: Any) -> Outcome:
        """Call a method and return what came of it."""
        number = self.put_call(method, arguments, **options)
        await self.settle()
        return self.sink.replies[number]

    def put_close(self, connection: str, code: int = 1000, reason: str = "") -> int:
        number = self.number()
        gateway = self.gateway_of.pop(connection, "g1")
        self.put(Close(f"{self.definition.name}/{self.room_id}", number, connection, code, reason), gateway)
        return number

    async def connect(self, *connections: str, **options: Any) -> int:
        number = 0
        for connection in connections:
            number = self.put_connect(connection, **options)
        await self.settle()
        return number

    async def frame(self, connection: str, event: str, data: Any = msgspec.UNSET, **options: Any) -> int:
        number = self.put_frame(connection, event, data, **options)
        await self.settle()
        return number

    async def request(self, connection: str, event: str, data: Any = msgspec.UNSET, **options: Any) -> bytes:
        """Send a request with id 7 and return what came back for it."""
        before = len(self.received(connection))
        await self.frame(connection, event, data, request=7, **options)
        acks = [frame for frame in self.received(connection)[before:] if frame.startswith(b'{"type":"ack"')]
        assert len(acks) == 1, f"expected one ack, got {acks}"
        return acks[0]

    async def close(self, connection: str, code: int = 1000, reason: str = "") -> int:
        number = self.put_close(connection, code, reason)
        await self.settle()
        return number

    # --- what came of it -------------------------------------------------------------------------------

    def received(self, connection: str) -> list[bytes]:
        return list(self.sink.received.get(connection, []))

    def take(self, connection: str) -> list[Any]:
        """Return what a client received since the last call, decoded."""
        return [json.loads(frame) for frame in self.sink.received.pop(connection, [])]

    def data(self, connection: str) -> list[Any]:
        """Return the data of the events a client received since the last call."""
        return [frame["data"] for frame in self.take(connection) if frame["type"] == "event"]

    def committed(self, connection: str) -> Any:
        """Decode the attachment that a gateway holds of a connection."""
        return self.codec.decode(self.sink.attachments[connection])

    @property
    def numbers(self) -> list[int]:
        """The numbers marked processed, in order."""
        return [number for _, number in self.sink.numbers]


OpenRoom = Callable[..., Room]


def noted(log: list[Any], item: object, result: object = None) -> Any:
    """Log an item and return a result: a hook in one expression."""
    log.append(item)
    return result


@pytest.fixture
async def make_room() -> AsyncIterator[OpenRoom]:
    """Make rooms that are not awake yet, and end them with the test."""
    rooms: list[Room] = []

    def make(definition: RoomDefinition[Any, Any], **options: Any) -> Room:
        room = Room(definition, **options)
        rooms.append(room)
        return room

    yield make
    for room in rooms:
        await room.end()


@pytest.fixture
def open_room(make_room: OpenRoom) -> OpenRoom:
    """Make rooms that wake with no connection; what is sent to them is handled after that."""

    def opened(definition: RoomDefinition[Any, Any], **options: Any) -> Room:
        room = make_room(definition, **options)
        room.put(Woken())
        return room

    return opened
