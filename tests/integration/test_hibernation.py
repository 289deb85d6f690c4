"""Nobody notices that a room slept: over real sockets, under load, thousands of times, and in a storm.

`VERANI_SOAK_SECONDS` (3) is how long the race over sockets lasts, `VERANI_SOAK_CYCLES` (2,000) how often rooms
sleep and wake without them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence, Sized
from contextlib import AsyncExitStack, nullcontext
from typing import Any, Protocol, cast

import pytest
from msgspec import Raw

from tests.raw import PATIENCE, Opcode, close, frame, text, until
from tests.server import Server
from verani import frames
from verani.client import VeraniClient
from verani.frames import ScannedFrame
from verani.room.definition import RoomDefinition, define_room
from verani.room.meta import ConnectionMeta
from verani.settings import Settings
from verani_gateway.connections.close_handshake import CloseHandshake
from verani_gateway.connections.connection import Connection
from verani_gateway.connections.in_flight import InFlight
from verani_gateway.connections.intake import Intake
from verani_gateway.connections.outbox import Outbox
from verani_gateway.connections.read_gate import ReadGate
from verani_gateway.gateway import Gateway

Room = RoomDefinition[Any, Any]

SOAK_SECONDS = float(os.environ.get("VERANI_SOAK_SECONDS", "3"))
SOAK_CYCLES = int(os.environ.get("VERANI_SOAK_CYCLES", "2000"))

# Seconds between two pings of the original client.
ORIGINAL_PING_INTERVAL = 5.0

# Many pings fall into the time after which an idle room sleeps.
PING_INTERVAL = 0.02
HIBERNATE_AFTER = 0.1


@pytest.fixture(autouse=True)
def clean_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in whose course an error was logged."""
    yield
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors, "\n".join(errors)


class Serve(Protocol):
    """The fixture `embedded`."""

    def __call__(self, room: Room, **settings: Any) -> Awaitable[Server]: ...


@pytest.fixture
async def embedded() -> AsyncIterator[Serve]:
    """Start a server in this process; it is stopped when the test ends."""
    servers: list[Server] = []

    async def embedded(room: Room, **settings: Any) -> Server:
        given = Settings(**{"drain_seconds": 2.0, "rate_limit": 0.0, **settings})
        servers.append(await Server.start(room, header_timeout=10.0, settings=given))
        return servers[-1]

    yield embedded
    for server in servers:
        await server.end()


# --- the faults of the original, F1 to F7 --------------------------------------------------------------------


class Guest(Protocol):
    """A client of either kind; it pings all the time."""

    async def open(self, server: Server, path: str, first: Sequence[tuple[str, Any]]) -> None:
        """Connect, and send frames as early as a client of this kind can."""

    def emit(self, event: str, data: Any) -> None:
        """Send a frame."""

    async def next(self) -> Any:
        """Wait for the next event and return its data."""

    async def close(self, code: int) -> None:
        """Close the connection with this code."""


class PythonGuest:
    """Our own client."""

    async def open(self, server: Server, path: str, first: Sequence[tuple[str, Any]]) -> None:
        self._client = VeraniClient(f"ws://127.0.0.1:{server.port}{path}", ping_interval=PING_INTERVAL)
        self._events = aiter(self._client)
        for event, data in first:
            self._client.emit(event, data)
        await self._client.connect()

    def emit(self, event: str, data: Any) -> None:
        self._client.emit(event, data)

    async def next(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return (await anext(self._events)).data

    async def close(self, code: int) -> None:
        await self._client.close(code)


class OriginalGuest:
    """A WebSocket that sends exactly what the original client sends: its pings too."""

    def __init__(self, ping_interval: float = PING_INTERVAL) -> None:
        self.pings = 0
        self.pongs = 0
        # How many pings had no answer when the next one was sent.
        self.late = 0
        self._ping_interval = ping_interval
        self._tasks: list[asyncio.Task[None]] = []
        self._received: asyncio.Queue[Any] = asyncio.Queue()

    async def open(self, server: Server, path: str, first: Sequence[tuple[str, Any]]) -> None:
        together = b"".join(text({"type": event, "data": data}) for event, data in first)
        self._raw = await server.connect(path, together=together)
        self._tasks = [asyncio.create_task(self._ping()), asyncio.create_task(self._read())]

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._ping_interval)
            self.late += self.pongs < self.pings
            self.pings += 1
            self._raw.send(text('{"type":"ping"}'))

    async def _read(self) -> None:
        while True:
            if (payload := await self._raw.text()) == b'{"type":"pong"}':
                self.pongs += 1
            else:
                self._received.put_nowait(json.loads(payload)["data"])

    def emit(self, event: str, data: Any) -> None:
        self._raw.send({"type": event, "data": data})

    async def next(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await self._received.get()

    async def close(self, code: int) -> None:
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._tasks = []
        self._raw.send(close(code))
        await self._raw.rest()


class Visit(Protocol):
    """The fixture `visit`."""

    def __call__(self, server: Server, path: str = ..., *first: tuple[str, Any]) -> Awaitable[Guest]: ...


@pytest.fixture(params=[PythonGuest, OriginalGuest])
async def visit(request: pytest.FixtureRequest) -> AsyncIterator[Visit]:
    """Connect a client of the kind under test."""
    guests: list[Guest] = []

    async def visit(server: Server, path: str = "/ws?userId=ann", *first: tuple[str, Any]) -> Guest:
        guest: Guest = request.param()
        await guest.open(server, path, first)
        guests.append(guest)
        return guest

    yield visit
    for guest in guests:
        await guest.close(1000)


@pytest.fixture
def pings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Collect the pings that reach the gateway."""
    pings: list[bytes] = []
    scan = frames.scan

    def listening(payload: bytes) -> Any:
        scanned = scan(payload)
        if scanned.type == "ping":
            pings.append(bytes(payload))
        return scanned

    monkeypatch.setattr(frames, "scan", listening)
    return pings


def observed_room(seen: list[Any], on_connect: Callable[[Any], Any] | None = None) -> Room:
    """Make a room that writes down every hook and answers `say`, `join` and `shout`."""

    def connected(ctx: Any) -> None:
        seen.append(("connect", ctx.meta.user_id, ctx.actor.get_connected_user_ids()))

    room = define_room(
        "chat",
        on_connect=on_connect or connected,
        on_disconnect=lambda ctx: seen.append(("disconnect", ctx.meta.user_id, ctx.meta.channels, ctx.close_code)),
        on_hibernate=lambda actor: seen.append("sleep"),
        on_hibernation_restore=lambda actor: seen.append("restore"),
    )

    @room.on("*")
    def every(ctx: Any, data: Any) -> None:
        seen.append((ctx.frame.type, data))

    @room.on("say")
    def say(ctx: Any, data: Any) -> None:
        ctx.emit("said", data)

    @room.on("join")
    def join(ctx: Any, data: Any) -> None:
        ctx.join(data)
        ctx.emit("joined")

    @room.on("shout")
    def shout(ctx: Any, data: Any) -> None:
        ctx.actor.broadcast(data, {"type": "shouted", "by": ctx.meta.user_id})

    return room


async def asleep(server: Server, pings: list[bytes]) -> None:
    """Wait until the room sleeps, and see it sleep on while pings come."""
    await until(lambda: server.state("chat/default") == "asleep")
    heard = len(pings)
    async with asyncio.timeout(PATIENCE):
        while len(pings) < heard + 5:
            await asyncio.sleep(0.005)
            assert server.state("chat/default") == "asleep"
    assert set(pings) == {b'{"type":"ping"}'}


async def test_f1_the_first_message_after_a_sleep_wakes_the_room_and_is_handled(
    embedded: Serve, visit: Visit, pings: list[bytes]
) -> None:
    seen: list[Any] = []
    server = await embedded(observed_room(seen), hibernate_after=HIBERNATE_AFTER)
    guest = await visit(server)
    for n in range(3):
        await asleep(server, pings)
        guest.emit("say", {"n": n})
        assert await guest.next() == {"type": "said", "n": n}
    wakes = [step for n in range(3) for step in ("sleep", "restore", ("say", {"n": n}))]
    assert seen[: 1 + len(wakes)] == [("connect", "ann", ["ann"]), *wakes]


async def test_f2_pings_neither_keep_the_room_awake_nor_wake_it(
    embedded: Serve, visit: Visit, pings: list[bytes]
) -> None:
    seen: list[Any] = []
    server = await embedded(observed_room(seen), hibernate_after=HIBERNATE_AFTER)
    await visit(server)
    await visit(server, "/ws?userId=bob")
    await until(lambda: ("connect", "bob", ["ann", "bob"]) in seen)
    await asleep(server, pings)
    before = list(seen)
    assert before[-1] == "sleep"
    for _ in range(3):
        await asleep(server, pings)
    assert seen == before
    assert "ping" not in [each[0] for each in seen]


async def test_f3_a_close_while_the_room_sleeps_runs_on_disconnect_with_the_right_meta(
    embedded: Serve, visit: Visit, pings: list[bytes]
) -> None:
    seen: list[Any] = []
    server = await embedded(observed_room(seen), hibernate_after=HIBERNATE_AFTER)
    leaver, stayer = await visit(server), await visit(server, "/ws?userId=bob")
    leaver.emit("join", "late")
    assert await leaver.next() == {"type": "joined"}
    await asleep(server, pings)
    seen.clear()
    await leaver.close(4321)
    await until(lambda: len(seen) >= 2)
    assert seen[:2] == ["restore", ("disconnect", "ann", ("default", "late"), 4321)]
    await asleep(server, pings)
    seen.clear()
    await stayer.close(1000)
    await until(lambda: len(seen) >= 2)
    assert seen[:2] == ["restore", ("disconnect", "bob", ("default",), 1000)]
    await until(lambda: server.gateway.rooms() == [])


async def test_f4_channels_joined_later_are_kept_while_the_room_sleeps(
    embedded: Serve, visit: Visit, pings: list[bytes]
) -> None:
    seen: list[Any] = []
    server = await embedded(observed_room(seen), hibernate_after=HIBERNATE_AFTER)
    member, caller = await visit(server), await visit(server, "/ws?userId=bob&channels=other")
    member.emit("join", "late")
    assert await member.next() == {"type": "joined"}
    for _ in range(2):
        await asleep(server, pings)
        caller.emit("shout", "late")
        assert await member.next() == {"type": "shouted", "by": "bob"}
    caller.emit("say", {})
    assert await caller.next() == {"type": "said"}, "who is not in the channel heard nothing"
    assert seen.count("restore") >= 2


async def test_f5_frames_sent_while_on_connect_awaits_are_queued_in_order_also_in_a_room_that_just_woke(
    embedded: Serve, visit: Visit, pings: list[bytes]
) -> None:
    seen: list[Any] = []
    gate = asyncio.Event()

    async def on_connect(ctx: Any) -> None:
        seen.append("connecting")
        await gate.wait()
        seen.append("connected")

    server = await embedded(observed_room(seen, on_connect), hibernate_after=HIBERNATE_AFTER)
    for path in ("/ws?userId=ann", "/ws?userId=bob"):
        gate.clear()
        seen.clear()
        guest = await visit(server, path, ("say", {"n": 0}), ("say", {"n": 1}))
        await until(lambda: "connecting" in seen)
        guest.emit("say", {"n": 2})
        heard = len(pings)
        # Longer than an idle room stays awake, and pings are answered all the while.
        await until(lambda heard=heard: len(pings) > heard + 10)  # type: ignore[misc]  # mypy has no types for defaults
        assert [each for each in seen if each != "restore"] == ["connecting"]
        gate.set()
        assert [await guest.next() for _ in range(3)] == [{"type": "said", "n": n} for n in range(3)]
        await asleep(server, pings)
    assert seen[0] == "restore"


async def test_f6_async_handlers_of_one_connection_do_not_overtake_each_other_after_a_wake(
    embedded: Serve, visit: Visit, pings: list[bytes]
) -> None:
    seen: list[Any] = []
    room = observed_room(seen)
    gates = [asyncio.Event() for _ in range(5)]
    begun: list[int] = []

    @room.on("slow")
    async def slow(ctx: Any, data: int) -> None:
        begun.append(data)
        await gates[data].wait()
        await asyncio.sleep(0.01 * (len(gates) - data))
        ctx.emit("done", {"n": data})

    server = await embedded(room, hibernate_after=HIBERNATE_AFTER)
    guest = await visit(server)
    await asleep(server, pings)
    for n in range(len(gates)):
        guest.emit("slow", n)
    await until(lambda: begun)
    for gate in reversed(gates):
        assert begun == [0]
        gate.set()
        await asyncio.sleep(0)
    assert [await guest.next() for _ in gates] == [{"type": "done", "n": n} for n in range(len(gates))]
    assert begun == list(range(len(gates)))


async def test_f7_a_connect_that_wakes_the_room_sees_every_other_session(
    embedded: Serve, visit: Visit, pings: list[bytes]
) -> None:
    seen: list[Any] = []
    server = await embedded(observed_room(seen), hibernate_after=HIBERNATE_AFTER)
    users: list[str] = []
    guests: list[Guest] = []
    for user in ("ann", "bob", "cid", "dan"):
        users.append(user)
        guests.append(await visit(server, f"/ws?userId={user}"))
        await until(lambda user=user: ("connect", user, users) in seen)  # type: ignore[misc]  # mypy has no types for defaults
        await asleep(server, pings)
    guests[0].emit("shout", "default")
    for guest in guests:
        assert await guest.next() == {"type": "shouted", "by": "ann"}
    assert seen.count("restore") == len(users)


async def test_original_clients_notice_nothing_at_the_default_settings(embedded: Serve) -> None:
    seen: list[Any] = []
    default = Settings()
    assert default.hibernate_after == 10
    server = await embedded(observed_room(seen), rate_limit=default.rate_limit, hibernate_after=default.hibernate_after)
    rooms = ["chat/talk", "chat/leave", "chat/meet"]
    guests: list[OriginalGuest] = []

    async with AsyncExitStack() as stack:

        async def enter(room: str, user: str) -> OriginalGuest:
            guest = OriginalGuest(ORIGINAL_PING_INTERVAL)
            await guest.open(server, f"/ws?room={room}&userId={user}", [("say", {"n": 1})])
            stack.push_async_callback(guest.close, 1000)
            assert await guest.next() == {"type": "said", "n": 1}
            guests.append(guest)
            return guest

        ann, bob = await enter("talk", "ann"), await enter("talk", "bob")
        cid, dan = await enter("leave", "cid"), await enter("leave", "dan")
        eve, fay = await enter("meet", "eve"), await enter("meet", "fay")
        for member in (ann, cid):
            member.emit("join", "late")
            assert await member.next() == {"type": "joined"}

        # F2: pings come all the time, the rooms fall asleep, and the pings that come then wake nobody.
        seen.clear()
        await until(lambda: all(guest.pongs >= 1 for guest in guests))
        await until(lambda: all(guest.pongs >= 2 for guest in guests))
        await until(lambda: all(server.state(room) == "asleep" for room in rooms))
        heard = [guest.pings for guest in guests]
        await until(lambda: all(guest.pongs > before for guest, before in zip(guests, heard, strict=True)))
        assert seen == ["sleep"] * 3
        assert {(status.name, status.state, status.cycles) for status in server.gateway.rooms()} == {
            (room, "asleep", 1) for room in rooms
        }

        # F1 and F4: the first message wakes the room and reaches who had joined its channel, and nobody else.
        seen.clear()
        bob.emit("shout", "late")
        assert await ann.next() == {"type": "shouted", "by": "bob"}
        bob.emit("say", {"n": 2})
        assert await bob.next() == {"type": "said", "n": 2}
        assert seen == ["restore", ("shout", "late"), ("say", {"n": 2})]

        # F3: the close wakes the room, and on_disconnect has the meta of before.
        seen.clear()
        await cid.close(4321)
        await until(lambda: len(seen) >= 2)
        assert seen == ["restore", ("disconnect", "cid", ("default", "late"), 4321)]
        dan.emit("say", {"n": 2})
        assert await dan.next() == {"type": "said", "n": 2}

        # F7: who connects sees the others, and they hear the newcomer.
        seen.clear()
        gus = await enter("meet", "gus")
        assert seen[:2] == ["restore", ("connect", "gus", ["eve", "fay", "gus"])]
        gus.emit("shout", "default")
        for member in (eve, fay, gus):
            assert await member.next() == {"type": "shouted", "by": "gus"}

        await until(lambda: all(guest.pongs >= guest.pings >= 2 for guest in guests if guest is not gus))
        assert not any(guest.late for guest in guests)


# --- a race with load, over sockets --------------------------------------------------------------------------


class Member:
    """A connection that numbers what it sends and keeps, in order, what it hears."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent = 0
        self.heard: list[tuple[str, int]] = []
        # How many of its own frames have not come back.
        self.owed = 0

    def take(self, data: Any) -> None:
        self.heard.append((data["from"], data["n"]))
        self.owed -= data["from"] == self.name

    def next(self, count: int) -> list[dict[str, Any]]:
        """Make the next frames' data."""
        self.sent += count
        self.owed += count
        return [{"from": self.name, "n": n} for n in range(self.sent - count, self.sent)]

    def by_sender(self) -> dict[str, list[int]]:
        """Return what was heard of each sender."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for sender, n in self.heard:
            numbers[sender].append(n)
        return numbers


class RawMember(Member):
    """One that counts every frame on the wire."""

    async def open(self, server: Server) -> None:
        self.raw = await server.connect(f"/ws?userId={self.name}")
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (received := await self.raw.receive()).opcode != Opcode.CLOSE:
            if received.opcode == Opcode.PING:
                self.raw.send(frame(Opcode.PONG, received.payload))
            elif received.payload != b'{"type":"pong"}':  # as while the gateway does not read on
                self.take(json.loads(received.payload)["data"])

    def burst(self, count: int) -> None:
        """Send frames in one write."""
        self.raw.send(*({"type": "say", "data": data} for data in self.next(count)))

    async def close(self) -> None:
        """Say goodbye and hear the answer; again is harmless."""
        if not self.reader.done():
            self.raw.send(close(1000))
        await self.reader


class ClientMember(Member):
    """One with our own client."""

    async def open(self, server: Server) -> None:
        self.client = VeraniClient(
            f"ws://127.0.0.1:{server.port}/ws?userId={self.name}", ping_interval=PING_INTERVAL, max_inbox=1_000_000
        )
        self.client.on("said", self.take)
        await self.client.connect()

    def burst(self, count: int) -> None:
        for data in self.next(count):
            self.client.emit("say", data)

    async def close(self) -> None:
        await self.client.close()


@pytest.mark.threat(63)
@pytest.mark.timeout(120 + 3 * SOAK_SECONDS)
async def test_a_room_that_falls_asleep_under_a_thousand_frames_a_second_loses_doubles_and_reorders_none(
    embedded: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(7)
    sleeps = 0
    seen: list[tuple[str, str]] = []
    handled: Counter[str] = Counter()

    async def on_hibernate(actor: Any) -> None:
        nonlocal sleeps
        sleeps += 1
        if sleeps % 2:
            await asyncio.sleep(chance.uniform(0.0, 0.003))  # what arrives now, arrives at a room that retires

    room = define_room(
        "chat",
        on_connect=lambda ctx: seen.append(("connect", ctx.meta.user_id)),
        on_disconnect=lambda ctx: seen.append(("disconnect", ctx.meta.user_id)),
        on_hibernate=on_hibernate,
    )

    @room.on("say")
    async def say(ctx: Any, data: Any) -> None:
        handled[ctx.meta.user_id] += 1
        if data["n"] % 64 == 0:
            await asyncio.sleep(0)
        ctx.actor.broadcast("default", {"type": "said", **data})

    server = await embedded(room, hibernate_after=0.005)
    members: list[RawMember | ClientMember] = [
        *(RawMember(f"raw{n}") for n in range(3)),
        *(ClientMember(f"client{n}") for n in range(2)),
    ]
    for member in members:
        await member.open(server)
    await until(lambda: len(seen) == len(members))

    passers: list[RawMember] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    end = began + SOAK_SECONDS
    # However slow the machine, the race must have happened.
    while loop.time() < end or sleeps < 20 or len(passers) < 2:
        for member in chance.sample(members, chance.randint(1, len(members))):
            member.burst(chance.randint(1, 12))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0.0, 0.002))
        if chance.random() < 0.05:
            passers.append(RawMember(f"passer{len(passers)}"))
            await passers[-1].open(server)
            passers[-1].burst(3)
        if passers and chance.random() < 0.1:
            await chance.choice(passers).close()
        await asyncio.sleep(chance.uniform(0.0, 0.016))
        # A slow machine slows the senders down.
        await until(lambda: all(member.owed < 500 for member in members))

    seconds = loop.time() - began
    for passer in passers:
        await passer.close()
    everybody = [*members, *passers]
    sent = {member.name: member.sent for member in everybody}
    # The rate is the machine's affair; a soak shows it, a test on a failure or with -rP.
    with capsys.disabled() if "VERANI_SOAK_SECONDS" in os.environ else nullcontext():
        print(f"{sum(sent.values()) / seconds:,.0f} frames a second for {seconds:.1f} s, {sleeps} sleeps")  # noqa: T201
    await until(lambda: all(len(member.heard) >= sum(sent.values()) for member in members))
    for member in members:
        await member.close()
    await until(lambda: len(seen) == 2 * len(everybody))

    assert handled == Counter(sent)
    everything = {name: list(range(count)) for name, count in sent.items()}
    for member in members:
        assert member.by_sender() == everything, f"what {member.name} heard"
    for passer in passers:
        for name, numbers in passer.by_sender().items():
            assert numbers == list(range(numbers[0], numbers[-1] + 1)), f"what {passer.name} heard of {name}"
    assert all(member.heard == members[0].heard for member in members), "one order for all"
    assert Counter(seen) == Counter((hook, name) for hook in ("connect", "disconnect") for name in sent)
    assert sleeps >= 20


# --- without sockets -----------------------------------------------------------------------------------------


class Socketless:
    """A connection without a socket: all that a gateway needs of one, and the events it was told to write."""

    unsent = 0
    deflates_from = None

    def __init__(self, gateway: Gateway, definition: Room, room: str, meta: ConnectionMeta) -> None:
        self.id = gateway.open_connections.next_id()
        self.room = room
        self.client_id = meta.client_id
        self.heard: list[Any] = []
        self.kicked: list[tuple[int, str]] = []
        self.outbox = cast("Outbox", self)
        self.closing = cast("CloseHandshake", self)
        facilities = gateway.facilities
        self.gate = ReadGate(cast("Intake", self))
        self.in_flight = InFlight(room, facilities.ingress.congestion, self.closing, facilities.now)
        self._gateway = gateway
        attachment = definition.codec(gateway.settings.max_meta_bytes).encode(meta)
        gateway.connected(cast("Connection", self), attachment)

    # --- what the test does ---

    def send(self, event: str, data: Any) -> None:
        ingress = self._gateway.ingress
        frame = ScannedFrame(event, Raw(json.dumps(data).encode()))
        self.in_flight.charge(ingress.frame(self.room, self.id, frame))

    def look(self) -> None:
        """Have nothing to read."""

    def leave(self, code: int = 1000) -> None:
        self._gateway.disconnected(cast("Connection", self), code, "")

    # --- what the gateway does ---

    def put(self, data: bytes, *, patient: bool = False) -> None:
        while data:
            start, size = 2, data[1]
            if size == 126:
                start, size = 4, int.from_bytes(data[2:4], "big")
            self.heard.append(json.loads(data[start : start + size])["data"])
            data = data[start + size :]

    def close(self, code: int, reason: str = "") -> None:
        self.kicked.append((code, reason))

    def tick(self, now: float) -> None: ...

    def abort(self) -> None: ...


StartGateway = Callable[[Room, float], Awaitable[Gateway]]


@pytest.fixture
async def start() -> AsyncIterator[StartGateway]:
    """Start a gateway with its embedded host; it is stopped when the test ends."""
    gateways: list[Gateway] = []

    async def start(room: Room, hibernate_after: float) -> Gateway:
        gateway = Gateway([room], Settings(hibernate_after=hibernate_after, rate_limit=0.0, drain_seconds=2.0))
        await gateway.start()
        gateways.append(gateway)
        return gateway

    yield start
    for gateway in gateways:
        await gateway.stop()


def census(gateway: Gateway) -> Counter[str]:
    """Count the tasks, and the entries of every table that can be reached from the gateway through our own objects."""
    counts: Counter[str] = Counter(tasks=len(asyncio.all_tasks()))
    waiting: list[object] = [gateway]
    known: set[int] = set()
    while waiting:
        each = waiting.pop()
        if id(each) in known:
            continue
        known.add(id(each))
        slots = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in {*getattr(each, "__dict__", ()), *slots}:
            value = getattr(each, name, None)
            key = f"{type(each).__name__}.{name}"
            if isinstance(value, Sized):
                counts[key] += len(value)
            if isinstance(value, Mapping):
                counts[f"{key}[]"] += sum(len(inner) for inner in value.values() if isinstance(inner, Sized))
                waiting.extend(value.values())
            waiting.append(value)
        waiting = [each for each in waiting if type(each).__module__.startswith("verani")]
    return counts


@pytest.mark.threat(65)
@pytest.mark.timeout(120 + SOAK_CYCLES / 100)
async def test_thousands_of_sleeps_and_wakes_leave_no_memory_task_actor_or_name_behind(start: StartGateway) -> None:
    sleeps = wakes = 0

    def on_hibernate(actor: Any) -> None:
        nonlocal sleeps
        sleeps += 1

    def on_hibernation_restore(actor: Any) -> None:
        nonlocal wakes
        wakes += 1

    room = define_room("chat", on_hibernate=on_hibernate, on_hibernation_restore=on_hibernation_restore)

    @room.on("say")
    async def say(ctx: Any, data: Any) -> None:
        await asyncio.sleep(0)
        ctx.actor.broadcast("default", {"n": data, "members": ctx.actor.get_session_count()})

    gateway = await start(room, 0.0005)
    guests = [
        Socketless(gateway, room, f"chat/{n % 10}", ConnectionMeta(user_id=f"u{n}", client_id=f"u{n}"))
        for n in range(20)
    ]

    async def cycles(count: int) -> None:
        goal = wakes + count
        while wakes < goal:
            for guest in guests[:10]:
                guest.send("say", wakes)
            # A room that is never seen again.
            passer = Socketless(gateway, room, f"chat/once-{wakes}", ConnectionMeta(user_id="p", client_id="p"))
            passer.send("say", wakes)
            passer.leave()
            await until(lambda: all(guest.heard for guest in guests))
            assert all(len(guest.heard) == 1 and guest.heard[0]["members"] == 2 for guest in guests)
            for guest in guests:
                guest.heard.clear()
            await until(lambda: not gateway.host.rooms())
        assert gateway.host.actors.base is not None
        await gateway.host.actors.base.idle()
        # What the last rooms have said leaves at the end of its tick.
        await until(lambda: gateway.host.entries._flushing is None)
        gc.collect()
        # The manager may have been woken by its clock meanwhile.
        await gateway.host.actors.base.idle()

    quarter = max(10, SOAK_CYCLES // 4)
    await cycles(2 * quarter)
    before, blocks, at = census(gateway), sys.getallocatedblocks(), wakes
    await cycles(2 * quarter)
    after, grown = census(gateway), sys.getallocatedblocks() - blocks
    assert {"RoomDirectory.rooms", "ActorDirectory.live", "ActorDirectory.names"} <= {*before}
    assert after == before
    assert grown < (wakes - at) / 10, "one block per ten cycles would be a leak"
    assert sleeps >= wakes >= 4 * quarter
    assert all(not guest.in_flight.count and not guest.kicked for guest in guests)


class Counted(ConnectionMeta, kw_only=True):
    """Counts what its user said: it is right only if every commit survives every sleep."""

    said: int = 0


class Model:
    """What a room that never sleeps would have done with the inputs it was given."""

    def __init__(self) -> None:
        self.hooks: list[tuple[Any, ...]] = []
        self.views: dict[str, list[Any]] = {}
        self._present: set[str] = set()
        self._side: set[str] = set()
        self._said: Counter[str] = Counter()

    def _tell(self, users: set[str], data: Any) -> None:
        for user in users:
            self.views[user].append(data)

    def connect(self, user: str) -> None:
        self.hooks.append(("connect", user))
        self.views[user] = []
        self._present.add(user)
        self._tell(self._present, {"type": "came", "user": user})

    def frame(self, user: str, event: str, n: int) -> None:
        self.hooks.append((event, user, n))
        self._said[user] += 1
        said = {"user": user, "n": n, "said": self._said[user]}
        match event:
            case "join":
                self._side.add(user)
            case "leave":
                self._side.discard(user)
            case "say" | "slow":
                self._tell(self._present, {"type": event, **said})
            case "shout":
                self._tell(self._side, {"type": event, **said})

    def close(self, user: str, code: int) -> None:
        self.hooks.append(("disconnect", user, code, self._said[user]))
        self._present.discard(user)
        self._side.discard(user)
        self._tell(self._present, {"type": "left", "user": user})


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_in_a_storm_of_retiring_and_waking_rooms_every_client_sees_what_a_sleepless_room_would_show(
    start: StartGateway, seed: int
) -> None:
    chance = random.Random(seed)
    hooks: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    sleeps: Counter[str] = Counter()
    # How many inputs came to rooms in which state.
    met: Counter[str] = Counter()

    async def on_hibernate(actor: Any) -> None:
        sleeps[actor.name] += 1
        for _ in range(sleeps[actor.name] % 4):
            await asyncio.sleep(0)

    async def on_hibernation_restore(actor: Any) -> None:
        for _ in range(sleeps[actor.name] % 3):
            await asyncio.sleep(0)

    room = define_room("chat", meta=Counted, on_hibernate=on_hibernate, on_hibernation_restore=on_hibernation_restore)

    @room.on_connect
    async def on_connect(ctx: Any) -> None:
        hooks[ctx.actor.name].append(("connect", ctx.meta.user_id))
        ctx.actor.broadcast("default", {"type": "came", "user": ctx.meta.user_id})

    @room.on_disconnect
    def on_disconnect(ctx: Any) -> None:
        hooks[ctx.actor.name].append(("disconnect", ctx.meta.user_id, ctx.close_code, ctx.meta.said))
        ctx.actor.broadcast("default", {"type": "left", "user": ctx.meta.user_id})

    @room.on("*")
    async def every(ctx: Any, n: Any) -> None:
        event, user = ctx.frame.type, ctx.meta.user_id
        hooks[ctx.actor.name].append((event, user, n))
        ctx.meta.said += 1
        match event:
            case "join":
                ctx.join("side")
            case "leave":
                ctx.leave("side")
            case "slow":
                await asyncio.sleep(0.001)
        if event in ("say", "slow", "shout"):
            channel = "side" if event == "shout" else "default"
            ctx.actor.broadcast(channel, {"type": event, "user": user, "n": n, "said": ctx.meta.said})

    gateway = await start(room, 0.001)
    names = [f"chat/{n}" for n in range(200)]
    models = {name: Model() for name in names}
    present: dict[str, list[Socketless]] = {name: [] for name in names}
    everybody: list[Socketless] = []
    gone: set[str] = set()

    def step(name: str, n: int) -> None:
        model, members = models[name], present[name]
        met[gateway.host.rooms().get(name, "asleep")] += 1
        dice = chance.random()
        if not members or dice < 0.1:
            user = f"u{len(everybody)}"
            members.append(Socketless(gateway, room, name, Counted(user_id=user, client_id=user)))
            everybody.append(members[-1])
            model.connect(user)
        elif dice < 0.18:
            leaver = members.pop(chance.randrange(len(members)))
            code = chance.choice((1000, 1006, 4000))
            leaver.leave(code)
            gone.add(leaver.client_id)
            model.close(leaver.client_id, code)
        else:
            member = chance.choice(members)
            event = chance.choice(("say", "say", "shout", "join", "leave", "slow"))
            member.send(event, n)
            model.frame(member.client_id, event, n)

    hot = names[:8]
    for n in range(2000):
        if n % 100 == 0:
            hot = chance.sample(names, 8)
        name = chance.choice(hot if chance.random() < 0.6 else names)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            step(name, n)
        if chance.random() < 0.3:
            await asyncio.sleep(chance.choice((0.0, 0.0, 0.0, 0.001)))
    await until(lambda: not gateway.attachments.in_flight)

    for name, model in models.items():
        assert hooks[name] == model.hooks, f"the hooks of {name}"
    for member in everybody:
        expected = models[member.room].views[member.client_id]
        if member.client_id in gone:  # what was on its way when it left is lost
            expected = expected[: len(member.heard)]
        assert member.heard == expected, f"what {member.client_id} saw"
        assert not member.kicked
    assert len(gateway.attachments) == sum(map(len, present.values()))
    assert all(met[state] > 20 for state in ("asleep", "awake", "retiring"))
    assert sleeps.total() > len(names)
