"""A flood hurts nobody but the flooder: the promises of each policy that do not depend on speed.

How fast an unflooded room stays is measured by `benchmarks/flood.py`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.raw import Opcode, RawClient, close, frame, text, until
from tests.server import Serve, Server
from verani.room.definition import RoomDefinition, define_room
from verani.settings import RatePolicy, Settings
from verani_gateway.connections import liveness as liveness_module
from verani_gateway.gateway import Gateway

# What the original client waits for a pong before it hangs for ever (protocol 14).
ORIGINAL_PATIENCE = 10.0


class Flooded:
    """A room that notes what reaches it, and what woke it when somebody leaves."""

    def __init__(self, **options: Any) -> None:
        self.server: Server | None = None
        self.handled: dict[str, list[int]] = {}
        self.gone: list[tuple[str, int | None, str | None]] = []
        self.room: RoomDefinition[Any, Any] = define_room("flooded", websocket_path="/flooded/{room}", **options)
        self.room.on("n")(self._n)
        self.room.on_disconnect(self._disconnected)

    def _n(self, ctx: Any, data: int) -> None:
        self.handled.setdefault(ctx.meta.user_id, []).append(data)

    def _disconnected(self, ctx: Any) -> None:
        assert self.server is not None
        status = self.server.gateway.room(ctx.actor.name)
        assert status is not None
        self.gone.append((ctx.meta.user_id, ctx.close_code, status.woken_by))

    async def serve(self, serve: Serve, *others: RoomDefinition[Any, Any], **settings: Any) -> Server:
        self.server = await serve(self.room, *others, **settings)
        return self.server


def quiet_room() -> RoomDefinition[Any, Any]:
    room = define_room("quiet", websocket_path="/quiet")
    room.on("ask")(lambda ctx, data: ctx.emit("answer", {"n": data}))
    return room


async def flood(client: RawClient, first: int, last: int) -> None:
    """Send numbered frames; a server that has closed by then has done its part."""
    try:
        for begin in range(first, last, 100):
            client.send(*({"type": "n", "data": n} for n in range(begin, min(last, begin + 100))))
            await client.flush()
    except ConnectionError:
        pass


async def ask(client: RawClient, n: int) -> None:
    client.send({"type": "ask", "data": n})
    assert await client.data() == {"type": "answer", "n": n}


# --- throttle ------------------------------------------------------------------------------------------------


async def test_under_throttle_every_frame_of_every_flooder_arrives_once_and_in_order(serve: Serve) -> None:
    flooded = Flooded()
    server = await flooded.serve(serve, quiet_room(), rate_limit=500, rate_burst=20)
    quiet = await server.connect("/quiet")
    clients = [await server.connect(f"/flooded/{n % 2}?userId={n}") for n in range(6)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(flood(client, 0, 400))
        for n in range(50):
            await ask(quiet, n)
    await until(lambda: sum(map(len, flooded.handled.values())) >= 6 * 400)
    assert flooded.handled == {str(n): list(range(400)) for n in range(6)}
    assert not flooded.gone


async def test_a_flooder_whose_frames_wait_hears_pongs_in_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness_module, "UNREAD_PONG", 0.1)
    flooded = Flooded()
    server = await flooded.serve(serve, rate_limit=20, rate_burst=1, ping_interval=0.4)
    client = await server.connect("/flooded/a?userId=ann")
    # Its own ping waits behind its flood, as that of the original client does.
    await flood(client, 0, 200)
    client.send({"type": "ping"})
    heard, longest = time.monotonic(), 0.0
    while len(flooded.handled.get("ann", ())) < 30:
        received = await client.receive()
        assert received.payload == b'{"type":"pong"}', "an unread client is no dead peer: it gets no WebSocket ping"
        longest = max(longest, time.monotonic() - heard)
        heard = time.monotonic()
    # A pong is late by a tick of the gateway at most; the rest is for a machine that has much to do.
    assert longest < 0.1 + server.gateway.ticker.period + 1


async def test_a_client_that_waits_often_and_never_long_hears_pongs_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness_module, "UNREAD_PONG", 0.1)
    room = define_room("slow")
    handled: list[int] = []

    @room.on("n")
    async def n(ctx: Any, data: int) -> None:
        await asyncio.sleep(0.02)
        handled.append(data)

    server = await serve(room, rate_limit=0, ping_interval=0.4)
    client = await server.connect()
    pongs: list[bytes] = []

    async def listen() -> None:
        while True:
            pongs.append((await client.receive()).payload)

    listening = asyncio.create_task(listen())
    # A second's worth, with its ping behind it.
    await flood(client, 0, 50)
    await until(lambda: len(handled) >= 30)
    listening.cancel()
    assert pongs, "its own ping is still waiting"


def test_the_pong_of_an_unread_client_comes_before_the_original_client_gives_up() -> None:
    longest_tick = 1.0
    assert liveness_module.UNREAD_PONG + longest_tick < ORIGINAL_PATIENCE
    # Within its last ping interval it may have heard nothing, either.
    assert 5 + liveness_module.UNREAD_PONG <= ORIGINAL_PATIENCE


async def test_a_tick_takes_a_second_at_most(serve: Serve) -> None:
    server = await serve(quiet_room(), **{name: getattr(Settings(), name) for name in ("ping_interval", "max_unread")})
    gateway: Gateway = server.gateway
    assert gateway.ticker.period <= 1.0


# --- drop and close ------------------------------------------------------------------------------------------


async def test_under_drop_refused_frames_never_wake_the_room(serve: Serve) -> None:
    flooded = Flooded(hibernate_after=0.05)
    server = await flooded.serve(serve, rate_limit=0.001, rate_burst=1, rate_policy="drop")
    client = await server.connect("/flooded/a?userId=ann")
    client.send({"type": "n", "data": -1})
    await until(lambda: flooded.handled)
    await until(lambda: server.state("flooded/a") == "asleep")
    await flood(client, 0, 100)
    client.send(close(1000))  # behind the flood, and above no rate
    assert (await client.closed()).code == 1000
    await until(lambda: flooded.gone)
    # Had a frame woken the room, the close would have found it awake.
    assert flooded.gone == [("ann", 1000, "close")]
    assert flooded.handled == {"ann": [-1]}


async def test_under_close_refused_frames_never_wake_the_room_and_the_code_is_1008(serve: Serve) -> None:
    flooded = Flooded(hibernate_after=0.05)
    server = await flooded.serve(serve, rate_limit=0.001, rate_burst=1, rate_policy="close")
    client = await server.connect("/flooded/a?userId=ann")
    client.send({"type": "n", "data": -1})
    await until(lambda: flooded.handled)
    await until(lambda: server.state("flooded/a") == "asleep")
    await flood(client, 0, 500)
    assert (await client.closed()).payload == b"\x03\xf0too many frames"
    client.send(close(1008))
    await until(lambda: flooded.gone)
    assert flooded.gone == [("ann", 1008, "close")]
    assert flooded.handled == {"ann": [-1]}


async def test_under_close_each_flooder_is_closed_with_1008_and_its_room_sees_one_burst(serve: Serve) -> None:
    flooded = Flooded()
    server = await flooded.serve(serve, quiet_room(), rate_limit=1, rate_burst=20, rate_policy="close")
    clients = [await server.connect(f"/flooded/{n % 2}?userId={n}") for n in range(10)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(flood(client, 0, 300))
        await ask(await server.connect("/quiet"), 1)
    for client in clients:
        assert (await client.closed()).code == 1008
        client.send(close(1008))
    await until(lambda: len(flooded.gone) == 10)
    assert {code for _, code, _ in flooded.gone} == {1008}
    for handled in flooded.handled.values():
        # One more a second may pass, and a slow machine may take a few.
        assert handled == list(range(len(handled)))
        assert 20 <= len(handled) <= 25


async def test_under_drop_a_room_sees_what_the_rate_allows_and_the_flooder_stays(serve: Serve) -> None:
    flooded = Flooded()
    server = await flooded.serve(serve, quiet_room(), rate_limit=1, rate_burst=20, rate_policy="drop")
    clients = [await server.connect(f"/flooded/{n % 2}?userId={n}") for n in range(10)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(flood(client, 0, 100))
        await ask(await server.connect("/quiet"), 1)
    for client in clients:
        client.send(close(1000))
        received = await client.receive()
        assert (received.opcode, received.code) == (Opcode.CLOSE, 1000)
    await until(lambda: len(flooded.gone) == 10)
    for handled in flooded.handled.values():
        assert handled == sorted(handled)
        assert handled[:20] == list(range(20))
        assert len(handled) <= 25


# --- bytes, and rates of one's own ---------------------------------------------------------------------------


def large(size: int) -> dict[str, Any]:
    return {"type": "n", "data": 0, "padding": "x" * size}


async def test_large_frames_wait_though_they_are_few_and_none_is_lost(serve: Serve) -> None:
    flooded = Flooded()
    server = await flooded.serve(serve, quiet_room(), rate_limit=1000, rate_limit_bytes=200_000)
    quiet, client = await server.connect("/quiet"), await server.connect("/flooded/a?userId=ann")
    client.send(*(large(50_000) for _ in range(12)))
    for n in range(20):
        await ask(quiet, n)
    await until(lambda: len(flooded.handled.get("ann", ())) == 12)
    assert server.gateway.metrics.limited["rate_limit_bytes"] >= 4
    assert server.gateway.metrics.limited["rate_limit"] == 0


@pytest.mark.parametrize("setting", ["rate_limit_bytes", "rate_limit_bytes_per_user", "rate_limit_bytes_per_address"])
@pytest.mark.parametrize("kind", ["text", "binary", "ping", "invalid"])
async def test_every_frame_has_its_bytes_counted(serve: Serve, setting: str, kind: str) -> None:
    payloads = {
        "text": text(large(120)),
        "binary": frame(Opcode.BINARY, b"x" * 120),
        "ping": frame(Opcode.PING, b"x" * 120),
        "invalid": text("x" * 120),
    }
    flooded = Flooded()
    limits = {"rate_limit_bytes": 0, "max_invalid_frames": 0, setting: 0.001}
    server = await flooded.serve(serve, rate_policy="close", **limits)
    client = await server.connect("/flooded/a?userId=ann")
    client.send(payloads[kind] * 2)
    assert (await client.closed()).code == 1008
    assert server.gateway.metrics.limited[setting] == 1


async def test_a_connection_that_comes_back_has_the_bytes_of_its_user_used_up(serve: Serve) -> None:
    flooded = Flooded()
    server = await flooded.serve(serve, rate_policy="close", rate_limit_bytes_per_user=0.001)
    await (await server.connect("/flooded/a?userId=ann")).pinged()
    again, other = await server.connect("/flooded/b?userId=ann"), await server.connect("/flooded/b?userId=bob")
    again.send({"type": "n", "data": 0})
    assert (await again.closed()).code == 1008
    await other.pinged()


async def test_by_default_thirteen_megabytes_a_second_are_too_much_and_one_is_not() -> None:
    settings = Settings()
    assert settings.max_frame_bytes < settings.rate_limit_bytes <= 2 << 20


async def test_a_definition_has_rates_of_its_own_and_others_keep_those_of_the_service(serve: Serve) -> None:
    flooded = Flooded(rate_limit=1, rate_burst=5, rate_policy="close")
    server = await flooded.serve(serve, quiet_room(), rate_limit=1000)
    quiet, client = await server.connect("/quiet"), await server.connect("/flooded/a?userId=ann")
    await flood(client, 0, 6)
    assert (await client.closed()).code == 1008
    for n in range(20):
        await ask(quiet, n)
    assert flooded.handled["ann"] == list(range(5))


async def test_a_definition_may_have_no_limit_where_the_service_has_one(serve: Serve) -> None:
    flooded = Flooded(rate_limit=0, rate_limit_bytes=0)
    server = await flooded.serve(serve, rate_limit=1, rate_burst=1, rate_limit_bytes=1, rate_policy="close")
    client = await server.connect("/flooded/a?userId=ann")
    await flood(client, 0, 200)
    await until(lambda: len(flooded.handled.get("ann", ())) == 200)


class Pointed(Flooded):
    """A room in which pointers, too, are met, up to a rate of their own."""

    def __init__(self, policy: RatePolicy | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.pointers: list[int] = []
        handler = self.room.on("pointer", rate=0.001, burst=3, policy=policy)
        handler(self._pointer)

    def _pointer(self, ctx: Any, data: int) -> None:
        self.pointers.append(data)


def pointers(count: int) -> list[dict[str, Any]]:
    return [{"type": "pointer", "data": n} for n in range(count)]


async def test_an_event_above_its_rate_is_dropped_and_others_pass(serve: Serve) -> None:
    flooded = Pointed("drop")
    server = await flooded.serve(serve, rate_limit=0)
    client = await server.connect("/flooded/a?userId=ann")
    for n in range(100):
        client.send({"type": "pointer", "data": n}, {"type": "n", "data": n})
    client.send({"type": "pointer", "data": 0, "id": 7})
    assert await client.json() == {"type": "ack", "id": 7, "error": {"code": "rate_limited"}}
    await until(lambda: len(flooded.handled["ann"]) == 100)
    assert flooded.pointers == [0, 1, 2]
    assert server.gateway.metrics.limited["rate_limit"] == server.gateway.metrics.dropped_frames == 98


@pytest.mark.parametrize(("own", "of_definition"), [("close", "drop"), (None, "close")])
async def test_an_event_above_its_rate_closes_where_its_policy_says_so(
    serve: Serve, own: RatePolicy | None, of_definition: RatePolicy
) -> None:
    flooded = Pointed(own, rate_policy=of_definition)
    client = await (await flooded.serve(serve)).connect("/flooded/a?userId=ann")
    client.send(*pointers(4))
    assert (await client.closed()).code == 1008
    assert flooded.pointers == [0, 1, 2]


async def test_an_event_above_its_rate_waits_and_is_not_lost(serve: Serve) -> None:
    flooded = Flooded()
    seen: list[int] = []
    flooded.room.on("pointer", rate=20, burst=1)(lambda ctx, data: seen.append(data))
    server = await flooded.serve(serve)
    client = await server.connect("/flooded/a?userId=ann")
    client.send(*pointers(8), {"type": "n", "data": 1})
    await until(lambda: "ann" in flooded.handled)
    assert seen == list(range(8))
    assert server.gateway.metrics.limited["rate_limit"] > 0


async def test_each_connection_has_the_rate_of_an_event_for_itself(serve: Serve) -> None:
    flooded = Pointed("drop")
    server = await flooded.serve(serve)
    for user in ("ann", "bob"):
        client = await server.connect(f"/flooded/a?userId={user}")
        client.send(*pointers(5))
        await client.pinged()
    await until(lambda: len(flooded.pointers) == 6)
