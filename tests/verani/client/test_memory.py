"""A client that has ended is free by reference counting, whatever it went through."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from verani import Context, Forbidden, connect, define_room
from verani.client import Reconnection, VeraniClient
from verani.connect import Service
from verani.errors import VeraniError
from verani.testing import serve

ONCE = Reconnection(enabled=False)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Leave the memory to reference counting while a test runs."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    room = define_room("chat")

    @room.on_connect
    def come(ctx: Context[Any, Any]) -> None:
        ctx.emit("welcome")
        if ctx.meta.user_id == "unwelcome":
            raise Forbidden("no")

    @room.on("echo")
    def echo(ctx: Context[Any, Any], data: Any) -> Any:
        return data

    @room.on("leave")
    def leave(ctx: Context[Any, Any], data: Any) -> None:
        ctx.close(4100, "left")

    @room.on("wait")
    async def wait(ctx: Context[Any, Any], data: Any) -> None:
        await asyncio.sleep(0.5)

    @room.on("fail")
    def fail(ctx: Context[Any, Any], data: Any) -> None:
        raise Forbidden("no")

    async with serve(room) as served:
        yield f"{served}/ws"


async def is_quiet(client: VeraniClient) -> None:
    """Ask, hear and close."""
    async with client:
        assert await client.request("echo", 1) == 1
        assert (await anext(aiter(client))).type == "welcome"


async def never_connects(client: VeraniClient) -> None:
    client.emit("queued")
    with suppress(VeraniError):
        await client.request("echo")


async def is_refused(client: VeraniClient) -> None:
    client.url = client.url + "?userId=unwelcome"
    await client.connect()
    events = aiter(client)
    for _ in range(3):
        with suppress(Forbidden):
            await anext(events)
    for wait in (client.wait_for_connection, lambda: client.request("echo")):
        with suppress(Forbidden):
            await wait()
    await client.close()


async def finds_no_room(client: VeraniClient) -> None:
    client.url = client.url + "/nowhere"
    for _ in range(2):
        with suppress(VeraniError):
            await client.connect()
    await client.close()


async def finds_nobody(client: VeraniClient) -> None:
    client.url = "ws://127.0.0.1:1/ws"
    with suppress(VeraniError):
        await client.connect()
    await client.close()


async def is_answered_with_errors(client: VeraniClient) -> None:
    async with client:
        for event in ("fail", "unknown"):
            with suppress(VeraniError):
                await client.request(event)
        with suppress(VeraniError):
            await client.request("wait", timeout=0.01)


async def is_interrupted(client: VeraniClient) -> None:
    await client.connect()
    with suppress(VeraniError):
        await client.request("leave")
    events = aiter(client)
    with suppress(VeraniError):
        async for _ in events:
            pass
    await client.close()


async def closes_while_somebody_waits(client: VeraniClient) -> None:
    await client.connect()
    asked = asyncio.create_task(client.request("wait"))
    await asyncio.sleep(0)
    await client.close()
    with suppress(VeraniError):
        await asked
    del asked  # which has the exception, and that this function's frame


async def has_callbacks_that_know_it(client: VeraniClient) -> None:
    done = asyncio.Event()

    @client.on("connected")
    async def ask() -> None:
        await client.request("echo")
        done.set()

    async with client:
        await done.wait()


async def closes_in_a_callback(client: VeraniClient) -> None:
    closed = asyncio.Event()

    @client.on("welcome")
    async def close(data: Any) -> None:
        await client.close()
        closed.set()

    await client.connect()
    await closed.wait()


async def is_closed_in_a_hurry(client: VeraniClient) -> None:
    await client.connect()
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    with suppress(asyncio.CancelledError):
        await closing
    del closing  # which has the exception, and that this function's frame


LIVES: list[Callable[[VeraniClient], Awaitable[None]]] = [
    is_quiet,
    never_connects,
    is_refused,
    finds_no_room,
    finds_nobody,
    is_answered_with_errors,
    is_interrupted,
    closes_while_somebody_waits,
    has_callbacks_that_know_it,
    closes_in_a_callback,
    is_closed_in_a_hurry,
]


async def gone(reference: weakref.ref[Any]) -> None:
    """Wait until the object is free; what ends it may take some turns of the loop."""
    async with asyncio.timeout(10):
        while reference() is not None:  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("life", LIVES, ids=lambda life: str(life.__name__))
async def test_a_client_that_has_ended_is_free(
    no_collector: None, url: str, life: Callable[[VeraniClient], Awaitable[None]]
) -> None:
    async def live() -> weakref.ref[VeraniClient]:
        client = VeraniClient(url, reconnection=ONCE)
        await life(client)
        return weakref.ref(client)

    await gone(await live())


async def test_a_service_whose_calls_failed_is_free_when_it_is_closed(no_collector: None, unused_tcp_port: int) -> None:
    async def live() -> weakref.ref[Service]:
        async with connect(f"http://127.0.0.1:{unused_tcp_port}", timeout=0.01) as service:
            with suppress(VeraniError):
                await service.room("chat", "lobby").get_session_count()
        return weakref.ref(service)

    await gone(await live())
