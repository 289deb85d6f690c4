"""Every example does what its docstring says, served by the command line and used over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from verani.client import EventStream, HandshakeRefused, VeraniClient
from verani.errors import Conflict, Forbidden, InvalidArguments, RateLimited

if TYPE_CHECKING:
    from tests.integration.conftest import Serve, Server

PATIENCE = 10


class User:
    """A connected client and the events it has got since."""

    def __init__(self, client: VeraniClient, events: EventStream) -> None:
        self.request = client.request
        self._events = events

    async def next(self, event: str, **fields: Any) -> dict[str, Any]:
        """Read on until this event comes with these fields; return its data."""
        async with asyncio.timeout(PATIENCE):
            async for got in self._events:
                if got.type == event and fields.items() <= got.data.items():
                    return dict(got.data)
        raise AssertionError(f"the connection ended before {event}")

    async def until(self, event: str, marker: str) -> list[str]:
        """Read on until the event whose text is the marker; return the texts of those before it."""
        texts: list[str] = []
        while (text := (await self.next(event))["text"]) != marker:
            texts.append(text)
        return texts


Enter = Callable[..., Any]


@pytest.fixture
async def enter() -> AsyncIterator[Enter]:
    """Return ``await enter(server, path)``, which connects a `User` to it."""
    async with AsyncExitStack() as stack:

        async def connect(server: Server, path: str) -> User:
            client = VeraniClient(server.ws + path)
            events = aiter(client)
            await stack.enter_async_context(client)
            return User(client, events)

        yield connect


@asynccontextmanager
async def stopping(server: Server) -> AsyncIterator[Server]:
    """Stop it at the end as a process manager does, and expect a clean end."""
    yield server
    assert await server.stop() == 0
    faults = [line for line in server.lines if " ERROR " in line and "Forbidden" not in line and "Conflict" not in line]
    assert faults == []


async def test_chat_tells_who_is_here_and_keeps_channels_apart(serve: Serve, enter: Enter) -> None:
    async with stopping(await serve("examples.chat:app")) as server:
        ann = await enter(server, "/ws?room=lobby&userId=ann")
        await ann.next("presence", users=["ann"])
        bob = await enter(server, "/ws?room=lobby&userId=bob")
        await ann.next("presence", users=["ann", "bob"])
        await bob.next("presence", users=["ann", "bob"])

        assert await ann.request("chat.join", "general") is None
        await ann.request("chat.join", "random")
        await bob.request("chat.join", "random")
        await ann.request("chat.message", {"channel": "general", "text": "not for bob"})
        await ann.request("chat.message", {"channel": "random", "text": "for both"})
        assert await bob.next("chat.message") == {"type": "chat.message", "from": "ann", "text": "for both"}
        assert await ann.until("chat.message", "for both") == ["not for bob"]

        await bob.request("chat.leave", "random")
        with pytest.raises(Forbidden):
            await bob.request("chat.message", {"channel": "random", "text": "I left"})


async def test_chat_sleeps_and_nobody_notices(serve: Serve, enter: Enter) -> None:
    async with stopping(await serve("examples.chat:app", "--hibernate-after", "0.2")) as server:
        ann = await enter(server, "/ws?room=lobby&userId=ann")
        bob = await enter(server, "/ws?room=lobby&userId=bob&channels=default,random")
        await ann.request("chat.join", "random")
        await asleep(server, "chat/lobby")
        await bob.request("chat.message", {"channel": "random", "text": "anybody?"})
        await ann.next("chat.message", text="anybody?")
        await asleep(server, "chat/lobby")
        await enter(server, "/ws?room=lobby&userId=eve")
        await ann.next("presence", users=["ann", "bob", "eve"])


@pytest.mark.parametrize(("text", "path"), [("", "$.text"), ("x" * 501, "$.text")])
async def test_chat_refuses_texts_that_do_not_fit(serve: Serve, enter: Enter, text: str, path: str) -> None:
    async with stopping(await serve("examples.chat:app")) as server:
        ann = await enter(server, "/ws?userId=ann&channels=general")
        with pytest.raises(InvalidArguments) as refusal:
            await ann.request("chat.message", {"channel": "general", "text": text})
        assert refusal.value.path == path


async def test_chat_serves_its_page_with_a_strict_policy(serve: Serve) -> None:
    async with stopping(await serve("examples.chat:app")) as server, aiohttp.ClientSession(server.url) as session:
        for path, kind in {"/": "html", "/chat.js": "javascript", "/chat.css": "css", "/chat.svg": "svg"}.items():
            async with session.get(path) as response:
                assert response.status == 200
                assert kind in response.content_type
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                if kind == "html":
                    page = await response.text()
                    assert "<script>" not in page
                    assert "style=" not in page


async def test_presence_combines_connections_and_survives_sleep(serve: Serve, enter: Enter) -> None:
    async with stopping(await serve("examples.presence:presence", "--hibernate-after", "0.2")) as server:
        bob = await enter(server, "/ws?room=office&userId=bob")
        assert await bob.next("presence.list") == {"type": "presence.list", "users": {"bob": "active"}}
        ann = await enter(server, "/ws?room=office&userId=ann")
        await bob.next("presence.update", user="ann", status="active")
        await ann.request("status.set", "away")
        await bob.next("presence.update", user="ann", status="away")
        with pytest.raises(InvalidArguments):
            await ann.request("status.set", "asleep")

        await asleep(server, "presence/office")
        eve = await enter(server, "/ws?room=office&userId=eve")
        assert (await eve.next("presence.list"))["users"] == {"bob": "active", "ann": "away", "eve": "active"}

        async with VeraniClient(f"{server.ws}/ws?room=office&userId=ann"):
            await bob.next("presence.update", user="ann", status="active")
        await bob.next("presence.update", user="ann", status="away")
        async with VeraniClient(f"{server.ws}/ws?room=office&userId=kim"):
            await bob.next("presence.update", user="kim", status="active")
        await bob.next("presence.update", user="kim", status="offline")


async def asleep(server: Server, room: str) -> None:
    """Wait until the service says that a room sleeps; every event of the room would wake it."""
    internal = next(line.rpartition(" ")[2] for line in server.lines if "internal listener" in line)
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(internal) as session:
        while True:
            async with session.get("/admin/rooms") as response:
                rooms = {entry["name"]: entry["state"] for entry in await response.json()}
            if rooms[room] == "asleep":
                return
            await asyncio.sleep(0.05)


async def test_notifications_reach_all_devices_of_one_user_only(serve: Serve, enter: Enter) -> None:
    async with stopping(await serve("examples.notifications:notifications")) as server:
        phone = await enter(server, "/ws?token=ann-demo")
        laptop = await enter(server, "/ws?token=ann-demo&channels=default,urgent")
        bob = await enter(server, "/ws?token=bob-demo")
        to_ann = await enter(server, "/ws?token=ops-demo&room=ann")
        to_bob = await enter(server, "/ws?token=ops-demo&room=bob")

        assert await to_ann.request("notify", {"text": "lunch"}) == {"devices": 2}
        notification = await phone.next("notification", text="lunch")
        await laptop.next("notification", text="lunch")
        assert await to_ann.request("notify", {"text": "fire", "channel": "urgent"}) == {"devices": 1}
        await laptop.next("notification", text="fire")

        await phone.request("read", notification["id"])
        await laptop.next("notification.read", id=notification["id"])
        await to_bob.request("notify", {"text": "for bob"})
        assert await bob.until("notification", "for bob") == []
        with pytest.raises(Forbidden):
            await phone.request("notify", {"text": "I am no operator"})


@pytest.mark.parametrize(("query", "status"), [("", 401), ("token=wrong", 401), ("token=bob-demo&room=ann", 403)])
async def test_notifications_refuse_strangers_before_the_socket_opens(serve: Serve, query: str, status: int) -> None:
    async with stopping(await serve("examples.notifications:notifications")) as server:
        with pytest.raises(HandshakeRefused) as refusal:
            async with VeraniClient(f"{server.ws}/ws?{query}"):
                pass
        assert refusal.value.status == status


async def test_game_shows_scores_to_players_and_the_result_to_everybody(serve: Serve) -> None:
    async with (
        stopping(await serve("examples.game:game", "--hibernate-after", "0.2")) as server,
        aiohttp.ClientSession(server.ws) as session,
        session.ws_connect("/ws/table-1?userId=ann") as ann,
        session.ws_connect("/ws/table-1?userId=eve") as eve,
    ):
        await ann.send_json({"type": "game.join", "id": 1})
        await ann.send_json({"type": "game.start", "data": 1, "id": 2})
        assert await receive(ann) == {"type": "ack", "id": 1, "data": None}
        assert await receive(ann) == {"type": "ack", "id": 2, "data": None}
        assert (await receive(ann))["data"] == {"type": "game.tick", "left": 1, "scores": {}}
        await ann.send_json({"type": "game.click", "id": 3})
        assert await receive(ann) == {"type": "ack", "id": 3, "data": 1}
        await ann.send_json({"type": "game.start", "data": 1, "id": 4})
        assert await receive(ann) == {"type": "ack", "id": 4, "error": {"code": Conflict.code}}

        await eve.send_json({"type": "game.click", "id": 1})
        assert await receive(eve) == {"type": "ack", "id": 1, "error": {"code": Forbidden.code}}
        await eve.send_json({"type": "chat.message", "data": "go ann"})
        said = {"type": "chat.message", "from": "eve", "text": "go ann"}
        assert await receive(eve) == {"type": "event", "channel": "chat", "data": said}
        # No tick came to the spectator, and the round was not cut by the room's sleep.
        over = {"type": "event", "channel": "chat", "data": {"type": "game.over", "scores": {"ann": 1}}}
        assert await receive(eve) == over
        assert (await receive(ann))["data"] == said
        assert await receive(ann) == over


async def receive(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    return dict(await ws.receive_json(timeout=PATIENCE))


async def test_boards_and_the_gallery_are_two_rooms_with_rates_of_their_own(serve: Serve, enter: Enter) -> None:
    async with stopping(await serve("examples.board:board", "examples.board:gallery")) as server:
        watching = await enter(server, "/gallery")
        ann, bob = await enter(server, "/board/plans?userId=ann"), await enter(server, "/board/plans?userId=bob")
        await ann.request("stroke", [[0, 0], [10, 12.5]])
        assert await bob.next("stroke") == {"type": "stroke", "user": "ann", "points": [[0, 0], [10, 12.5]]}
        assert (await watching.next("busy"))["board"] == "plans"
        moves = [ann.request("cursor", [1, 2]) for _ in range(100)]
        answers = await asyncio.gather(*moves, return_exceptions=True)
        assert {type(answer) for answer in answers} == {type(None), RateLimited}
        assert await bob.next("cursor") == {"type": "cursor", "user": "ann", "at": [1, 2]}


async def test_notify_reaches_a_user_from_an_http_handler_awake_or_asleep(serve: Serve, enter: Enter) -> None:
    server = await serve("examples.notify:app", "--hibernate-after", "0.2")
    ann = await enter(server, "/ws?userId=ann")
    headers = {"Authorization": "Bearer notify-demo"}

    async with aiohttp.ClientSession(headers=headers) as session:

        async def post(body: str, **given: str) -> tuple[int, str]:
            async with session.post(f"{server.url}/api/notify", data=body, headers=given) as response:
                return response.status, await response.text()

        assert await post('{"userId": "ann", "message": "lunch"}') == (200, '{"sentTo": 1}')
        assert await ann.next("notification") == {"type": "notification", "message": "lunch"}
        await server.asleep("notify/default")
        assert await post('{"userId": "ann", "message": "dinner"}') == (200, '{"sentTo": 1}')
        assert (await ann.next("notification"))["message"] == "dinner"
        assert await post('{"userId": "bob", "message": "lunch"}') == (200, '{"sentTo": 0}')
        assert (await post('{"userId": "ann"}'))[0] == 400
        assert (await post('{"userId": "ann", "message": "x"}', Authorization="Bearer wrong"))[0] == 401
