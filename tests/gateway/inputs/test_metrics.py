"""Every limit that makes itself felt is counted under its setting's name, and Prometheus can read all of it."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import msgspec
import pytest

from tests.measured import measured
from tests.raw import RawClient, handshake, text, until
from tests.server import Serve, Server
from verani import ConnectionMeta, ConnectRequest, Context, RoomBusy, Unauthorized, define_room
from verani_actors.operating.answers import answer
from verani_gateway.operating.exposition import exposition
from verani_gateway.placement.placement import Embedded


def a_room() -> Any:
    room = define_room("chat")

    @room.on("say")
    def say(ctx: Context, data: Any) -> None:
        ctx.emit("said", data)

    @room.on("flood")
    def flood(ctx: Context, data: Any) -> None:
        for _ in range(40):
            ctx.emit("x", "x" * (1 << 18))

    @room.rpc
    async def wait(actor: Any) -> None:
        await asyncio.Event().wait()

    return room


def limited(server: Server, setting: str) -> int:
    return server.gateway.metrics.limited[setting]


SAY = b'{"type":"say","data":1}'


def send(client: RawClient, *frames: bytes) -> None:
    client.send(*(text(frame) for frame in frames))


async def test_a_user_shares_one_rate_over_all_connections(serve: Serve) -> None:
    server = await serve(a_room(), rate_limit_per_user=0.001, rate_burst=4, rate_policy="drop")
    first, second = await server.connect("/ws?userId=ada"), await server.connect("/ws?userId=ada")
    other = await server.connect("/ws?userId=bob")
    send(first, *[SAY] * 3)
    await until(lambda: server.gateway.metrics.frames == 3)
    send(second, *[SAY] * 3)
    await until(lambda: server.gateway.metrics.dropped_frames == 2)
    send(other, *[SAY] * 4)
    await until(lambda: server.gateway.metrics.frames == 8)
    assert limited(server, "rate_limit_per_user") == 2
    await first.end()
    await second.end()
    await until(lambda: len(server.gateway.connections) == 1)
    again = await server.connect("/ws?userId=ada")
    send(again, SAY)
    await until(lambda: server.gateway.metrics.dropped_frames == 3)


async def test_an_address_shares_one_rate_over_all_users(serve: Serve) -> None:
    server = await serve(a_room(), rate_limit_per_address=0.001, rate_burst=4, rate_policy="close")
    clients = [await server.connect(f"/ws?userId=u{number}") for number in range(3)]
    for client in clients[:2]:
        send(client, *[SAY] * 2)
    await until(lambda: server.gateway.metrics.frames == 4)
    send(clients[2], SAY)
    assert (await clients[2].closed()).code == 1008
    assert limited(server, "rate_limit_per_address") == 1
    await until(lambda: server.gateway.metrics.closes[1008] == 1)


async def test_throttled_connections_of_one_user_have_their_turns_and_lose_nothing(serve: Serve) -> None:
    server = await serve(a_room(), rate_limit_per_user=50, rate_burst=1)
    clients = [await server.connect("/ws?userId=ada") for _ in range(5)]
    for client in clients:
        send(client, *[SAY] * 10)
    for client in clients:
        for _ in range(10):
            assert b'"said"' in await client.text()
    assert server.gateway.metrics.frames == 50
    assert limited(server, "rate_limit_per_user") >= 25  # on a busy machine, some come late enough


@pytest.mark.parametrize(
    ("settings", "frames", "limit"),
    [
        ({"max_frame_bytes": 100}, [b'{"type":"say","data":"' + b"x" * 100 + b'"}'], "max_frame_bytes"),
        ({"max_invalid_frames": 2}, [b"?", b"?"], "max_invalid_frames"),
        ({"rate_limit": 0.001, "rate_burst": 1, "rate_policy": "close"}, [SAY, SAY], "rate_limit"),
        (
            {"rate_limit": 0.001, "rate_burst": 1, "max_unread": 0.1},
            [SAY, SAY],
            "max_unread",
        ),
    ],
)
async def test_limits_of_one_connection_are_counted(
    serve: Serve, settings: dict[str, Any], frames: list[bytes], limit: str
) -> None:
    server = await serve(a_room(), **settings)
    client = await server.connect()
    send(client, *frames)
    await until(lambda: limited(server, limit) == 1)


async def test_a_client_that_does_not_read_is_counted(serve: Serve) -> None:
    server = await serve(a_room())
    client = await server.connect(receive_buffer=4096)
    send(client, b'{"type":"flood"}')
    await until(lambda: limited(server, "max_send_buffer") == 1)


async def test_a_peer_that_does_not_answer_pings_is_counted(serve: Serve) -> None:
    server = await serve(a_room(), ping_interval=0.05, pong_timeout=0.05)
    await server.connect()
    await until(lambda: limited(server, "pong_timeout") == 1)


@pytest.mark.parametrize(
    ("settings", "headers", "limit", "code"),
    [
        ({"max_connections": 1}, {}, "max_connections", "busy"),
        ({"max_connections_per_room": 1}, {}, "max_connections_per_room", "busy"),
        ({"max_connections_per_address": 1}, {}, "max_connections_per_address", "rate_limited"),
        ({}, {"Origin": "https://evil.example"}, "allowed_origins", "forbidden"),
    ],
)
async def test_refused_handshakes_are_counted_by_limit_and_code(
    serve: Serve, settings: dict[str, Any], headers: dict[str, str], limit: str, code: str
) -> None:
    server = await serve(a_room(), **settings)
    await server.connect()
    response = await server.request(handshake("/ws", drop=(), **headers))
    assert response.status in (403, 429, 503)
    assert (limited(server, limit), server.gateway.metrics.refusals) == (1, {code: 1})


async def test_limits_of_calls_are_counted(serve: Serve) -> None:
    server = await serve(a_room(), max_rpc_calls=1, max_rpc_bytes=100)
    stub = server.gateway.stub("chat", "a")
    waiting = asyncio.create_task(stub.wait(timeout=0.2))
    await until(lambda: len(server.gateway.calls) == 1)
    with pytest.raises(RoomBusy):
        await stub.get_session_count()
    with pytest.raises(Exception, match="at most 100 bytes"):
        await stub.broadcast("default", "x" * 100)
    await asyncio.wait([waiting])
    assert waiting.exception() is not None
    metrics = server.gateway.metrics
    assert [metrics.limited[name] for name in ("max_rpc_calls", "max_rpc_bytes", "rpc_timeout")] == [1, 1, 1]
    assert metrics.calls == {"busy": 1, "too_large": 1, "deadline": 1}
    assert await server.gateway.stub("chat", "b").get_session_count() == 0
    assert metrics.calls["ok"] == 1


NAME = "(verani|process)_[a-z_]+"
LABEL = r'[a-z]+="[A-Za-z0-9_.+]+"'
LINE = re.compile(rf"(# (HELP|TYPE) {NAME} .+|{NAME}(\{{({LABEL},)*{LABEL}\}})? [0-9]+\.[0-9e+-]+)")


async def test_prometheus_can_read_it(serve: Serve) -> None:
    server = await serve(a_room(), max_invalid_frames=1)
    client = await server.connect()
    send(client, SAY, b"?")
    await until(lambda: server.gateway.metrics.closes[1008] == 1)
    await server.connect()
    text = exposition(server.gateway)
    lines, samples = text.splitlines(), measured(text)
    for line in lines:
        assert LINE.fullmatch(line), line
    assert samples["connections"] == 1
    assert samples["connections_total"] == 2
    assert samples["frames_total"] == 1
    assert samples["deliveries_total"] == 1
    assert samples['hook_duration_seconds_count{definition="chat",hook="say",kind="event"}'] == 1
    assert samples['wake_duration_seconds_bucket{definition="chat",le="+Inf"}'] == 1
    assert samples['wakes_total{reason="connect"}'] == 1
    assert samples["invalid_frames_total"] == 1
    assert samples['closes_total{code="1008"}'] == 1
    assert samples['limited_total{setting="max_invalid_frames"}'] == 1
    assert samples['rooms{state="awake"}'] == 1
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    sampled = {re.split(r"[ {]", line)[0] for line in lines if not line.startswith("#")}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in sampled} <= described


async def test_inputs_behind_a_hook_that_waits_are_counted_until_they_are_processed(serve: Serve) -> None:
    room, goes_on = define_room("chat"), asyncio.Event()

    @room.on("wait")
    async def wait(ctx: Context, data: Any) -> None:
        await goes_on.wait()

    server = await serve(room)
    client = await server.connect()
    waiting = ("mailbox_inputs", "in_flight_inputs", "busy_rooms")

    def counts() -> tuple[float, ...]:
        samples = measured(exposition(server.gateway))
        return tuple(samples[name] for name in waiting)

    await until(lambda: counts() == (0, 0, 0))
    send(client, *[b'{"type":"wait"}'] * 3)
    await until(lambda: counts() == (3, 3, 1))
    goes_on.set()
    await until(lambda: counts() == (0, 0, 0))


async def test_a_room_host_is_measured_the_same_in_this_process_and_in_its_own(serve: Serve) -> None:
    server = await serve(a_room())
    placement = server.gateway.placement
    assert isinstance(placement, Embedded)
    told = msgspec.json.decode(answer("metrics", "", placement.host, lambda: pytest.fail("nobody asked")), type=str)
    described = {line for line in told.splitlines() if line.startswith("# ")}
    assert {line.split()[2] for line in described} > {"verani_rooms", "verani_hook_duration_seconds"}
    assert described <= set(exposition(server.gateway).splitlines())


async def test_bytes_of_sockets_and_deliveries_to_each_connection_are_counted(serve: Serve) -> None:
    room = define_room("chat")

    @room.on("tell")
    def tell(ctx: Context, data: Any) -> None:
        ctx.actor.broadcast("default", {"type": "told"})
        ctx.actor.broadcast("default", {"type": "told"})
        ctx.emit("told", data)

    server = await serve(room)
    a, b = await server.connect(), await server.connect()
    counts = server.gateway.metrics
    await until(lambda: counts.connections == 2)
    before = counts.received_bytes, counts.sent_bytes
    frame = text(b'{"type":"tell","data":1}')
    a.send(frame)
    answers = [await a.text() for _ in range(3)] + [await b.text() for _ in range(2)]
    assert counts.deliveries == 5
    assert counts.received_bytes - before[0] == len(frame)
    assert counts.sent_bytes - before[1] == sum(2 + len(answer) for answer in answers)


async def test_a_socket_that_takes_nothing_more_is_counted_with_what_waits_for_it(serve: Serve) -> None:
    server = await serve(a_room(), max_send_buffer=32 << 20)
    slow = await server.connect(receive_buffer=4096)
    other = await server.connect(receive_buffer=4096)
    full = server.gateway.metrics.full
    send(slow, b'{"type":"flood"}')
    await until(lambda: bool(full))
    samples = measured(exposition(server.gateway))
    assert samples["full_sockets"] == 1
    assert samples["send_buffer_bytes"] > 1 << 16
    for _ in range(40):
        await slow.text()
    await until(lambda: not full)
    assert measured(exposition(server.gateway))["send_buffer_bytes"] == 0
    send(other, b'{"type":"flood"}')
    await until(lambda: bool(full))
    await other.end()
    await until(lambda: not full)


async def test_a_scrape_takes_no_longer_where_there_are_more_rooms_and_connections(serve: Serve) -> None:
    server = await serve(a_room())

    def calls() -> int:
        count = 0

        def note(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(note)
        try:
            exposition(server.gateway)
        finally:
            sys.setprofile(None)
        return count

    async def visit(number: int) -> None:
        client = await server.connect(f"/ws?room=r{number}")
        send(client, SAY)
        await client.text()

    await visit(0)
    few = calls()
    for number in range(1, 50):
        await visit(number)
    assert len(server.gateway.host.rooms()) == 50
    assert calls() <= few + 20


async def test_hooks_that_decide_who_may_connect_are_measured(serve: Serve, clean_log: list[str]) -> None:
    clean_log.append("extract_meta or name_from_request of chat failed")

    async def extract_meta(request: ConnectRequest) -> ConnectionMeta:
        match request.query.get("as"):
            case "nobody":
                raise Unauthorized
            case "fault":
                raise KeyError
        return ConnectionMeta(user_id="ann", client_id="c")

    server = await serve(define_room("chat", extract_meta=extract_meta))
    await server.connect()
    for wrong, status in (("nobody", 401), ("fault", 500)):
        assert (await server.request(handshake(f"/ws?as={wrong}"))).status == status
    samples = measured(exposition(server.gateway))
    assert samples['identify_duration_seconds_count{definition="chat"}'] >= 3
    assert samples['identify_errors_total{definition="chat"}'] == 1
