"""`verani.testing.serve`: a real server for tests."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from verani import Context, DefinitionError, Forbidden, Settings, connect, define_room
from verani.client import NotSent, Reconnection, VeraniClient
from verani.errors import VeraniError
from verani.testing import serve
from verani_gateway import setup

ONCE = Reconnection(enabled=False)


def echo_room(name: str = "chat", **options: Any) -> Any:
    room = define_room(name, **options)
    room.on("echo")(lambda ctx, data: data)
    room.on("all")(lambda ctx, data: ctx.actor.emit("told", data))
    return room


async def test_a_room_is_served_for_real_as_long_as_the_block_runs() -> None:
    async with serve(echo_room()) as url:
        async with (
            VeraniClient(f"{url}/ws?room=lobby&userId=ann") as ann,
            VeraniClient(f"{url}/ws?room=lobby&userId=bob") as bob,
        ):
            assert await ann.request("echo", [1, "ü"]) == [1, "ü"]
            assert await ann.request("all", {"n": 1}) == 2
            assert (await anext(aiter(bob))).data == {"type": "told", "n": 1}
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as response:
            assert response.status == 200
    client = VeraniClient(f"{url}/ws", reconnection=ONCE)
    with pytest.raises(VeraniError, match="Connection refused"):
        await client.connect()
    await client.close()


async def test_rooms_can_be_called_over_the_internal_listener() -> None:
    server = serve(echo_room(), echo_room("news", websocket_path="/news"))
    async with server as url, VeraniClient(f"{url}/news?room=front") as reader, connect(server.internal_url) as service:
        assert await service.room("news", "front").emit_to_channel("default", "late", 1) == 1
        assert (await anext(aiter(reader))).type == "late"


async def test_two_servers_run_side_by_side() -> None:
    async with serve(echo_room()) as first, serve(echo_room()) as second:
        assert first != second
        for url in (first, second):
            async with VeraniClient(f"{url}/ws") as client:
                assert await client.request("echo", url) == url


async def test_settings_are_those_of_the_service() -> None:
    def refuse(ctx: Context[Any, Any]) -> None:
        raise Forbidden("nobody")

    async with serve(echo_room(on_connect=refuse), settings=Settings(max_frame_bytes=100, port=1)) as url:
        assert not url.endswith(":1")
        client = VeraniClient(f"{url}/ws")
        await client.connect()
        with pytest.raises(Forbidden):
            await anext(aiter(client))
        await client.close()


async def test_an_application_of_ones_own_is_served_with_its_rooms() -> None:
    async def index(request: web.Request) -> web.Response:
        return web.Response(text="the rest of your site")

    app = web.Application()
    app.router.add_get("/", index)
    setup(app, echo_room())
    async with serve(app) as url:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert await response.text() == "the rest of your site"
        async with VeraniClient(f"{url}/ws") as client:
            assert await client.request("echo", 1) == 1


async def test_rooms_of_a_sub_application_are_served() -> None:
    app, sub = web.Application(), web.Application()
    setup(sub, echo_room())
    app.add_subapp("/rooms", sub)
    async with serve(app) as url, VeraniClient(f"{url}/rooms/ws") as client:
        assert await client.request("echo", 1) == 1


async def test_leaving_the_block_stops_the_service_whoever_is_still_connected() -> None:
    client = VeraniClient("ws://127.0.0.1/", reconnection=ONCE)
    closed: list[int] = []
    client.on("close", lambda code, reason: closed.append(code))

    async def fail_inside() -> None:
        async with serve(echo_room()) as url:
            client.url = f"{url}/ws"
            await client.connect()
            raise RuntimeError("of the test")

    with pytest.raises(RuntimeError, match="of the test"):
        await fail_inside()
    with pytest.raises(NotSent, match="the service restarts"):
        await client.request("echo")
    await client.close()
    assert closed == [1012]


async def test_nothing_is_left_when_the_block_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    before = asyncio.all_tasks()
    async with serve(echo_room()) as url, VeraniClient(f"{url}/ws") as client:
        await client.request("echo")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert caplog.records == []


@pytest.mark.parametrize("targets", [(), ("chat",), (web.Application(),), (echo_room(), echo_room())])
async def test_what_cannot_be_served_is_refused_with_the_reason(targets: Any) -> None:
    with pytest.raises(DefinitionError):
        async with serve(*targets):
            pass


def test_the_harness_does_without_the_service() -> None:
    code = (
        "import sys, verani.testing; print([name for name in sys.modules if 'thespian' in name or 'gateway' in name])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "['verani.testing.stand_in_gateway']\n"
