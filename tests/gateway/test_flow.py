"""Memory and time stay bounded whatever a client or a hook does, and nothing is lost or reordered on the way."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.raw import Opcode, RawClient, close, frame, handshake, text, until
from tests.server import Serve, Server
from verani.room.definition import RoomDefinition, define_room
from verani.room.meta import ConnectionMeta
from verani_gateway.connections import close_handshake as closing_module
from verani_gateway.connections import leaving as leaving_module
from verani_gateway.connections import liveness as liveness_module
from verani_gateway.connections.connection import Connection
from verani_gateway.connections.in_flight import MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES
from verani_gateway.connections.rate import Turns
from verani_gateway.connections.throttle import TURN
from verani_gateway.inputs import congestion as congestion_module

PING = text('{"type":"ping"}')
PONG = b'{"type":"pong"}'


class Gate:
    """A room whose handler `n` waits until the gate opens, and what it has handled since."""

    def __init__(self, name: str = "chat", **options: Any) -> None:
        self.open = asyncio.Event()
        self.entered = asyncio.Event()
        self.handled: list[Any] = []
        self.room: RoomDefinition[Any, Any] = define_room(name, **options)
        self.room.on("n")(self._n)

    async def _n(self, ctx: Any, data: Any) -> None:
        self.entered.set()
        await self.open.wait()
        self.handled.append(data)
        ctx.emit("done", {"n": data if isinstance(data, int) else data[0]})


def only(server: Server) -> Connection:
    """Return the one connection there is."""
    (connection,) = server.gateway.connections.values()
    return connection


async def settled(value: Any) -> None:
    """Let the loop run until a value has stopped changing for many turns."""
    before, unchanged = value(), 0
    while unchanged < 50:
        await asyncio.sleep(0.001)
        before, unchanged = (before, unchanged + 1) if value() == before else (value(), 0)


# --- in flight -----------------------------------------------------------------------------------------------


async def test_frames_that_came_one_by_one_hold_up_nobody_once_they_are_processed(serve: Serve) -> None:
    gate = Gate()
    server = await serve(gate.room, rate_limit=0)
    client = await server.connect()
    connection = only(server)
    for n in range(MAX_IN_FLIGHT):
        client.send({"type": "n", "data": n})
        await until(lambda n=n: connection.in_flight.count == n + 1)  # type: ignore[misc]
    assert connection.in_flight.since is not None
    gate.open.set()
    await until(lambda: connection.in_flight.since is None)
    client.send({"type": "n", "data": MAX_IN_FLIGHT})
    assert [(await client.data())["n"] for _ in range(MAX_IN_FLIGHT + 1)] == list(range(MAX_IN_FLIGHT + 1))


async def test_who_sends_much_takes_turns_also_frame_by_frame(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    handled: list[Any] = []
    room = define_room("chat")
    room.on("n")(lambda ctx, data: handled.append(data))
    server = await serve(room)
    client = await server.connect()
    taken: list[Turns] = []
    take = Turns.take

    async def note(self: Turns) -> None:
        taken.append(self)
        await take(self)

    monkeypatch.setattr(Turns, "take", note)
    for n in range(4 * TURN):
        client.send({"type": "n", "data": n})
        await until(lambda n=n: len(handled) == n + 1)  # type: ignore[misc]
    assert taken
    assert handled == list(range(4 * TURN))


async def test_at_most_sixteen_frames_of_a_connection_are_in_flight_and_all_arrive_in_order(serve: Serve) -> None:
    gate = Gate()
    server = await serve(gate.room, rate_limit=0)
    client = await server.connect()
    client.send(*({"type": "n", "data": n} for n in range(500)))
    await gate.entered.wait()
    connection = only(server)
    await settled(lambda: connection.in_flight.count)
    assert connection.in_flight.count == MAX_IN_FLIGHT == 16
    assert len(server.gateway.attachments.rooms["chat/default"].unprocessed) == 16
    gate.open.set()
    assert [(await client.data())["n"] for _ in range(500)] == list(range(500))
    assert gate.handled == list(range(500))
    await until(lambda: (connection.in_flight.count, connection.in_flight.bytes) == (0, 0))
    assert server.gateway.attachments.in_flight == 0


async def test_at_most_64_kib_and_one_frame_of_a_connection_are_in_flight(serve: Serve) -> None:
    gate = Gate()
    server = await serve(gate.room, rate_limit=0)
    client = await server.connect()
    client.send(*({"type": "n", "data": [n, "x" * 30_000]} for n in range(20)))
    await gate.entered.wait()
    connection = only(server)
    await settled(lambda: connection.in_flight.bytes)
    assert connection.in_flight.count == 3
    assert MAX_IN_FLIGHT_BYTES == 65536 <= connection.in_flight.bytes <= 65536 + 30_200
    assert server.gateway.attachments.in_flight == connection.in_flight.bytes
    gate.open.set()
    assert [(await client.data())["n"] for _ in range(20)] == list(range(20))


async def test_a_slow_room_holds_up_no_other_and_a_full_connection_no_other(serve: Serve) -> None:
    slow, fast = Gate(websocket_path="/slow"), Gate("fast", websocket_path="/fast")
    fast.open.set()
    server = await serve(slow.room, fast.room, rate_limit=0)
    stuck, free = await server.connect("/slow"), await server.connect("/fast")
    stuck.send(*({"type": "n", "data": n} for n in range(50)))
    await slow.entered.wait()
    free.send(*({"type": "n", "data": n} for n in range(50)))
    assert [(await free.data())["n"] for _ in range(50)] == list(range(50))
    neighbour = await server.connect("/slow")
    neighbour.send(PING)
    assert await neighbour.text() == PONG
    slow.open.set()
    assert [(await stuck.data())["n"] for _ in range(50)] == list(range(50))


@pytest.mark.parametrize("limit", ["MAX_ROOM_IN_FLIGHT", "MAX_GATEWAY_IN_FLIGHT"])
async def test_over_the_limit_of_the_room_or_the_gateway_sockets_are_not_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(congestion_module, limit, 2000)
    gate = Gate(websocket_path="/ws/{room}")
    server = await serve(gate.room, rate_limit=0)
    rooms = ["a"] * 10 if limit == "MAX_ROOM_IN_FLIGHT" else list("abcdefghij")
    clients = [await server.connect(f"/ws/{room}") for room in rooms]
    for number, client in enumerate(clients):
        client.send(*({"type": "n", "data": [n, number]} for n in range(12)))
    await gate.entered.wait()
    attachments = server.gateway.attachments
    await settled(lambda: attachments.in_flight)
    # What is over the limit is one frame a connection: each looks after its own frame.
    assert 2000 <= attachments.in_flight <= 2000 + 10 * 150
    gate.open.set()
    for client in clients:
        assert [(await client.data())["n"] for _ in range(12)] == list(range(12))
    await until(lambda: attachments.in_flight == 0)
    assert not server.gateway.ingress.congestion.waiting
    for number in range(10):
        assert [n for n, of in gate.handled if of == number] == list(range(12))


async def test_a_congested_connection_that_goes_away_is_forgotten(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    server = await serve(gate.room, rate_limit=0, max_unread=0.4)
    client = await server.connect()
    client.send(*({"type": "n", "data": n} for n in range(40)))
    await gate.entered.wait()
    client.reset()
    await until(lambda: not server.gateway.connections)
    assert not server.gateway.ingress.congestion.waiting
    gate.open.set()
    await until(lambda: not server.gateway.attachments.rooms)


async def test_connects_to_a_congested_room_are_refused_before_the_upgrade(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(congestion_module, "MAX_ROOM_IN_FLIGHT", 2000)
    gate = Gate()
    gate.room.on_connect(gate_connect := _Waiting())
    server = await serve(gate.room, rate_limit=0)
    while True:  # come and go: the room cannot follow, and the sockets are gone
        client = await server.tcp()
        response = await client.request(handshake())
        if response.status != 101:
            break
        client.reset()
        await until(lambda: not server.gateway.connections)
    assert (response.status, response.body) == (503, b'{"error":{"code":"busy"}}')
    assert response.headers["retry-after"] == "5"
    assert server.gateway.attachments.in_flight < 3000
    other = await server.connect("/ws?room=other")
    gate_connect.open.set()
    await other.pinged()
    await until(lambda: list(server.gateway.attachments.rooms) == ["chat/other"])


class _Waiting:
    """An `on_connect` that waits until it may go on, in the room `default`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, ctx: Any) -> None:
        if ctx.actor.room_id == "default":
            await self.open.wait()


async def test_a_handshake_that_is_still_identified_does_not_hold_up_a_stop(serve: Serve) -> None:
    asked = asyncio.Event()

    async def extract_meta(request: Any) -> ConnectionMeta:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    server = await serve(define_room("chat", extract_meta=extract_meta))
    client = await server.tcp()
    answer = asyncio.create_task(client.request(handshake()))
    await asked.wait()
    server.gateway.stop_accepting()
    response = await answer
    assert (response.status, response.body) == (503, b'{"error":{"code":"busy"}}')
    await server.gateway.drain()


async def test_a_hook_that_ends_some_time_after_it_was_cancelled_does_not_break_a_stop(serve: Serve) -> None:
    asked, cancelled, end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def extract_meta(request: Any) -> ConnectionMeta:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            await end.wait()
        raise AssertionError("it waits for ever")

    server = await serve(define_room("chat", extract_meta=extract_meta))
    answer = asyncio.create_task((await server.tcp()).request(handshake()))
    await asked.wait()
    server.gateway.stop_accepting()
    await cancelled.wait()
    server.gateway.stop_accepting()
    end.set()
    assert (await answer).status == 503
    await server.gateway.drain()


async def test_handshakes_that_wait_for_their_turn_when_a_stop_begins_do_not_hold_it_up(serve: Serve) -> None:
    async def extract_meta(request: Any) -> ConnectionMeta:
        asyncio.get_running_loop().call_soon(server.gateway.stop_accepting)  # while the others wait
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")

    server = await serve(define_room("chat", extract_meta=extract_meta))
    clients = [await server.tcp() for _ in range(8)]
    answers = await asyncio.gather(*(client.request(handshake()) for client in clients))
    assert [answer.status for answer in answers] == [503] * 8
    assert server.gateway.metrics.limited["hook_timeout"] == 0


async def test_a_throttled_connection_that_is_kicked_does_not_wait_for_its_turn(serve: Serve) -> None:
    gone: list[int | None] = []
    room = define_room("chat", on_disconnect=lambda ctx: gone.append(ctx.close_code))
    room.on("n")(lambda ctx, data: None)
    server = await serve(room, rate_limit=0.05, rate_burst=1)
    client = await server.connect()
    client.send({"type": "n"}, {"type": "n"}, close(1000))
    connection = only(server)
    await until(lambda: connection.throttle.since is not None)
    connection.close(4000)
    await until(lambda: gone)
    assert gone == [4000]


# --- unread --------------------------------------------------------------------------------------------------


async def test_an_unread_client_of_a_slow_room_gets_pongs_and_in_the_end_1013(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert liveness_module.UNREAD_PONG == 4.0
    monkeypatch.setattr(liveness_module, "UNREAD_PONG", 0.05)
    gate = Gate()
    server = await serve(gate.room, rate_limit=0, max_unread=0.4)
    client = await server.connect()
    client.send(*({"type": "n", "data": n} for n in range(40)))
    pongs = 0
    while (received := await client.receive()).opcode == Opcode.TEXT:
        assert received.payload == PONG
        pongs += 1
    assert pongs >= 2
    assert received.payload == b"\x03\xf5the room is too slow"
    gate.open.set()


async def test_an_unread_client_is_no_dead_peer(serve: Serve) -> None:
    gate = Gate()
    server = await serve(gate.room, rate_limit=0, ping_interval=0.05, pong_timeout=0.05, max_unread=60)
    client = await server.connect()
    client.send(*({"type": "n", "data": n} for n in range(20)))
    await gate.entered.wait()
    connection = only(server)
    await until(lambda: connection.in_flight.since is not None)
    for later in range(1, 50):
        connection.tick(server.gateway.facilities.now() + later)
    assert not connection.closing.is_sent
    gate.open.set()
    while await client.text() != b'{"type":"event","channel":"default","data":{"type":"done","n":19}}':
        pass


@pytest.mark.threat(14)
async def test_a_flood_gets_pongs_and_in_the_end_1008(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness_module, "UNREAD_PONG", 0.05)
    gate = Gate()
    gate.open.set()
    server = await serve(gate.room, rate_limit=20, rate_burst=1, max_unread=0.4)
    client = await server.connect()
    client.send(*({"type": "n", "data": n} for n in range(1000)))
    done, pongs = [], 0
    while (received := await client.receive()).opcode == Opcode.TEXT:
        if received.payload == PONG:
            pongs += 1
        else:
            done.append(received.payload)
    assert pongs >= 2
    assert received.payload == b"\x03\xf0too many frames"
    assert gate.handled == list(range(len(gate.handled)))


async def test_a_close_arrives_although_the_socket_was_unread(serve: Serve) -> None:
    gate = Gate()
    server = await serve(gate.room, rate_limit=0)
    client = await server.connect()
    client.send(*({"type": "n", "data": n} for n in range(40)), close(1000))
    await gate.entered.wait()
    gate.open.set()
    assert (await client.closed()).code == 1000
    await until(lambda: len(gate.handled) == 40)


# --- slow consumers and dead peers ---------------------------------------------------------------------------


def _shouting_room(gone: list[Any]) -> RoomDefinition[Any, Any]:
    room = define_room("chat", on_disconnect=lambda ctx: gone.append((ctx.meta.user_id, ctx.close_code)))

    @room.on("shout")
    def shout(ctx: Any, data: Any) -> None:
        ctx.actor.broadcast("default", {"n": data, "x": "x" * 100_000})

    return room


async def _shout_until_slow(server: Server, loud: RawClient) -> int:
    """Broadcast until the gateway calls a client slow; what the other one gets is complete."""
    slow = next(iter(server.gateway.connections.values()))  # the one that came first
    n = 0
    while not slow.closing.is_sent:
        loud.send({"type": "shout", "data": n})
        assert (await loud.data())["n"] == n
        n += 1
        assert n < 1000, "kernel buffers hold a few MiB at most"
    return n


@pytest.mark.threat(13)
async def test_a_slow_consumer_is_closed_with_1013_after_what_was_already_on_its_way(serve: Serve) -> None:
    gone: list[Any] = []
    server = await serve(_shouting_room(gone), rate_limit=0)
    slow = await server.connect("/ws?userId=slow", receive_buffer=4096)
    await until(lambda: server.gateway.connections)
    loud = await server.connect("/ws?userId=loud")
    sent = await _shout_until_slow(server, loud)
    slow.reader._limit = 1 << 20  # type: ignore[attr-defined]  # now it reads
    got = []
    while (received := await slow.receive()).opcode == Opcode.TEXT:
        match = re.match(rb'{"type":"event","channel":"default","data":{"n":(\d+)', received.payload)
        assert match is not None
        got.append(int(match[1]))
    assert received.payload == b"\x03\xf5slow consumer"
    assert got == list(range(len(got))), "what it got has no gaps"
    assert len(got) < sent
    slow.send(close(1013))
    await until(lambda: gone)
    assert gone == [("slow", 1013)]
    loud.send({"type": "shout", "data": -1})
    assert (await loud.data())["n"] == -1


@pytest.mark.threat(13)
async def test_a_slow_consumer_that_never_reads_is_aborted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing_module, "CLOSE_TIMEOUT", 0.1)
    gone: list[Any] = []
    server = await serve(_shouting_room(gone), rate_limit=0, pong_timeout=0.2)
    await server.connect("/ws?userId=slow", receive_buffer=4096)
    await until(lambda: server.gateway.connections)
    loud = await server.connect("/ws?userId=loud")
    await _shout_until_slow(server, loud)
    await until(lambda: len(server.gateway.connections) == 1)
    await until(lambda: gone)
    assert gone == [("slow", 1013)]


async def test_a_large_burst_to_a_client_that_reads_is_no_slowness(serve: Serve) -> None:
    room = define_room("chat")

    @room.on("burst")
    def burst(ctx: Any, data: Any) -> None:
        for n in range(150):
            ctx.emit("part", {"n": n, "x": "x" * 100_000})

    client = await (await serve(room)).connect()
    client.reader._limit = 1 << 20  # type: ignore[attr-defined]  # it reads as fast as it can
    client.send({"type": "burst"})
    assert [(await client.data())["n"] for _ in range(150)] == list(range(150))


@pytest.mark.threat(12)
async def test_a_peer_that_does_not_answer_pings_is_dropped_and_on_disconnect_runs_once(serve: Serve) -> None:
    gone: list[Any] = []
    server = await serve(_shouting_room(gone), ping_interval=0.05, pong_timeout=0.05)
    client = await server.connect("/ws?userId=dead")
    assert (await client.receive()).raw == b"\x89\x00"
    assert await client.rest() == b""
    await until(lambda: gone)
    await until(lambda: not server.gateway.attachments.rooms)
    assert gone == [("dead", 1006)]


async def test_any_traffic_counts_as_life(serve: Serve) -> None:
    server = await serve(define_room("chat"), ping_interval=0.05, pong_timeout=0.3)
    client = await server.connect()
    for _ in range(5):
        assert (await client.receive()).raw == b"\x89\x00"
        client.send(PING)  # no WebSocket pong, as a client behind some proxies
        assert await client.text() == PONG


async def test_a_peer_that_does_not_answer_a_close_frame_is_aborted(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing_module, "CLOSE_TIMEOUT", 0.1)
    gone: list[Any] = []
    room = _shouting_room(gone)
    room.on("kick")(lambda ctx, data: ctx.close(4000) and None)
    server = await serve(room, pong_timeout=0.2)
    client = await server.connect("/ws?userId=ann")
    client.send({"type": "kick"})
    assert (await client.receive()).code == 4000
    assert await client.rest() == b""
    await until(lambda: gone)
    assert gone == [("ann", 4000)]


# --- drain ---------------------------------------------------------------------------------------------------


def _draining_room(seen: list[str]) -> RoomDefinition[Any, Any]:
    room = define_room("chat")

    @room.on("big")
    async def big(ctx: Any, data: Any) -> None:
        for _ in range(12):
            ctx.emit("part", {"x": "x" * 1_000_000})
        seen.append("emitted")
        await ctx.drain()
        seen.append("drained")

    return room


async def test_drain_returns_when_the_client_has_read(serve: Serve) -> None:
    seen: list[str] = []
    server = await serve(_draining_room(seen), max_send_buffer=64 << 20)
    client = await server.connect(receive_buffer=4096)
    client.send({"type": "big"})
    await until(lambda: seen)
    await until(lambda: only(server).outbox.unsent > 0)
    await settled(lambda: only(server).outbox.unsent)
    assert seen == ["emitted"]
    client.reader._limit = 1 << 20  # type: ignore[attr-defined]  # now it reads
    for _ in range(12):
        await client.text()
    await until(lambda: len(seen) == 2)
    assert only(server).outbox.unsent == 0


@pytest.mark.parametrize("how", ["reset", "close frame"])
async def test_drain_returns_when_the_client_is_gone(serve: Serve, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    seen: list[str] = []
    server = await serve(_draining_room(seen), max_send_buffer=64 << 20)
    client = await server.connect(receive_buffer=4096)
    client.send({"type": "big"})
    await until(lambda: seen)
    await until(lambda: only(server).outbox.unsent > 0)
    if how == "reset":
        client.reset()
    else:
        monkeypatch.setattr(closing_module, "CLOSE_TIMEOUT", 0.05)
        client.send(close(1000))
    await until(lambda: len(seen) == 2)


async def test_drain_with_nothing_to_send_returns_at_once(serve: Serve) -> None:
    seen: list[str] = []
    room = define_room("chat")

    @room.on_connect
    async def on_connect(ctx: Any) -> None:
        await ctx.drain()
        seen.append("drained")

    @room.on_disconnect
    async def on_disconnect(ctx: Any) -> None:
        await ctx.drain()
        seen.append("drained after the end")

    client = await (await serve(room)).connect()
    await until(lambda: seen)
    await client.end()
    await until(lambda: len(seen) == 2)


# --- stopping ------------------------------------------------------------------------------------------------


def _watched_room(seen: list[Any], gate: asyncio.Event) -> RoomDefinition[Any, Any]:
    room = define_room(
        "chat",
        on_startup=lambda: seen.append("startup"),
        on_shutdown=lambda: seen.append("shutdown"),
        on_hibernate=lambda actor: seen.append("hibernate"),
        on_disconnect=lambda ctx: seen.append((ctx.meta.user_id, ctx.close_code)),
    )

    @room.on("wait")
    async def wait(ctx: Any, data: Any) -> None:
        seen.append("hook begins")
        await gate.wait()
        seen.append("hook ends")

    return room


@pytest.mark.threat(60)
async def test_a_drain_refuses_upgrades_and_waits_for_hooks_and_disconnects(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving_module, "BATCH", 2)
    monkeypatch.setattr(leaving_module, "PAUSE", 0.001)
    seen: list[Any] = []
    gate = asyncio.Event()
    server = await serve(_watched_room(seen, gate), drain_seconds=30)
    before = asyncio.all_tasks()
    clients = [await server.connect(f"/ws?userId={n}") for n in range(5)]
    clients[0].send({"type": "wait"})
    await until(lambda: "hook begins" in seen)
    draining = asyncio.create_task(server.gateway.drain())
    for client in clients:
        assert (await client.closed()).code == 1012
    response = await server.request(handshake())
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert response.body == b'{"error":{"code":"busy"}}'
    assert (await server.request(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).status == 200
    assert not draining.done()
    gate.set()
    for client in clients:
        client.send(close(1012))
    await draining
    assert seen[:3] == ["startup", "hook begins", "hook ends"]
    assert sorted(seen[3:8]) == [(str(n), 1012) for n in range(5)]
    await server.stop()
    assert seen[8:] == ["hibernate", "shutdown"]
    for client in (*clients, *server.clients):
        await client.end()
    await until(lambda: asyncio.all_tasks() <= before)


async def test_a_handshake_that_the_drain_overtakes_is_refused(serve: Serve) -> None:
    goes_on, asked = asyncio.Event(), asyncio.Event()

    async def identify(request: Any) -> ConnectionMeta:
        asked.set()
        await goes_on.wait()
        return ConnectionMeta(user_id="ann", client_id="1")

    server = await serve(define_room("chat", extract_meta=identify))
    handshaking = asyncio.create_task(server.request(handshake()))
    await asked.wait()
    draining = asyncio.create_task(server.gateway.drain())
    await until(lambda: not server.gateway.accepting)
    goes_on.set()
    assert (await handshaking).status == 503
    await draining


async def test_a_stop_needs_no_answer_to_its_close_frames(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    server = await serve(_watched_room(seen, asyncio.Event()), drain_seconds=30)
    before = asyncio.all_tasks()
    clients = [await server.connect(f"/ws?userId={n}") for n in range(5)]
    for client in clients:
        await client.pinged()
    await server.stop()
    assert sorted(seen[1:6]) == [(str(n), 1012) for n in range(5)]
    assert seen[6:] == ["hibernate", "shutdown"]
    for client in clients:
        assert (await client.receive()).code == 1012
        assert await client.rest() == b""
    assert asyncio.all_tasks() <= before
    assert not [line for line in caplog.messages if "left at the end" in line]


async def test_a_hook_that_outlives_the_drain_is_torn_down(
    serve: Serve, clean_log: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    server = await serve(_watched_room(seen, asyncio.Event()), drain_seconds=0.3)
    before = asyncio.all_tasks()
    client = await server.connect()
    client.send({"type": "wait"})
    await until(lambda: "hook begins" in seen)
    await server.stop()
    assert seen == ["startup", "hook begins", "shutdown"]
    assert any(line.startswith("1 rooms did not go to sleep") for line in caplog.messages)
    assert asyncio.all_tasks() <= before


async def test_a_sleeping_room_runs_on_disconnect_at_a_stop(serve: Serve) -> None:
    seen: list[Any] = []
    server = await serve(_watched_room(seen, asyncio.Event()), hibernate_after=0.02)
    await server.connect("/ws?userId=ann")
    await until(lambda: server.state("chat/default") == "asleep")
    await server.stop()
    assert seen == ["startup", "hibernate", ("ann", 1012), "hibernate", "shutdown"]


async def test_a_failing_on_startup_stops_the_start_and_a_failing_on_shutdown_does_not_stop_the_stop(
    serve: Serve, clean_log: list[str]
) -> None:
    clean_log.append("on_shutdown of first failed")
    seen: list[str] = []
    with pytest.raises(ZeroDivisionError):
        await serve(define_room("chat", on_startup=lambda: 1 // 0))

    async def shutdown() -> None:
        raise SystemExit("not from a hook")

    server = await serve(
        define_room("first", websocket_path="/first", on_shutdown=shutdown),
        define_room("second", websocket_path="/second", on_shutdown=lambda: seen.append("second")),
    )
    await server.stop()
    assert seen == ["second"]


async def test_frames_after_the_handshake_of_a_full_room_are_read_by_nobody(serve: Serve) -> None:
    gate = Gate()
    server = await serve(gate.room, max_connections_per_room=1)
    await server.connect()
    client = await server.tcp()
    response = await client.request(handshake() + text({"type": "n", "data": 1}) + frame(Opcode.PING))
    assert response.status == 503
    assert await client.rest() == b""
    assert not gate.entered.is_set()


# --- what is read, and when ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100])
async def test_a_message_of_endless_fragments_is_closed_and_counted(serve: Serve, size: int) -> None:
    server = await serve(define_room("chat"), max_frame_bytes=1000)
    client, quiet = await server.connect(), await server.connect()
    client.send(frame(Opcode.TEXT, b'"', fin=False), frame(Opcode.CONTINUATION, b"x" * size, fin=False) * 2000)
    assert (await client.closed()).code == 1009
    assert server.gateway.metrics.limited["max_frame_bytes"] == 1
    await quiet.pinged()


async def test_a_close_frame_is_not_lost_to_what_the_client_had_sent_before_it(serve: Serve) -> None:
    server = await serve(define_room("chat"), max_frame_bytes=1000)
    client = await server.connect()
    client.send(frame(Opcode.TEXT, b"x" * (8 << 20)))
    assert (await client.closed()).code == 1009
    await client.flush()
    assert await client.reader.read() == b"", "all of it was taken, so nothing resets the connection"
    await client.end()
    await until(lambda: not server.gateway.connections)


async def test_a_close_frame_is_not_lost_when_the_room_catches_up_meanwhile(serve: Serve) -> None:
    room, go_on = define_room("chat"), asyncio.Event()

    @room.on("wait")
    async def wait(ctx: Any, data: object) -> None:
        await go_on.wait()

    server = await serve(room, max_frame_bytes=1000)
    client = await server.connect()
    client.send({"type": "wait"}, frame(Opcode.TEXT, b"x" * (8 << 20)))
    assert (await client.closed()).code == 1009
    (connection,) = server.gateway.connections.values()
    go_on.set()
    await until(lambda: not connection.in_flight.count)
    await client.flush()
    assert await client.reader.read() == b""


async def test_what_is_sent_after_a_violation_is_not_read_without_end(serve: Serve) -> None:
    server = await serve(define_room("chat"), max_frame_bytes=1000)
    client = await server.connect()
    client.send(frame(Opcode.TEXT, b"x" * (8 << 20), length=1 << 40))
    assert (await client.closed()).code == 1009
    for _ in range(2):
        client.send(b"x" * (8 << 20))
    await until(lambda: not server.gateway.connections)


async def test_who_does_not_hang_up_after_a_violation_is_not_waited_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing_module, "CLOSE_TIMEOUT", 0.1)
    server = await serve(define_room("chat"), max_frame_bytes=1000)
    client = await server.connect()
    client.send(frame(Opcode.TEXT, b"x" * 2000))
    assert (await client.closed()).code == 1009
    await until(lambda: not server.gateway.connections)


@pytest.mark.parametrize("size", [2000, 20_000, 60_000])
async def test_a_large_message_in_many_fragments_arrives_whole(serve: Serve, size: int) -> None:
    room = define_room("chat")
    room.on("size")(lambda ctx, data: ctx.emit("sized", len(data)))
    server = await serve(room)
    client = await server.connect()
    payload = b'{"type":"size","data":"%b"}' % (b"x" * size)
    pieces = [payload[start : start + 700] for start in range(0, len(payload), 700)]
    client.send(
        frame(Opcode.TEXT, pieces[0], fin=False),
        *(frame(Opcode.CONTINUATION, piece, fin=False) for piece in pieces[1:]),
        frame(Opcode.CONTINUATION),
    )
    assert await client.data() == {"type": "sized", "value": size}


async def test_frames_of_every_size_arrive_in_order_however_they_are_cut(serve: Serve) -> None:
    seen: list[int] = []
    room = define_room("chat")
    room.on("n")(lambda ctx, data: seen.append(len(data)))
    server = await serve(room, rate_limit=0)
    client = await server.connect()
    sizes = [0, 10, 60_000, 5, 1023, 1024, 1025, 2047, 2048, 2049, 16_384, 3, 40_000, *range(500)]
    sent = b"".join(text({"type": "n", "data": "x" * size}) for size in sizes)
    for start in range(0, len(sent), 1777):
        client.writer.write(sent[start : start + 1777])
        await client.flush()
    await until(lambda: len(seen) == len(sizes))
    assert seen == sizes


async def test_who_would_wait_longer_than_may_be_is_closed_at_once_and_leaves_no_debt(serve: Serve) -> None:
    room = define_room("chat")
    room.on("n")(lambda ctx, data: None)
    server = await serve(room, rate_limit_per_address=1.0, rate_burst=1, max_unread=3)
    crowd = [await server.connect(f"/ws?userId=u{number}") for number in range(30)]
    for client in crowd:
        client.send({"type": "n"})
    await until(lambda: server.gateway.metrics.limited["max_unread"] >= 26)
    for client in crowd:
        await client.end()
    await until(lambda: not server.gateway.connections)
    now = server.gateway.facilities.now()
    bucket = server.gateway.facilities.meters.shared["rate_limit_per_address"].acquire("127.0.0.1", now)
    assert bucket.reserve(now) <= 3 + 1


async def test_a_client_whose_pings_wait_behind_its_own_frames_hears_that_the_server_lives(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verani_gateway.connections.liveness.UNREAD_PONG", 0.05)
    server = await serve(define_room("chat"), ping_interval=0.2)
    client = await server.connect()
    only(server)._intake.hold()
    assert await client.text() == b'{"type":"pong"}'
