"""Hold the short way of frames to what the long one does: same answers, same order, one hook at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest
from thespian.actors import ActorExitRequest

from tests.raw import Opcode, RawClient, text, until
from tests.server import Serve, Server
from verani.engine.frame_dispatch import FrameDispatch
from verani.room.definition import RoomDefinition, define_room
from verani.room.meta import ConnectionMeta
from verani_actors.rooms import visits as visits_module
from verani_actors.rooms.hibernation import LookAround
from verani_gateway.connections.connection import Connection
from verani_gateway.placement.short_way import ShortWay

ROOM = "chat/default"


class Meta(ConnectionMeta):
    """Counts."""

    count: int = 0


class Point(msgspec.Struct):
    """A payload that not everything fits."""

    x: int


def take_the_long_way(server: Server) -> None:
    """Have no frame of this server take the short way."""
    server.gateway.ingress.shortest = server.gateway.ingress


def unprocessed(server: Server) -> int:
    """Count what waits for the room."""
    return len(server.gateway.attachments.rooms[ROOM].unprocessed)


async def settled(server: Server) -> None:
    """Wait until the room has taken its connections in: what comes then finds it idle."""
    await until(lambda: unprocessed(server) == 0)


def arrives(connection: Connection, frame: dict[str, Any]) -> None:
    """Do what the loop does when a frame has come, in this pass of it."""
    data = text(frame)
    connection._intake.get_buffer(-1)[: len(data)] = data
    connection._intake.buffer_updated(len(data))


async def received(client: RawClient) -> list[bytes]:
    """Return what a client gets until the server closes."""
    found: list[bytes] = []
    while (frame := await client.receive()).opcode != Opcode.CLOSE:
        found.append(frame.payload)
    return [*found, frame.payload]


# --- the same as the long way ------------------------------------------------------------------------------------


def everything() -> RoomDefinition[Any, Any]:
    """Make a room with a handler for each kind of end that a hook may have."""
    room: RoomDefinition[Any, Any] = define_room("chat", meta=Meta, state=list)

    @room.on("echo")
    def _(ctx: Any, data: Any) -> Any:
        ctx.actor.state.append(data)
        ctx.emit("echo", data)
        return len(ctx.actor.state)

    @room.on("cast")
    def _(ctx: Any, data: Any) -> None:
        ctx.actor.broadcast("default", {"type": "cast", "data": data})
        ctx.actor.broadcast("default", {"type": "again", "data": data}, except_=ctx.ws)

    @room.on("fail")
    def _(ctx: Any, data: Any) -> None:
        ctx.meta.count += 1000
        ctx.emit("before", data)
        raise ValueError(data)

    @room.on("later")
    def _(ctx: Any, data: Any) -> Awaitable[None]:
        ctx.emit("begun", data)

        async def rest() -> None:
            await asyncio.sleep(0)
            ctx.emit("ended", data)

        return rest()

    @room.on("wait")
    async def _(ctx: Any, data: Any) -> Any:
        await asyncio.sleep(0)
        ctx.emit("waited", data)
        return data

    @room.on("count")
    def _(ctx: Any, data: Any) -> int:
        ctx.meta.count += 1
        return int(ctx.meta.count)

    @room.on("join")
    def _(ctx: Any, data: Any) -> None:
        ctx.join("side") if "side" not in ctx.ws.channels else ctx.leave("side")
        ctx.actor.emit_to_channel("side", "moved", data)

    @room.on("point")
    def _(ctx: Any, data: Point) -> int:
        return data.x

    @room.on("two")
    def _(ctx: Any, data: Any) -> None:
        ctx.emit("first", data)

    @room.on("two")
    def _(ctx: Any, data: Any) -> str:
        return "second"

    @room.on("others")
    def _(ctx: Any, data: Any) -> None:
        ctx.actor.emit_to_user("nobody", "private", data)
        ctx.actor.broadcast("default", {"type": "others"}, client_ids=[ctx.meta.client_id])

    @room.on("leave")
    def _(ctx: Any, data: Any) -> None:
        ctx.emit("bye", data)
        ctx.close(4000, "enough")

    return room


def frames_of(seed: int) -> list[dict[str, Any]]:
    """Make up what a client sends in one go."""
    chance = random.Random(seed)
    kinds = ["echo", "cast", "fail", "later", "wait", "count", "join", "point", "two", "others", "unknown"]
    weights = [8, 4, 1, 1, 1, 4, 2, 2, 1, 1, 1]
    found: list[dict[str, Any]] = []
    for number in range(120):
        kind = chance.choices(kinds, weights)[0]
        each: dict[str, Any] = {"type": kind, "data": {"x": number} if chance.random() < 0.8 else number}
        if chance.random() < 0.5:
            each["id"] = number
        found.append(each)
    return [*found, {"type": "leave", "data": "the end"}, {"type": "echo", "data": "after the end"}]


@pytest.mark.parametrize("seed", range(8))
async def test_a_client_gets_the_same_bytes_on_either_way(seed: int, serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("a hook of chat/default failed")
    rooms = everything(), everything()
    for room in rooms:
        room.on_error(lambda error, ctx: ctx.emit("failed", str(error)))
    short, long = [await serve(room, rate_limit=0) for room in rooms]
    take_the_long_way(long)
    heard = []
    for server in (short, long):
        client = await server.connect()
        await settled(server)
        got: list[bytes] = []
        frames = frames_of(seed)
        # In several reads: what has to wait bars the way for all that is behind it in its own.
        for first in range(0, len(frames) - 2, 6):
            client.send(*frames[first : first + 6], {"type": "count", "id": 1000 + first})
            while not got or b'"id":%d' % (1000 + first) not in got[-1]:
                got.append((await client.receive()).payload)
        client.send(*frames[-2:])
        heard.append(got + await received(client))
    assert heard[0] == heard[1]
    assert len(heard[0]) > 100
    assert short.gateway.attachments.in_flight == 0
    assert short.gateway.metrics.frames == long.gateway.metrics.frames
    assert short.gateway.metrics.deliveries == long.gateway.metrics.deliveries


@pytest.mark.short_way
async def test_a_frame_that_nothing_has_to_wait_for_is_in_flight_never(serve: Serve) -> None:
    """So that this file tests what it says."""
    counts: list[int] = []
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on("count")
    def _(ctx: Any, data: Any) -> None:
        counts.append(unprocessed(server))
        ctx.emit("counted", len(counts))

    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    for number in range(3):  # what takes the long way is unprocessed while its hook runs
        client.send({"type": "count"})
        assert (await client.data())["value"] == number + 1
    assert counts == [0, 0, 0]
    (status,) = server.gateway.rooms()
    assert (status.inputs, status.deliveries) == (4, 3)


# --- one after the other -----------------------------------------------------------------------------------------


async def test_a_frame_waits_for_the_hook_that_another_connection_has_under_way(serve: Serve) -> None:
    entered, leave, order = asyncio.Event(), asyncio.Event(), []
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on("wait")
    async def _(ctx: Any, data: Any) -> None:
        entered.set()
        await leave.wait()
        order.append("wait")

    @room.on("quick")
    def _(ctx: Any, data: Any) -> None:
        order.append("quick")
        ctx.emit("done")

    server = await serve(room, rate_limit=0)
    slow, quick = await server.connect(), await server.connect()
    slow.send({"type": "wait"})
    await entered.wait()
    quick.send({"type": "quick"})
    await until(lambda: unprocessed(server) == 2)
    assert order == []
    leave.set()
    await quick.data()
    assert order == ["wait", "quick"]


async def test_a_frame_waits_for_one_that_came_before_it_in_the_same_pass(serve: Serve) -> None:
    server = await serve(everything(), rate_limit=0)
    clients = [await server.connect() for _ in range(2)]
    await settled(server)
    connections = list(server.gateway.connections.values())
    arrives(connections[0], {"type": "wait", "data": 1})
    arrives(connections[1], {"type": "cast", "data": 2})
    assert [(await clients[0].data())["type"] for _ in range(2)] == ["waited", "cast"]


async def test_a_frame_waits_for_the_report_of_a_task_that_failed(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("a hook of chat/default failed: ValueError")
    entered, leave, order = asyncio.Event(), asyncio.Event(), []
    room = everything()

    async def fail() -> None:
        raise ValueError("of a task")

    @room.on("spawn")
    def spawn(ctx: Any, data: Any) -> None:
        ctx.actor.spawn(fail())

    @room.on_error
    async def failed(error: Exception, ctx: Any) -> None:
        entered.set()
        await leave.wait()
        order.append("reported")

    @room.on("quick")
    def quick(ctx: Any, data: Any) -> None:
        order.append("quick")
        ctx.emit("done")

    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send({"type": "spawn"})
    await entered.wait()
    client.send({"type": "quick"})
    await until(lambda: unprocessed(server) == 1)
    leave.set()
    await client.data()
    assert order == ["reported", "quick"]


async def test_what_a_frame_has_committed_outlives_the_room(serve: Serve) -> None:
    server = await serve(everything(), rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send({"type": "count", "id": 1}, {"type": "count", "id": 2})
    assert [(await client.json())["data"] for _ in range(2)] == [1, 2]
    assert server.gateway.host.hibernate(ROOM)
    await until(lambda: server.state(ROOM) == "asleep")
    client.send({"type": "count", "id": 3})
    assert (await client.json())["data"] == 3


async def test_what_a_task_said_leaves_before_what_a_frame_does_in_the_same_pass(serve: Serve) -> None:
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on("quick")
    def _(ctx: Any, data: Any) -> None:
        ctx.emit("frame")

    @room.on("listen")
    def _(ctx: Any, data: Any) -> None:
        emits.append(ctx.actor)
        ctx.emit("ready")

    emits: list[Any] = []
    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send({"type": "listen"})
    await client.json()
    (connection,) = server.gateway.connections.values()
    emits[0].emit("task")  # as a task does between two hooks: it is to leave at the end of this pass
    arrives(connection, {"type": "quick"})
    assert [(await client.data())["type"] for _ in range(2)] == ["task", "frame"]


async def test_frames_behind_one_that_has_to_wait_wait_for_it(serve: Serve) -> None:
    room = everything()
    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send({"type": "later", "data": 1}, {"type": "echo", "data": 2}, {"type": "echo", "data": 3})
    assert [(await client.data())["type"] for _ in range(4)] == ["begun", "ended", "echo", "echo"]
    await until(lambda: unprocessed(server) == 0)
    assert server.gateway.host.entries.working == 0


async def test_a_frame_starts_the_idle_clock_of_its_room_anew(serve: Serve) -> None:
    server = await serve(everything(), rate_limit=0)
    clients = [await server.connect(f"/ws?room={name}") for name in ("a", "b")]
    host = server.gateway.host
    await until(lambda: list(host.sleeping._idle.oldest()) == ["chat/a", "chat/b"])
    clients[0].send({"type": "echo"})
    await clients[0].json()
    assert list(host.sleeping._idle.oldest()) == ["chat/b", "chat/a"]


async def test_a_frame_comes_behind_what_the_actor_of_its_room_was_told_before(serve: Serve) -> None:
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on("why")
    def _(ctx: Any, data: Any) -> None:
        ctx.emit("why", ctx.actor.wake_reason)

    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await until(lambda: unprocessed(server) == 0)
    (connection,) = server.gateway.connections.values()
    host = server.gateway.host
    address = host.directory.rooms[ROOM].address
    assert address is not None
    host.actors.tell(address, ActorExitRequest())
    arrives(connection, {"type": "why"})
    assert (await client.data())["value"] == "frame"  # its own: the last incarnation had ended before


# --- what is cut off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shows", [True, False])
async def test_what_has_begun_and_dies_runs_again_unless_it_had_shown_an_effect(
    shows: bool, serve: Serve, clean_log: list[str]
) -> None:
    runs, leave = [0], asyncio.Event()
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on("later")
    def _(ctx: Any, data: Any) -> Awaitable[str]:
        runs[0] += 1
        if shows:
            ctx.emit("begun")

        async def rest() -> str:
            await leave.wait()
            return "done"

        return rest()

    if shows:
        clean_log.append("failed: HookInterrupted")
    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send({"type": "later", "id": 1}, {"type": "later", "id": 2})
    await until(lambda: runs[0] == 1 and unprocessed(server) == 2)
    host = server.gateway.host
    hosted = host.directory.rooms[ROOM]
    assert hosted.address is not None
    hosted.end()
    host.actors.base.kill(hosted.address)
    leave.set()
    answers = [answer for answer in [await client.json() for _ in range(4 if shows else 2)] if answer["type"] == "ack"]
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0].get("error") == ({"code": "interrupted"} if shows else None)
    assert answers[1]["data"] == "done"
    assert runs[0] == (2 if shows else 3)


async def test_a_frame_that_meets_a_bug_of_ours_is_lost_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, clean_log: list[str]
) -> None:
    clean_log.append("an input of room chat/default could not be handled")
    received = FrameDispatch.received
    lost: list[Any] = []

    def fail(self: Any, gateway: str, event: Any, *variables: Any) -> Any:
        if not lost:
            lost.append(event)
            raise AssertionError("a bug")
        return received(self, gateway, event, *variables)

    monkeypatch.setattr(FrameDispatch, "received", fail)
    server = await serve(everything(), rate_limit=0)
    client = await server.connect()
    client.send({"type": "echo", "data": 1}, {"type": "echo", "data": 2})
    assert (await client.data())["value"] == 2
    assert len(lost) == 1
    await until(lambda: unprocessed(server) == 0)


@pytest.mark.short_way
async def test_an_input_that_a_hook_makes_comes_before_the_frames_behind_it(serve: Serve) -> None:
    order: list[str] = []
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on("relay")
    def _(ctx: Any, data: Any) -> None:
        order.append("relay")
        server.gateway.ingress.call(ROOM, "method", b"[]", 5.0, None, (), None)  # as an eager task's call does

    @room.on("quick")
    def _(ctx: Any, data: Any) -> None:
        order.append("quick")
        ctx.emit("done")

    @room.rpc
    def method(actor: Any) -> None:
        order.append("method")

    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send({"type": "relay"}, {"type": "quick"})
    await client.data()
    assert order == ["relay", "method", "quick"]


# --- turns -------------------------------------------------------------------------------------------------------


class Counting:
    """A room that counts what is unprocessed while a hook runs, and a clock that its hooks may move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.counts: list[int] = []
        self.server: Server
        self.room: RoomDefinition[Any, Any] = define_room("chat")
        self.room.on("count")(self._count)
        monkeypatch.setattr(visits_module, "monotonic", lambda: self.now)

    def _count(self, ctx: Any, data: float) -> None:
        self.counts.append(unprocessed(self.server))
        self.now += data
        ctx.emit("counted")

    async def start(self, serve: Serve, connections: int) -> list[RawClient]:
        """Start a server, and connect clients."""
        self.server = await serve(self.room, rate_limit=0)
        clients = [await self.server.connect() for _ in range(connections)]
        await settled(self.server)
        return clients


@pytest.mark.short_way
async def test_a_room_that_takes_long_is_not_visited_again_for_as_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Counting(monkeypatch)
    (client,) = await room.start(serve, 1)
    client.send(*({"type": "count", "data": 0.006} for _ in range(3)))
    for _ in range(3):
        await client.data()
    assert room.counts == [0, 2, 2]  # those two at once
    room.now += 0.1
    for _ in range(2):
        client.send({"type": "count", "data": 0.006})
        await client.data()
    assert room.counts[3:] == [0, 1]


@pytest.mark.short_way
async def test_a_large_room_that_is_busy_has_its_broadcasts_joined(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Counting(monkeypatch)
    clients = await room.start(serve, 9)
    for client in clients[:2]:
        client.send({"type": "count", "data": 0.0})
        await client.data()
    room.now += 0.1
    clients[2].send({"type": "count", "data": 0.0})
    await clients[2].data()
    assert room.counts == [0, 1, 0]


async def test_the_clients_of_a_busy_host_are_answered_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Counting(monkeypatch)
    clients = await room.start(serve, 2)
    for _ in range(10):  # as far as the clock says, without a pause
        for client in clients:
            client.send({"type": "count", "data": 0.0})
            assert await client.data() == {"type": "counted"}


@pytest.mark.short_way
async def test_a_visit_ends_when_much_was_said(serve: Serve) -> None:
    counts: list[int] = []
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on("much")
    def much(ctx: Any, data: Any) -> None:
        counts.append(unprocessed(server))
        ctx.emit("much", "x" * (200 << 10))

    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send(*({"type": "much"} for _ in range(4)))
    for _ in range(4):
        await client.data()
    assert counts == [0, 0, 2, 2]


async def test_what_is_traced_takes_the_long_way(serve: Serve) -> None:
    server = await serve(everything(), tracing=True)
    assert not isinstance(server.gateway.ingress.shortest, ShortWay)
    client = await server.connect()
    await settled(server)
    client.send({"type": "echo", "data": 1})
    assert (await client.data())["value"] == 1


# --- connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", [False, True], ids=["of which no hook hears", "of which a hook hears"])
async def test_a_room_lets_a_connection_in_within_the_call_that_brings_it_unless_a_hook_hears_of_it(
    serve: Serve, asks: bool
) -> None:
    room = everything()
    if asks:
        room.on_connect(lambda ctx: ctx.emit("hello"))
    server = await serve(room)
    await server.connect()
    await settled(server)
    held, engine = server.gateway.attachments.rooms[ROOM], server.gateway.host.directory.rooms[ROOM].engine
    assert engine is not None
    (first,) = held.records.values()
    server.gateway.ingress.shortest.connect(ROOM, "another", room.codec(1024).admit(Meta(user_id="bob")))
    another = held.records["another"]
    assert another.connected is not asks
    assert (engine.connections, len(held.unprocessed)) == ((1, 1) if asks else (2, 0))
    await until(lambda: another.connected, "the room has let it in")
    assert engine.connections == 2
    assert another.order > first.order
    server.gateway.ingress.close(ROOM, "another", 1000, "")


@pytest.mark.short_way
async def test_a_room_in_which_nobody_is_wakes_within_the_call_that_brings_a_connection(serve: Serve) -> None:
    room: RoomDefinition[Any, Any] = define_room("chat")
    server = await serve(room)
    gateway, host = server.gateway, server.gateway.host
    gateway.ingress.shortest.connect(ROOM, "first", room.codec(1024).admit(ConnectionMeta(user_id="ann")))
    held, hosted = gateway.attachments.rooms[ROOM], host.directory.rooms[ROOM]
    assert (held.records["first"].connected, held.unprocessed, host.rooms()) == (True, [], {ROOM: "awake"})
    assert host.directory.woken_by["connect"] == host.wakes == 1
    assert hosted.engine is not None
    assert hosted.engine.connections == 1
    gateway.ingress.close(ROOM, "first", 1000, "")
    await until(lambda: ROOM not in gateway.attachments.rooms)
    assert hosted.engine.connections == 0


@pytest.mark.parametrize("why", ["on_wake", "its state", "another message"])
async def test_a_room_wakes_in_its_turn_where_code_is_run_for_that_or_others_wait(serve: Serve, why: str) -> None:
    woken: list[asyncio.Task[Any] | None] = []
    room: RoomDefinition[Any, Any] = define_room("chat", state=list) if why == "its state" else define_room("chat")
    if why == "on_wake":
        room.on_wake(lambda actor: woken.append(asyncio.current_task()))
    server = await serve(room)
    gateway = server.gateway
    if why == "another message":
        gateway.host.actors.tell_manager(LookAround())
    gateway.ingress.shortest.connect(ROOM, "first", room.codec(1024).admit(ConnectionMeta(user_id="ann")))
    held = gateway.attachments.rooms[ROOM]
    assert (held.records["first"].connected, len(held.unprocessed)) == (False, 1)
    await settled(server)
    assert held.records["first"].connected
    assert asyncio.current_task() not in woken
    gateway.ingress.close(ROOM, "first", 1000, "")
    await until(lambda: ROOM not in gateway.attachments.rooms)
