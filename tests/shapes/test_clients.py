"""The Python client keeps its room through everything that ends a connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.raw import PATIENCE, until
from verani import DeadlineExceeded, Forbidden, Interrupted, InvalidArguments, RoomStub
from verani.client import ClientState, ConnectFailed, HandshakeRefused, NotSent

if TYPE_CHECKING:
    from tests.shapes.conftest import Gates, MakeClient, Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes


async def test_two_clients_talk(make_client: MakeClient) -> None:
    ann, bob = make_client(userId="ann"), make_client(userId="bob")
    heard: asyncio.Queue[Any] = asyncio.Queue()
    bob.on("said", heard.put_nowait)
    async with ann, bob:
        assert await bob.request("echo", 1) == 1
        for n in range(3):
            assert await ann.request("say", {"text": n, "but_me": True}) == 1
        async with asyncio.timeout(PATIENCE):
            assert [(await heard.get())["text"] for _ in range(3)] == [0, 1, 2]


async def test_what_is_emitted_before_the_connection_opens_arrives_in_order(make_client: MakeClient) -> None:
    client = make_client()
    events = aiter(client)
    for n in range(20):
        client.emit("reply", {"n": n})
    async with client, asyncio.timeout(PATIENCE):
        assert [(await anext(events)).data["n"] for _ in range(20)] == list(range(20))


@pytest.mark.parametrize("code", [1008, 1013, 4000])
async def test_a_client_comes_back_after_a_close_and_sends_what_waited(make_client: MakeClient, code: int) -> None:
    client = make_client(userId="ann")
    closes: list[int] = []
    client.on("close", lambda code, reason: closes.append(code))
    async with client:
        for n in range(2):
            client.emit("quit", code)
            await until(lambda n=n: len(closes) == n + 1)  # type: ignore[misc]  # mypy has no types for defaults
            assert await client.request("echo", n) == n
    assert closes[:2] == [code] * 2


async def test_a_client_stays_away_after_1000(make_client: MakeClient) -> None:
    client = make_client()
    async with client:
        events = aiter(client)
        client.emit("quit", 1000)
        async with asyncio.timeout(PATIENCE):
            assert [event async for event in events] == []
        await until(lambda: client.state is ClientState.DISCONNECTED)
        with pytest.raises(NotSent):
            await client.request("echo")
        with pytest.raises(ConnectFailed):
            await client.wait_for_connection()


async def test_a_client_that_is_replaced_comes_back_and_replaces_in_turn(make_client: MakeClient, visit: Visit) -> None:
    client = make_client(userId="ann", clientId="phone")
    closes: list[int] = []
    client.on("close", lambda code, reason: closes.append(code))
    async with client:
        assert await client.request("echo", 1) == 1
        usurper = await visit(userId="ann", clientId="phone")
        assert (await usurper.closed())[0] == 4009
        assert await client.request("users") == ["ann"]
    assert closes[0] == 4009


@pytest.mark.parametrize(("token", "status", "code"), [("none", 401, "unauthorized"), ("other", 403, "forbidden")])
async def test_a_client_that_is_refused_for_good_says_why(
    make_client: MakeClient, room: str, token: str, status: int, code: str
) -> None:
    client = make_client(f"/guarded/{room}", token=token)
    with pytest.raises(HandshakeRefused) as refused:
        await client.connect()
    assert (refused.value.status, refused.value.server_code) == (status, code)
    assert client.state is ClientState.ERROR


async def test_a_request_raises_what_the_room_answered(make_client: MakeClient) -> None:
    async with make_client() as client:
        with pytest.raises(InvalidArguments) as refused:
            await client.request("say", {"channel": 5})
        assert refused.value.path == "$.channel"
        with pytest.raises(Forbidden):
            await client.request("refuse", "forbidden")
        assert await client.request("echo", 1) == 1


async def test_a_request_ends_at_its_deadline(make_client: MakeClient, gates: Gates) -> None:
    gate = gates()
    async with make_client() as client:
        with pytest.raises(DeadlineExceeded):
            await client.request("wait", {"gate": gate.name}, timeout=0.05)
        await gate.open()
        assert await client.request("echo", 1) == 1


async def test_a_request_whose_connection_is_closed_was_interrupted(
    make_client: MakeClient, gates: Gates, stub: RoomStub
) -> None:
    gate = gates()
    async with make_client(userId="ann") as client:
        await client.request("echo")
        request = asyncio.create_task(client.request("quit_then_wait", gate.name))
        await gate.reached("quit")
        with pytest.raises(Interrupted):
            await request
        await gate.open()
        assert await client.request("users") == ["ann"]


async def test_a_client_sleeps_through_nothing(service: Service, make_client: MakeClient, room: str) -> None:
    """Its room falls asleep and wakes, and its connection stays."""
    client = make_client(userId="ann")
    signals: list[str] = []
    for signal in ("open", "close", "reconnecting"):
        client.on(signal, lambda *_, signal=signal: signals.append(signal))
    async with client:
        for n in range(3):
            assert await client.request("echo", n) == n
            await service.asleep(f"chat/{room}")
        assert signals == ["open"]
