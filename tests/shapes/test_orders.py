"""What operators have done to rooms, and what they are told of them without waking any."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.raw import PATIENCE
from tests.shapes.app import ON_PURPOSE
from verani.errors import VeraniError

if TYPE_CHECKING:
    from tests.shapes.conftest import Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes


async def order(service: Service, what: str, **fields: Any) -> tuple[int, Any]:
    return await service.ask(f"/admin/{what}", method="POST", json=fields)


async def sessions(service: Service, room: str) -> dict[str, Any]:
    status, told = await service.ask(f"/admin/sessions/{room}")
    assert status == 200
    assert not told["more"]
    return {each["user_id"]: each for each in told["sessions"]}


async def test_an_event_is_sent_to_a_channel_or_to_a_user_of_a_room(service: Service, visit: Visit, room: str) -> None:
    ann, ben = await visit(userId="ann", channels="default,news"), await visit(userId="ben")
    for guest in (ann, ben):
        await guest.heard()
    data = {"text": "hello", "n": [1, None]}
    assert await order(service, "send", room=f"chat/{room}", event="note", data=data) == (200, {"connections": 2})
    for guest in (ann, ben):
        assert await guest.next() == {"type": "note", **data}
    sent = await order(service, "send", room=f"chat/{room}", event="note", channel="news")
    assert sent == (200, {"connections": 1})
    assert await ann.next() == {"type": "note"}
    sent = await order(service, "send", room=f"chat/{room}", event="note", user="ben", data=7)
    assert sent == (200, {"connections": 1})
    assert await ben.next() == {"type": "note", "value": 7}
    assert (await order(service, "send", room=f"chat/{room}-empty", event="note"))[1] == {"connections": 0}


async def test_a_room_hibernates_and_wakes_when_an_operator_says_so(service: Service, visit: Visit, room: str) -> None:
    name = f"tireless/{room}"  # by itself it would never sleep
    guest = await visit(f"/{name}")
    assert (await service.status(name))["state"] == "awake"
    assert await order(service, "hibernate", room=name) == (202, {"room": name})
    await service.asleep(name)
    assert (await order(service, "hibernate", room=name))[0] == 404
    assert await order(service, "wake", room=name) == (202, {"room": name})
    status = await service.until(name, state="awake")
    assert (status["woken_by"], status["connections"]) == ("call", 1)
    await guest.ask("echo")


async def test_a_room_without_anybody_can_be_woken(service: Service, room: str) -> None:
    name = f"tireless/{room}"
    assert (await order(service, "wake", room=name))[0] == 202
    assert (await service.until(name, state="awake"))["connections"] == 0
    assert (await order(service, "hibernate", room=name))[0] == 202
    await service.forgotten(name)


async def test_a_connection_is_closed_and_its_room_hears_why(service: Service, visit: Visit, room: str) -> None:
    ann, ben = await visit(userId="ann"), await visit(userId="ben", channels="presence")
    connection = (await sessions(service, f"chat/{room}"))["ann"]["connection"]
    closed = {"connection": connection, "code": 4000, "reason": "by an operator"}
    assert await order(service, "close", **closed) == (202, closed)
    assert await ann.closed() == (4000, "by an operator")
    while (heard := await ben.next())["type"] != "left":
        pass
    assert (heard["user"], heard["code"], heard["reason"]) == ("ann", 4000, "by an operator")
    async with asyncio.timeout(PATIENCE):
        while "ann" in await sessions(service, f"chat/{room}"):
            pass
    assert (await order(service, "close", **closed))[0] == 404


async def test_who_is_in_a_room_is_told_while_it_sleeps(service: Service, visit: Visit, room: str) -> None:
    for n in range(4):
        await visit(userId=f"user {n}", clientId=f"client {n}", channels="default,news", nick="<b>Nick</b>")
    await service.asleep(f"chat/{room}")
    cycles = (await service.status(f"chat/{room}"))["cycles"]
    found = await sessions(service, f"chat/{room}")
    assert sorted(found) == [f"user {n}" for n in range(4)]
    gateways = {each["id"] for each in (await service.ask("/admin/cluster"))[1]["gateways"]}
    for n in range(4):
        seen = found[f"user {n}"]
        assert (seen["client_id"], seen["channels"]) == (f"client {n}", ["default", "news"])
        assert (seen["meta"]["nick"], seen["meta"]["said"]) == ("<b>Nick</b>", 0)
        assert seen["connected_seconds"] >= 0
        assert seen["expires_seconds"] is None
        assert seen["gateway"] in gateways
    status = await service.status(f"chat/{room}")
    assert (status["state"], status["cycles"]) == ("asleep", cycles)


async def test_nobody_is_in_a_room_that_never_was(service: Service, room: str) -> None:
    assert await sessions(service, f"chat/{room}") == {}
    assert await sessions(service, f"nothing/{room}") == {}


async def test_what_hooks_raise_is_listed_and_refusals_are_not(service: Service, visit: Visit, room: str) -> None:
    before, guest = time.time(), await visit()
    for _ in range(3):
        with pytest.raises(VeraniError):
            await guest.ask("botch", "anything")
    with pytest.raises(VeraniError):
        await guest.ask("refuse", "forbidden")
    status, errors = await service.ask("/admin/errors")
    assert status == 200
    (found,) = (each for each in errors if each["room"] == f"chat/{room}")
    assert (found["hook"], found["type"], found["text"], found["count"]) == (
        "on('botch')",
        "RuntimeError",
        ON_PURPOSE,
        3,
    )
    assert "in botch\n    raise RuntimeError(ON_PURPOSE)" in found["traceback"]
    assert before <= found["first"] <= found["last"] <= time.time()
    hosts = {member["id"] for member in (await service.ask("/admin/cluster"))[1]["members"]}
    assert found["host"] in (hosts or {None})


async def test_a_room_counts_what_it_is_given_and_what_it_delivers(service: Service, visit: Visit, room: str) -> None:
    guests = [await visit(userId=f"user {n}") for n in range(3)]
    before = await service.status(f"chat/{room}")
    for _ in range(5):
        await order(service, "send", room=f"chat/{room}", event="note")
    for guest in guests:
        await guest.heard()
    after = await service.status(f"chat/{room}")
    assert after["inputs"] - before["inputs"] == 8, "five calls and an echo of each"
    assert after["deliveries"] - before["deliveries"] == 18, "three times five events, and three acks"


async def test_rooms_are_listed_by_the_beginning_of_their_names(service: Service, visit: Visit, room: str) -> None:
    for n in (1, 2, 3):
        await visit(f"/tireless/{room}-{n}")
    status, rooms = await service.ask(f"/admin/rooms?prefix=tireless/{room}")
    assert (status, sorted(each["name"] for each in rooms)) == (200, [f"tireless/{room}-{n}" for n in (1, 2, 3)])
    assert [each["name"] for each in (await service.ask(f"/admin/rooms?prefix=tireless/{room}-2"))[1]] == [
        f"tireless/{room}-2"
    ]
    assert (await service.ask(f"/admin/rooms?prefix={room}"))[1] == []


@pytest.mark.parametrize(
    ("what", "fields", "status"),
    [
        ("send", {"room": "chat/a"}, 400),
        ("send", {"room": "chat/a", "event": "verani.own"}, 400),
        ("send", {"room": "chat/a", "event": "note", "data": {"type": "other"}}, 400),
        ("send", {"room": "chat/a", "event": "note", "user": ""}, 400),
        ("send", {"room": "nothing/a", "event": "note"}, 404),
        ("send", {"room": "chat/a/b", "event": "note"}, 404),
        ("hibernate", {"room": "chat"}, 404),
        ("hibernate", {"room": 7}, 400),
        ("wake", {"room": "nothing/a"}, 404),
        ("wake", {}, 400),
        ("close", {"connection": "nobody"}, 404),
        ("close", {"connection": "nobody", "code": 1001}, 400),
        ("close", {"connection": "nobody", "reason": "x" * 124}, 400),
        ("close", {"connection": "nobody", "reason": 1}, 400),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_with_what_was_expected(
    service: Service, what: str, fields: dict[str, Any], status: int
) -> None:
    answer = await order(service, what, **fields)
    assert answer[0] == status
    assert answer[1]["error"]["message"]


@pytest.mark.parametrize("what", ["send", "hibernate", "wake", "close"])
async def test_nobody_gives_orders_without_the_token_of_operators(service: Service, what: str) -> None:
    fields = {"room": "chat/a", "event": "note", "connection": "c"}
    for token in (None, "another"):
        assert (await service.ask(f"/admin/{what}", method="POST", json=fields, token=token))[0] == 401
    assert (await service.ask(f"/admin/{what}", method="POST", data="{}"))[0] == 400
    for path in ("/admin/errors", "/admin/sessions/chat/a"):
        assert (await service.ask(path, token=None))[0] == 401
