"""Hold the short way to one hook at a time, whatever its room, its hooks and other rooms do in the same moment."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable
from typing import Any

import pytest

from tests.raw import text, until
from tests.server import Serve
from verani.engine.door import Door
from verani.engine.room_events import HookFailed
from verani.link.messages import Invoke
from verani.room.context import Context
from verani.room.definition import RoomDefinition, define_room
from verani.room.meta import ConnectionMeta
from verani_actors.rooms.hosted_room import HostedRoom
from verani_actors.rooms.room_actor import Post

from .test_short_way import ROOM, Counting, Meta, arrives, settled, unprocessed

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def kill(hosted: HostedRoom, server: Any) -> None:
    """End the actor of a room as a crash does."""
    assert hosted.address is not None
    hosted.end()
    server.gateway.host.actors.base.kill(hosted.address)


# --- what the actor is about to do -----------------------------------------------------------------------------


async def test_a_frame_waits_for_a_report_that_its_actor_has_just_been_told_of(
    serve: Serve, clean_log: list[str]
) -> None:
    """A task fails, and the frame of another client arrives two passes of the loop later."""
    clean_log.append("a hook of chat/default failed")
    order: list[str] = []
    room: RoomDefinition[Any, Any] = define_room("chat")
    room.on_error(lambda error, ctx: order.append("report"))

    async def fail() -> None:
        asyncio.get_running_loop().call_soon(other.send, {"type": "later", "id": 1})
        raise ValueError("of a task")

    @room.on("spawn")
    def spawn(ctx: Any, data: Any) -> None:
        ctx.actor.spawn(fail())

    @room.on("later")
    def later(ctx: Any, data: Any) -> Awaitable[None]:
        order.append("begins")

        async def rest() -> None:
            assert ctx.actor._room.turn.is_callers
            order.append("ends")

        return rest()

    server = await serve(room, rate_limit=0)
    client, other = await server.connect(), await server.connect()
    await settled(server)
    client.send({"type": "spawn"})
    assert "error" not in await other.json()
    assert order == ["report", "begins", "ends"]


async def test_a_hook_keeps_its_time_limit_beside_a_report(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("a hook of chat/default failed")
    order: list[str] = []
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on_error
    async def failed(error: Exception, ctx: Any) -> None:
        order.append("report begins")
        await asyncio.sleep(0.01)
        order.append("report ends")

    @room.on("later")
    def later(ctx: Any, data: Any) -> Awaitable[Any]:
        order.append("hook begins")
        return asyncio.Event().wait()

    server = await serve(room, rate_limit=0, hook_timeout=0.5)
    client = await server.connect()
    await settled(server)
    (connection,) = server.gateway.connections.values()
    host = server.gateway.host
    hosted = host.directory.rooms[ROOM]
    assert hosted.address is not None
    assert hosted.engine is not None
    # A spawned task has failed: the tick that hands that to the actor, and a read, in one pass of the loop.
    context = Context(hosted.engine.room, None)
    host.actors.tell(hosted.address, Post(HookFailed(ValueError("x"), context, "task")))
    host.run()
    arrives(connection, {"type": "later", "id": 1})
    assert (await client.json())["error"]["code"] == "deadline"
    assert order[:3] == ["report begins", "report ends", "hook begins"]


async def test_a_frame_waits_for_a_wake_that_has_just_begun(serve: Serve) -> None:
    order: list[str] = []
    room: RoomDefinition[Any, Any] = define_room("chat", state=list)
    room.on_hibernation_restore(lambda actor: order.append("restore"))

    @room.on("add")
    def add(ctx: Any, data: Any) -> int:
        order.append("add")
        ctx.actor.state.append(data)
        return len(ctx.actor.state)

    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    (connection,) = server.gateway.connections.values()
    host = server.gateway.host
    assert host.hibernate(ROOM)
    await until(lambda: server.state(ROOM) == "asleep")
    assert host.wake(ROOM)  # as an operator does
    host.run()
    arrives(connection, {"type": "add", "id": 1})
    assert (await client.json())["data"] == 1
    assert order == ["restore", "add"]


# --- whose context variables a hook sees -----------------------------------------------------------------------


async def test_a_hook_sees_no_context_variable_of_the_request_of_another_user(serve: Serve) -> None:
    async def extract(request: Any) -> ConnectionMeta:
        WHO.set(request.query["userId"])
        return ConnectionMeta(user_id=request.query["userId"])

    leave = asyncio.Event()
    room: RoomDefinition[Any, Any] = define_room("chat", extract_meta=extract)
    room.on("later")(lambda ctx, data: leave.wait())

    @room.on("peek")
    async def peek(ctx: Any, data: Any) -> str:
        return WHO.get()

    server = await serve(room, rate_limit=0)
    ann = await server.connect("/ws?userId=ann", together=text({"type": "peek", "id": 1}))
    bob = await server.connect("/ws?userId=bob")
    assert (await ann.json())["data"] == "nobody"
    await settled(server)
    ann.send({"type": "later"})
    await until(lambda: unprocessed(server) == 1)
    bob.send({"type": "peek", "id": 2})
    await until(lambda: unprocessed(server) == 2)
    leave.set()
    assert (await bob.json())["data"] == "nobody"


async def test_a_hook_sees_no_context_variable_of_another_room(serve: Serve) -> None:
    leave, last = asyncio.Event(), asyncio.Event()
    room: RoomDefinition[Any, Any] = define_room("chat")

    @room.on("wait")
    async def wait(ctx: Any, data: Any) -> None:
        WHO.set(ctx.actor.name)
        await leave.wait()

    @room.on("last")
    async def wait_for_the_last(ctx: Any, data: Any) -> None:
        await last.wait()

    @room.on("peek")
    def peek(ctx: Any, data: Any) -> None:
        ctx.emit("peek", WHO.get())

    server = await serve(room, rate_limit=0, max_frame_bytes=1 << 20)
    rooms = server.gateway.attachments.rooms
    a, b = await server.connect("/ws?room=a"), await server.connect("/ws?room=b")
    await until(lambda: not any(each.unprocessed for each in rooms.values()))
    b.send({"type": "wait"}, {"type": "last"})
    await until(lambda: len(rooms["chat/b"].unprocessed) == 2)
    a.send({"type": "wait", "data": "x" * (70 << 10)})  # so much that its socket is not read until the room goes on
    await until(lambda: len(rooms["chat/a"].unprocessed) == 1)
    a.send({"type": "peek"})
    leave.set()
    for _ in range(3):
        assert (await a.data())["value"] == "nobody"
        a.send({"type": "peek"})
    last.set()


# --- turns ---------------------------------------------------------------------------------------------------


@pytest.mark.short_way
async def test_a_room_whose_hooks_outlast_a_window_rests_as_long_as_they_took(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Counting(monkeypatch)
    (client,) = await room.start(serve, 1)
    for _ in range(4):
        client.send({"type": "count", "data": 0.1})
        await client.data()
    assert room.counts == [0, 1, 0, 1]


@pytest.mark.short_way
async def test_a_room_is_visited_for_half_of_the_time_however_short_its_visits_are(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Counting(monkeypatch)
    (client,) = await room.start(serve, 1)
    for _ in range(6):
        client.send({"type": "count", "data": 0.004})
        await client.data()
    assert room.counts == [0, 0, 1, 0, 1, 0]


# --- inputs that a hook brings about, and what has to wait -----------------------------------------------------


class Relay:
    """A room whose hook has another method of it called, and waits; the calls are those of tasks that start eagerly."""

    def __init__(self, *, also_elsewhere: bool = False) -> None:
        self.order: list[str] = []
        self.leave = asyncio.Event()
        self.server: Any = None
        self._also_elsewhere = also_elsewhere
        self.room: RoomDefinition[Any, Any] = define_room("chat")
        self.room.on("relay")(self._relay)
        self.room.rpc(self.method)

    def _relay(self, ctx: Any, data: Any) -> Awaitable[str]:
        self.order.append("relay")
        if self.order.count("relay") == 1:
            hosted = self.server.gateway.host.directory.rooms[ROOM]
            hosted.invoke(Invoke(ROOM, 10001, ROOM, "method", b"[]", 5.0, None, ()))
            if self._also_elsewhere:  # which is refused at once
                hosted.invoke(Invoke(ROOM, 10002, "nowhere/x", "method", b"[]", 5.0, None, ()))
        return self._rest()

    async def _rest(self) -> str:
        self.order.append("rest")
        await self.leave.wait()
        self.order.append("over")
        return "done"

    def method(self, actor: Any) -> None:
        self.order.append("method")


@pytest.mark.parametrize("also_elsewhere", [False, True])
async def test_what_a_hook_brings_about_waits_for_the_rest_of_it(also_elsewhere: bool, serve: Serve) -> None:
    relay = Relay(also_elsewhere=also_elsewhere)
    server = relay.server = await serve(relay.room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send({"type": "relay", "id": 1})
    await until(lambda: "rest" in relay.order and unprocessed(server) == 2)
    numbers = [input.number for input, _ in server.gateway.attachments.rooms[ROOM].unprocessed]
    assert numbers == sorted(numbers)
    relay.leave.set()
    assert (await client.json())["data"] == "done"
    await until(lambda: unprocessed(server) == 0)
    assert relay.order == ["relay", "rest", "over", "method"]
    assert server.gateway.host.entries.working == 0


async def test_what_has_to_wait_is_not_lost_with_its_actor_for_what_its_hook_brought_about(serve: Serve) -> None:
    relay = Relay()
    server = relay.server = await serve(relay.room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    client.send({"type": "relay", "id": 1})
    await until(lambda: "rest" in relay.order and unprocessed(server) == 2)
    kill(server.gateway.host.directory.rooms[ROOM], server)
    relay.leave.set()
    assert await client.json() == {"type": "ack", "id": 1, "data": "done"}


@pytest.mark.short_way
async def test_a_meta_that_was_committed_is_an_effect(serve: Serve, clean_log: list[str]) -> None:
    clean_log += ["a hook of chat/default failed", "HookInterrupted"]
    runs: list[int] = []
    room: RoomDefinition[Any, Any] = define_room("chat", meta=Meta)

    @room.on("count")
    def count(ctx: Any, data: Any) -> object:
        ctx.meta.count += 1
        runs.append(ctx.meta.count)
        return object()  # which cannot be encoded

    server = await serve(room, rate_limit=0)
    client = await server.connect()
    await settled(server)
    (connection,) = server.gateway.connections.values()
    hosted = server.gateway.host.directory.rooms[ROOM]
    arrives(connection, {"type": "count", "id": 1})
    assert hosted.has_begun
    kill(hosted, server)
    assert (await client.json())["error"] == {"code": "interrupted"}
    assert runs == [1]


async def test_a_bug_of_ours_where_a_connection_is_let_in_leaves_nothing_half_done(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, clean_log: list[str]
) -> None:
    clean_log.append("an input of room chat/default could not be handled")
    room: RoomDefinition[Any, Any] = define_room("chat")
    room.on("echo")(lambda ctx, data: ctx.emit("echo", data))
    server = await serve(room, rate_limit=0)
    await server.connect()
    await settled(server)
    connected = Door.connected

    def fail(self: Any, gateway: str, event: Any) -> None:
        connected(self, gateway, event)
        raise AssertionError("a bug")

    monkeypatch.setattr(Door, "connected", fail)
    client = await server.connect()
    client.send({"type": "echo", "data": 1})
    assert (await client.data())["value"] == 1
    engine = server.gateway.host.directory.rooms[ROOM].engine
    assert engine is not None
    records = server.gateway.attachments.rooms[ROOM].records
    assert len(server.gateway.connections) == engine.connections == len(records) == 2
