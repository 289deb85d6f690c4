"""Who gets in, where, and with which meta."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
import pytest

from tests.raw import KEY
from verani import Forbidden, RoomStub
from verani import Service as Caller

if TYPE_CHECKING:
    from tests.shapes.conftest import Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes

UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}


async def refused(service: Service, path: str, headers: dict[str, str] = UPGRADE) -> tuple[int, str]:
    """Try to connect; return the status and the error code of the refusal."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.url}{path}", headers=headers) as response:
        return response.status, (await response.json())["error"]["code"]


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        ("none", 401, "unauthorized"),
        ("other", 403, "forbidden"),
        ("odd", 400, "invalid"),
        ("bug", 500, "failed"),
    ],
)
async def test_extract_meta_refuses_before_the_socket_opens(
    service: Service, room: str, caller: Caller, token: str, status: int, code: str
) -> None:
    assert await refused(service, f"/guarded/{room}?token={token}") == (status, code)
    assert await caller.room("guarded", room).get_session_count() == 0


async def test_a_room_id_that_no_room_has_is_not_found(service: Service) -> None:
    assert await refused(service, "/chat/a%E2%80%8Bb") == (404, "not_found")
    assert await refused(service, f"/chat/{'x' * 129}") == (404, "not_found")


async def test_plain_http_on_the_path_of_a_room_is_told_to_upgrade(service: Service, room: str) -> None:
    assert await refused(service, f"/chat/{room}", {}) == (426, "upgrade_required")


async def test_channels_come_from_the_query_trimmed_and_without_empty_ones(visit: Visit) -> None:
    guest = await visit(channels=" a, b ,,a", userId="ann")
    assert (await guest.ask("who"))["channels"] == ["a", "b"]
    assert (await (await visit()).ask("who"))["channels"] == ["default"]


async def test_the_meta_that_extract_meta_made_is_that_of_the_hooks(visit: Visit) -> None:
    guest = await visit(userId="ann", clientId="phone", nick="Ännchen")
    who = await guest.ask("who")
    assert who.pop("gateway") > 0
    assert who == {"user": "ann", "client": "phone", "channels": ["default"], "nick": "Ännchen", "said": 0}


async def test_a_room_is_named_by_path_query_or_default(visit: Visit, room: str) -> None:
    for query, expected in (
        (f"?room={room}", room),
        (f"?roomId={room}-2", f"{room}-2"),
        (f"?room={room}&roomId=other", room),
        ("", "default"),
    ):
        assert await (await visit(f"/plain{query}")).ask("which") == expected


@pytest.mark.parametrize("name", ["Köln", "my room", "😀", "50%", "{a}+b?c#d&e=f", "日本語"])
async def test_a_room_of_any_visible_name_is_the_same_room_to_everybody(
    service: Service, visit: Visit, room: str, caller: Caller, name: str
) -> None:
    name = f"{name} {room}"
    # Who writes an accent as a letter of its own means the same room.
    other = unicodedata.normalize("NFD", name)
    escaped, other_escaped = quote(name, safe=""), quote(other, safe="")
    guest = await visit(f"/chat/{other_escaped}", userId="ann")
    await visit(f"/plain?room={escaped}")
    await visit(f"/plain?room={other_escaped}")
    assert await caller.room("chat", name).get_connected_user_ids() == ["ann"]
    assert await caller.room("plain", other).get_session_count() == 2
    for each in (escaped, other_escaped):
        assert await service.ask(f"/rpc/chat/{each}/get_session_count", method="POST") == (200, 1)
        await service.asleep(f"chat/{each}")
        assert (await service.status(f"chat/{each}"))["name"] == f"chat/{name}"
    assert (await guest.ask("who"))["user"] == "ann"


async def test_rooms_of_one_id_but_different_definitions_are_different(visit: Visit, room: str, caller: Caller) -> None:
    await visit(userId="ann")
    await visit(f"/tireless/{room}", userId="bob")
    assert await caller.room("chat", room).get_connected_user_ids() == ["ann"]
    assert await caller.room("tireless", room).get_connected_user_ids() == ["bob"]


async def test_a_channel_in_the_query_that_is_not_authorized_refuses_the_client(service: Service, room: str) -> None:
    assert await refused(service, f"/guarded/{room}?token=good&channels=open,secret") == (403, "forbidden")


async def test_a_channel_that_is_not_authorized_cannot_be_joined_later(visit: Visit, room: str) -> None:
    guest = await visit(f"/guarded/{room}", token="good")
    with pytest.raises(Forbidden):
        await guest.ask("join", "secret-2")
    assert await guest.ask("join", "open") == ["default", "open"]


async def test_on_connect_that_raises_closes_with_1011_and_nobody_leaves(visit: Visit, stub: RoomStub) -> None:
    watcher = await visit(channels="default,presence,errors", userId="ann")
    await watcher.heard()
    unwanted = await visit(greet=False, userId="unwanted")
    assert (await unwanted.closed())[0] == 1011
    assert await watcher.next() == {"type": "error", "kind": "RuntimeError"}
    assert await stub.get_connected_user_ids() == ["ann"]
    assert await watcher.heard() == []


async def test_whom_on_connect_refuses_is_closed_with_1000_and_the_code(visit: Visit, stub: RoomStub) -> None:
    watcher = await visit(channels="default,presence,errors", userId="ann")
    await watcher.heard()
    unwelcome = await visit(greet=False, userId="unwelcome")
    assert await unwelcome.closed() == (1000, "forbidden")
    assert await watcher.next() == {"type": "error", "kind": "Forbidden"}
    assert await stub.get_connected_user_ids() == ["ann"]


async def test_a_second_connection_of_a_client_replaces_the_first_whatever_gateway_it_came_through(
    visit: Visit, stub: RoomStub
) -> None:
    watcher = await visit(channels="default,presence", userId="watcher")
    for _ in range(4):
        first = await visit(userId="ann", clientId="phone")
        second = await visit(userId="ann", clientId="phone")
        code, _ = await first.closed()
        assert code == 4009
        assert await second.ask("echo", 1) == 1
        assert await stub.get_session_count() == 2
        await second.close()
        while (await watcher.next()).get("users") != ["watcher"]:
            pass


async def test_where_the_first_stays_a_second_connection_of_a_client_is_turned_away(
    visit: Visit, room: str, caller: Caller
) -> None:
    first = await visit(f"/single/{room}", clientId="phone")
    for _ in range(4):
        try:
            second = await visit(f"/single/{room}", greet=False, clientId="phone")
        except aiohttp.WSServerHandshakeError as error:
            how = error.status
        else:
            how, _ = await second.closed()
        # Another gateway than that of the first cannot know it, but the room does.
        assert how in (409, 4009)
    assert await first.ask("echo", 1) == 1
    assert await caller.room("single", room).get_session_count() == 1


async def test_clients_come_in_through_every_gateway(service: Service, visit: Visit) -> None:
    guests = [await visit() for _ in range(32)]
    gateways = {(await guest.ask("who"))["gateway"] for guest in guests}
    assert len(gateways) == service.gateways
