"""Who hears what: channels, filters, users, and members on different gateways."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.shapes.guest import Guest
from verani import CallFailed, RoomStub

if TYPE_CHECKING:
    from tests.shapes.conftest import Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes


async def on_every_gateway(service: Service, visit: Visit) -> list[Guest]:
    """Connect until there is a member on each gateway; return one of each."""
    members: dict[int, Guest] = {}
    while len(members) < service.gateways:
        guest = await visit(userId=f"member{len(members)}")
        gateway = (await guest.ask("who"))["gateway"]
        if gateway in members:
            await guest.close()
        else:
            members[gateway] = guest
    return list(members.values())


async def texts(guest: Guest) -> list[Any]:
    """Return the texts of what was said to a guest."""
    return [event["text"] for event in await guest.heard() if event["type"] == "said"]


async def test_a_broadcast_reaches_the_members_of_the_channel_and_counts_them(visit: Visit) -> None:
    ann = await visit(userId="ann", channels="a")
    bob = await visit(userId="bob", channels="a,b")
    cid = await visit(userId="cid", channels="b")
    assert await ann.ask("say", {"channel": "a", "text": 1}) == 2
    assert await ann.ask("say", {"channel": "b", "text": 2}) == 2
    assert await ann.ask("say", {"channel": "nobody's", "text": 3}) == 0
    assert [await texts(guest) for guest in (ann, bob, cid)] == [[1], [1, 2], [2]]


@pytest.mark.parametrize(
    ("filters", "hear"),
    [
        ({"users": ["ann"]}, {"ann1", "ann2"}),
        ({"users": ["ann", "bob"]}, {"ann1", "ann2", "bob1"}),
        ({"users": []}, set()),
        ({"clients": ["ann1", "bob1"]}, {"ann1", "bob1"}),
        ({"users": ["ann"], "clients": ["ann1", "bob1"]}, {"ann1"}),
        ({"but_me": True}, {"ann2", "bob1"}),
        ({"users": ["ann"], "but_me": True}, {"ann2"}),
        ({"users": ["bob"], "clients": ["ann1"]}, set()),
        ({"channel": "other", "users": ["ann", "bob"]}, {"bob1"}),
    ],
)
async def test_all_filters_of_a_broadcast_must_hold(visit: Visit, filters: dict[str, Any], hear: set[str]) -> None:
    guests = {
        "ann1": await visit(userId="ann", clientId="ann1"),
        "ann2": await visit(userId="ann", clientId="ann2"),
        "bob1": await visit(userId="bob", clientId="bob1", channels="default,other"),
    }
    assert await guests["ann1"].ask("say", {"text": "hi", **filters}) == len(hear)
    assert {name for name, guest in guests.items() if await texts(guest) == ["hi"]} == hear


async def test_to_channel_leaves_the_sender_out(visit: Visit) -> None:
    ann, bob = await visit(userId="ann"), await visit(userId="bob")
    assert await ann.ask("shout", "default") == 1
    assert await ann.heard() == []
    assert await bob.heard() == [{"type": "shouted", "by": "ann"}]


async def test_send_to_user_reaches_the_users_connections_that_are_in_the_channel(visit: Visit) -> None:
    phone = await visit(userId="ann", channels="news")
    laptop = await visit(userId="ann")
    other = await visit(userId="bob", channels="news")
    assert await other.ask("write", {"to": "ann", "channel": "news", "text": "hi"}) == 1
    assert await other.ask("write", {"to": "nobody", "channel": "news", "text": "hi"}) == 0
    assert await phone.heard() == [{"type": "letter", "text": "hi"}]
    assert await laptop.heard() == await other.heard() == []


async def test_emit_to_user_reaches_all_connections_of_the_user(visit: Visit) -> None:
    phone, laptop = await visit(userId="ann", channels="news"), await visit(userId="ann")
    other = await visit(userId="bob")
    assert await other.ask("tell", {"to": "ann", "text": "hi"}) == 2
    assert await phone.heard() == await laptop.heard() == [{"type": "told", "text": "hi"}]
    assert await other.heard() == []


async def test_who_joins_hears_and_who_leaves_does_not(visit: Visit) -> None:
    ann, bob = await visit(userId="ann"), await visit(userId="bob")
    assert await ann.ask("join", "late") == ["default", "late"]
    assert await ann.ask("join", "late") == ["default", "late"]
    assert await bob.ask("say", {"channel": "late", "text": 1}) == 1
    assert await ann.ask("leave", "late") == ["default"]
    assert await bob.ask("say", {"channel": "late", "text": 2}) == 0
    assert await texts(ann) == [1]


async def test_a_hook_may_move_the_sessions_of_others(visit: Visit) -> None:
    ann, bob = await visit(userId="ann"), await visit(userId="bob")
    assert await bob.ask("move", {"user": "ann", "channel": "stage"}) == 1
    who = await ann.ask("who")
    assert (who["channels"], who["nick"]) == (["default", "stage"], "moved to stage")


async def test_a_handler_that_raises_changes_no_meta_but_what_it_sent_stays_sent(visit: Visit) -> None:
    guest = await visit(userId="ann", nick="before")
    with pytest.raises(CallFailed):
        await guest.ask("botch", "after")
    who = await guest.ask("who")
    assert (who["nick"], who["channels"]) == ("before", ["default"])
    assert await guest.heard() == [{"type": "botched"}]


async def test_on_error_is_told_what_a_handler_raised(visit: Visit) -> None:
    watcher, guest = await visit(channels="default,errors"), await visit()
    with pytest.raises(CallFailed):
        await guest.ask("botch", "x")
    assert await watcher.next() == {"type": "error", "kind": "RuntimeError"}


async def test_users_are_listed_once_each_in_the_order_they_came_also_after_a_sleep(
    service: Service, visit: Visit, room: str
) -> None:
    users = ["cid", "ann", "fay", "bob", "eve", "dan"]
    for user in (*users, "ann"):
        guest = await visit(userId=user)
    assert await guest.ask("users") == users
    await service.asleep(f"chat/{room}")
    assert await guest.ask("users") == users


async def test_members_hear_who_comes_and_who_leaves_and_how(visit: Visit) -> None:
    watcher = await visit(userId="ann", channels="default,presence")
    await watcher.heard()
    bob = await visit(userId="bob", nick="b")
    assert await watcher.next() == {"type": "came", "user": "bob", "users": ["ann", "bob"]}
    await bob.ask("join", "late")
    await bob.close(4000, "bye")
    told = await watcher.next()
    assert told == {
        "type": "left",
        "user": "bob",
        "channels": ["default", "late"],
        "nick": "b",
        "code": 4000,
        "reason": "bye",
        "users": ["ann"],
    }


async def test_a_lost_connection_leaves_with_1006(visit: Visit) -> None:
    watcher, bob = await visit(channels="presence"), await visit(userId="bob")
    bob.lose()
    while (told := await watcher.next())["type"] != "left":
        pass
    assert (told["user"], told["code"]) == ("bob", 1006)


async def test_a_kicked_user_leaves_the_audience_at_once_and_is_told_why(visit: Visit) -> None:
    ann = await visit(userId="ann", channels="default,presence")
    bobs = [await visit(userId="bob") for _ in range(2)]
    await ann.heard()
    assert await ann.ask("kick", "bob") == [2, 1]
    assert await ann.ask("say", {"text": "who is left?"}) == 1
    for bob in bobs:
        assert await bob.closed() == (4321, "kicked")
        await bob.close()
    left: list[tuple[str, int]] = []
    while len(left) < 2:
        if (event := await ann.next())["type"] == "left":
            left.append((event["user"], event["code"]))
    assert left == [("bob", 4321)] * 2


@pytest.mark.parametrize("code", [1000, 1008, 1013, 4000])
async def test_a_hook_closes_its_own_connection_with_the_code_it_likes(visit: Visit, code: int) -> None:
    guest = await visit()
    assert await guest.ask("echo") == {}
    await guest.send("quit", code)
    assert await guest.closed() == (code, "as asked")


async def test_members_on_different_gateways_hear_everything_in_one_order(service: Service, visit: Visit) -> None:
    members = await on_every_gateway(service, visit)
    speakers = [*members, await visit(userId="guest")]
    each = 50

    async def speak(guest: Guest, name: int) -> None:
        await guest.text(*({"type": "say", "data": {"text": [name, n]}} for n in range(each)))

    await asyncio.gather(*(speak(guest, name) for name, guest in enumerate(speakers)))
    heard = [[(await guest.next())["text"] for _ in range(each * len(speakers))] for guest in speakers]
    assert all(list_ == heard[0] for list_ in heard), "one order for all"
    for name in range(len(speakers)):
        assert [n for speaker, n in heard[0] if speaker == name] == list(range(each))


async def test_a_call_reaches_members_on_every_gateway(service: Service, visit: Visit, stub: RoomStub) -> None:
    members = await on_every_gateway(service, visit)
    assert await stub.get_session_count() == service.gateways
    assert await stub.emit_to_channel("default", "news", {"n": 1}) == service.gateways
    for member in members:
        assert await member.next() == {"type": "news", "n": 1}
