"""Ten minutes of clients that a room, or each other, sends away again and again: a real gateway, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web

from tests.server import Server
from tests.virtual_time import VirtualTimeLoop
from verani import Context, Forbidden, RoomBusy, Settings, VeraniError, define_room
from verani.client import ClientState, ConnectionClosed, Reconnection, VeraniClient
from verani.room.definition import RoomDefinition

TEN_MINUTES = 600.0
FOR_EVER = Reconnection(max_attempts=None)


def in_virtual_time(journey: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(patience=0.0002)) as runner:
        runner.run(journey)


class Rejecting:
    """A room that does one thing with everybody who comes in, and counts them."""

    def __init__(self, what: str) -> None:
        self.connections = 0
        self.definition: RoomDefinition[Any, Any] = define_room("chat", on_connect=self._connected)
        self.definition.on("hello")(self._hello)
        self._what = what

    async def _connected(self, ctx: Context[Any, Any]) -> None:
        self.connections += 1
        ctx.emit("welcome", {"history": ["a", "b"]})
        match self._what:
            case "raises":
                raise RuntimeError("no")
            case "raises late":
                await asyncio.sleep(2)
                raise RuntimeError("no")
            case "closes with 1013":
                ctx.close(1013, "over capacity")
            case "closes a second later":
                ctx.actor.spawn(self._close_later(ctx))

    async def _close_later(self, ctx: Context[Any, Any]) -> None:
        await asyncio.sleep(1)
        ctx.close(1013, "over capacity")

    def _hello(self, ctx: Context[Any, Any], data: object) -> str:
        if self._what == "closes after the first answer":
            ctx.actor.spawn(self._close_later(ctx))
        return "hello"


@asynccontextmanager
async def serving(room: RoomDefinition[Any, Any], **settings: Any) -> AsyncIterator[Server]:
    server = await Server.start(room, header_timeout=10, settings=Settings(**settings))
    try:
        yield server
    finally:
        await server.end()


def greet(client: VeraniClient) -> None:
    """Do what the README shows: ask for something after every reconnect."""

    @client.on("connected")
    async def hello() -> None:
        with suppress(VeraniError):  # the next connection asks again
            await client.request("hello")


@pytest.mark.parametrize(
    "what",
    ["raises", "raises late", "closes with 1013", "closes a second later", "closes after the first answer"],
)
def test_a_room_that_sends_everybody_away_sees_a_client_less_than_thirty_times_in_ten_minutes(what: str) -> None:
    async def journey() -> None:
        room = Rejecting(what)
        async with serving(room.definition) as server:
            client = VeraniClient(f"ws://127.0.0.1:{server.port}/ws", reconnection=FOR_EVER)
            greet(client)
            await client.connect(wait=False)
            await asyncio.sleep(TEN_MINUTES)
            assert 10 < room.connections < 30
            assert client.state is not ClientState.ERROR
            await client.close()

    in_virtual_time(journey())


@pytest.mark.parametrize("what", ["raises", "closes with 1013", "closes after the first answer"])
def test_a_client_with_a_limit_gives_up_and_says_why(what: str) -> None:
    async def journey() -> None:
        room = Rejecting(what)
        async with serving(room.definition) as server:
            client = VeraniClient(f"ws://127.0.0.1:{server.port}/ws")
            greet(client)
            async with asyncio.timeout(TEN_MINUTES):
                with pytest.raises(ConnectionClosed, match="gave up after 10 failed attempts in a row: .* code 101"):
                    await listen(client)
            assert client.state is ClientState.ERROR
            assert room.connections == 10
            await client.close()

    in_virtual_time(journey())


async def listen(client: VeraniClient) -> None:
    await client.connect()
    async for _ in client:
        pass


def test_two_clients_of_one_client_id_do_not_fight_for_ever() -> None:
    async def journey() -> None:
        room = Rejecting("welcomes")
        async with serving(room.definition) as server:
            url = f"ws://127.0.0.1:{server.port}/ws?userId=ann&clientId=phone"
            clients = [VeraniClient(url, reconnection=FOR_EVER) for _ in range(2)]
            for client in clients:
                greet(client)
                await client.connect(wait=False)
            await asyncio.sleep(TEN_MINUTES)
            assert room.connections < 2 * 30
            for client in clients:
                await client.close()

    in_virtual_time(journey())


def test_a_client_that_floods_on_every_connection_comes_back_ever_more_slowly() -> None:
    async def journey() -> None:
        room = Rejecting("welcomes")
        async with serving(room.definition, rate_limit=5, rate_policy="close") as server:
            client = VeraniClient(f"ws://127.0.0.1:{server.port}/ws", reconnection=FOR_EVER)
            closes: list[int] = []
            client.on("close", lambda code, reason: closes.append(code))

            @client.on("connected")
            def flood() -> None:
                for _ in range(50):
                    client.emit("x")

            await client.connect(wait=False)
            await asyncio.sleep(TEN_MINUTES)
            assert set(closes) == {1008}
            assert 10 < room.connections < 30
            await client.close()

    in_virtual_time(journey())


def test_a_client_whose_connections_last_comes_back_at_once_each_time() -> None:
    async def journey() -> None:
        room = Rejecting("welcomes")
        async with serving(room.definition) as server:
            client = VeraniClient(f"ws://127.0.0.1:{server.port}/ws", reconnection=Reconnection(max_attempts=2))
            delays: list[float] = []
            client.on("reconnecting", lambda attempt, delay: delays.append(delay))
            await client.connect()
            for _ in range(20):
                await client.wait_for_connection()
                await asyncio.sleep(6)
                for connection in server.gateway.connections.values():
                    connection.close(1012, "restart")
                await asyncio.sleep(0.1)
            assert len(delays) == 20
            assert max(delays) <= 1.0
            await client.close()

    in_virtual_time(journey())


@pytest.mark.parametrize("refusal", [Forbidden, RoomBusy])
def test_a_client_that_on_connect_refuses_stays_away_and_raises_the_refusal(refusal: type[VeraniError]) -> None:
    async def journey() -> None:
        count = 0

        def refuse(ctx: Context[Any, Any]) -> None:
            nonlocal count
            count += 1
            raise refusal("not for clients")

        async with serving(define_room("chat", on_connect=refuse)) as server:
            client = VeraniClient(f"ws://127.0.0.1:{server.port}/ws", reconnection=FOR_EVER)
            with pytest.raises(refusal, match=f"the room refused this client with '{refusal.code}'") as caught:
                await listen(client)
            assert "not for clients" not in str(caught.value)
            await asyncio.sleep(TEN_MINUTES)
            assert count == 1
            await client.close()

    in_virtual_time(journey())


def test_whatever_a_server_sends_is_a_sign_of_life() -> None:
    handshakes = 0

    async def talk(request: web.Request) -> web.WebSocketResponse:
        nonlocal handshakes
        handshakes += 1
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for _ in ws:  # pings, and none is answered by a pong
            await ws.send_str('{"type":"event","channel":"default","data":{"type":"news"}}')
        return ws

    async def journey() -> None:
        application = web.Application()
        application.router.add_get("/ws", talk)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with VeraniClient(f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"):
            await asyncio.sleep(TEN_MINUTES)
            assert handshakes == 1
        await runner.cleanup()

    in_virtual_time(journey())
