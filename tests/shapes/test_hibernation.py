"""Clients notice nothing of a room's sleep, wherever the room lives: F1 to F7 of the protocol, and what may be kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.shapes.guest import Guest
from verani import NotFound, RoomStub
from verani import Service as Caller

if TYPE_CHECKING:
    from tests.shapes.conftest import Gates, Visit
    from tests.shapes.service import Service

pytestmark = pytest.mark.shapes


@pytest.fixture
def name(room: str) -> str:
    """Return the whole name of the test's room of the chat."""
    return f"chat/{room}"


async def test_f1_the_first_message_wakes_the_room_and_is_handled(service: Service, visit: Visit, name: str) -> None:
    guest = await visit()
    for n in range(3):
        await service.asleep(name)
        assert await guest.ask("echo", n) == n
    assert (await service.status(name))["woken_by"] == "frame"


async def test_f2_pings_neither_keep_a_room_awake_nor_wake_it(service: Service, visit: Visit, name: str) -> None:
    guests = [await visit() for _ in range(2)]
    rounds = 0

    async def ping() -> None:
        nonlocal rounds
        while True:
            for guest in guests:
                await guest.ping()
            rounds += 1

    pinging = asyncio.create_task(ping())
    await service.asleep(name)
    cycles = (await service.status(name))["cycles"]
    goal = rounds + 50
    while rounds < goal and not pinging.done():
        status = await service.status(name)
        assert (status["state"], status["cycles"]) == ("asleep", cycles)
    assert not pinging.done(), "every ping had its pong"
    pinging.cancel()
    await asyncio.wait([pinging])


async def test_f3_a_close_while_the_room_sleeps_runs_on_disconnect_with_the_right_meta(
    service: Service, visit: Visit, name: str
) -> None:
    watcher = await visit(userId="ann", channels="default,presence")
    leaver = await visit(userId="bob")
    await leaver.ask("join", "late")
    await leaver.ask("nick", "b")
    await watcher.heard()
    await service.asleep(name)
    await leaver.close(4321, "bye")
    assert await watcher.next() == {
        "type": "left",
        "user": "bob",
        "channels": ["default", "late"],
        "nick": "b",
        "code": 4321,
        "reason": "bye",
        "users": ["ann"],
    }


async def test_f4_channels_joined_later_outlast_a_sleep(service: Service, visit: Visit, name: str) -> None:
    member, caller = await visit(), await visit(channels="other")
    await member.ask("join", "late")
    await member.ask("leave", "default")
    for n in range(2):
        await service.asleep(name)
        assert await caller.ask("say", {"channel": "late", "text": n}) == 1
        assert (await member.next())["text"] == n
    assert (await member.ask("who"))["channels"] == ["late"]
    assert await caller.heard() == []


async def test_f5_frames_sent_while_on_connect_waits_are_handled_after_it_in_order(
    service: Service, visit: Visit, gates: Gates, room: str
) -> None:
    await gates(f"{room}.ann").open()
    await visit(f"/hesitant/{room}", userId="ann")
    await service.asleep(f"hesitant/{room}")
    for user in ("bob", "cid"):
        gate = gates(f"{room}.{user}")
        guest = await visit(f"/hesitant/{room}", greet=False, userId=user)
        await guest.text(*({"type": "reply", "data": {"n": n}} for n in range(5)))
        await gate.reached("on_connect")
        await guest.ping()
        await guest.send("reply", {"n": 5})
        await gate.open()
        assert await guest.heard() == [{"type": "welcome"}, *({"type": "replied", "n": n} for n in range(6))]


async def test_f6_async_handlers_of_a_woken_room_do_not_overtake_each_other(
    service: Service, visit: Visit, gates: Gates, name: str
) -> None:
    guest, gate = await visit(), gates()
    await service.asleep(name)
    await guest.text(
        *({"type": "wait", "data": {"gate": gate.name, "n": n, "naps": 2 * (4 - n)}} for n in range(5)),
    )
    await gate.reached("0")
    assert await gate.waiting() == ["0"], "one at a time"
    await gate.open()
    assert [event["n"] for event in await guest.heard()] == list(range(5))
    assert await gate.waiting() == ["0", "1", "2", "3", "4"]


async def test_f7_a_connect_that_wakes_the_room_sees_every_other_session(
    service: Service, visit: Visit, name: str
) -> None:
    users: list[str] = []
    guests: list[Guest] = []
    for user in ("ann", "bob", "cid", "dan"):
        users.append(user)
        guests.append(await visit(userId=user, channels="default,presence"))
        # A user is told of its own coming first.
        assert await guests[-1].next() == {"type": "came", "user": user, "users": users}
        await service.asleep(name)
        assert (await service.status(name))["connections"] == len(users)
    assert await guests[0].ask("say", {"text": "hi"}) == len(users)


async def test_the_meta_outlasts_sleeps_and_the_state_does_not(service: Service, visit: Visit, name: str) -> None:
    guest = await visit(userId="ann", clientId="phone")
    incarnations = set()
    for n in range(3):
        await guest.ask("say", {"text": n})
        await guest.ask("nick", f"n{n}")
        await guest.ask("note", n)
        incarnations.add((await guest.ask("life"))["incarnation"])
        await service.asleep(name)
    assert await guest.ask("note", "fresh") == ["fresh"]
    who = await guest.ask("who")
    assert (who["said"], who["nick"], who["client"]) == (3, "n2", "phone")
    assert len(incarnations) == 3


async def test_what_a_room_sends_when_it_falls_asleep_arrives(service: Service, visit: Visit) -> None:
    guest = await visit(channels="life")
    incarnation = (await guest.ask("life"))["incarnation"]
    # On a slow machine it may have slept before.
    while await guest.next() != {"type": "sleeps", "incarnation": incarnation}:
        pass


async def test_what_a_room_saved_is_there_when_it_wakes_also_without_connections(
    service: Service, caller: Caller, room: str
) -> None:
    stub = caller.room("ledger", room)
    for total in (3, 6, 9):
        assert await stub.add_to(3) == total
        await service.forgotten(f"ledger/{room}")


async def test_a_room_whose_on_wake_raises_lets_nobody_in(
    service: Service, visit: Visit, caller: Caller, room: str
) -> None:
    for name, code, reason in ((f"closed {room}", 1000, "not_found"), (f"broken {room}", 1013, "")):
        guest = await visit(f"/ledger/{quote(name)}", greet=False)
        assert await guest.closed() == (code, reason)
    with pytest.raises(NotFound, match="This ledger is closed"):
        await caller.room("ledger", f"closed {room}").add_to(1)
    # Asked once: a caller asks again for as long as it may.
    status, told = await service.ask(f"/rpc/ledger/{quote(f'broken {room}')}/add_to", method="POST", json={"amount": 1})
    assert (status, told["error"]["code"]) == (503, "busy")


async def test_on_hibernation_restore_sees_everybody_before_the_event_that_woke_the_room(
    service: Service, visit: Visit, name: str
) -> None:
    await visit(userId="ann")
    bob = await visit(userId="bob", channels="life,presence")
    await service.asleep(name)
    await visit(userId="cid")
    events = [await bob.next()]
    while events[-1].get("user") != "cid":
        events.append(await bob.next())
    assert events[-3]["type"] == "sleeps"
    assert events[-2] == {"type": "restored", "users": ["ann", "bob"], "reason": "connect"}
    assert events[-1] == {"type": "came", "user": "cid", "users": ["ann", "bob", "cid"]}


async def test_a_room_without_connections_is_forgotten_when_it_sleeps(
    service: Service, visit: Visit, name: str
) -> None:
    guest = await visit()
    assert (await service.status(name))["connections"] == 1
    await guest.close()
    await service.forgotten(name)
    assert (await (await visit(greet=False)).ask("life"))["restored"] is None


async def test_a_call_wakes_a_sleeping_room_which_knows_its_sessions(
    service: Service, visit: Visit, stub: RoomStub, name: str
) -> None:
    guest = await visit(userId="ann", channels="news")
    await visit(userId="bob")
    await service.asleep(name)
    assert await stub.get_connected_user_ids() == ["ann", "bob"]
    await service.asleep(name)
    assert await stub.send_to_user("ann", "news", {"type": "letter"}) == 1
    assert await guest.next() == {"type": "letter"}


async def test_a_spawned_task_keeps_its_room_awake(service: Service, visit: Visit, gates: Gates, name: str) -> None:
    guest, gate = await visit(), gates()
    incarnation = await guest.ask("spawn", gate.name)
    await gate.reached("task")
    assert await service.until(name, kept_awake_by="spawned task")
    await gate.open()
    assert await guest.next() == {"type": "done", "incarnation": incarnation}
    await service.asleep(name)


async def test_keep_awake_keeps_a_room_awake_until_it_is_taken_back(service: Service, visit: Visit, name: str) -> None:
    guest = await visit()
    await guest.ask("keep", 60)
    await guest.ask("note", "kept")
    assert await service.until(name, kept_awake_by="keep_awake")
    assert await guest.ask("note", "too") == ["kept", "too"]
    await guest.ask("keep", 0)
    await service.asleep(name)


async def test_a_room_that_never_sleeps_by_itself_sleeps_when_it_is_told_to(
    service: Service, visit: Visit, room: str
) -> None:
    guest = await visit(f"/tireless/{room}")
    assert await service.until(f"tireless/{room}", kept_awake_by="hibernate_after never")
    await guest.send("doze")
    await service.asleep(f"tireless/{room}")
    assert await guest.ask("echo", 1) == 1


@pytest.mark.threat(64)
async def test_many_frames_at_once_wake_a_room_once(service: Service, visit: Visit, name: str) -> None:
    guests = [await visit(userId=f"user{n}") for n in range(10)]
    await service.asleep(name)
    cycles = (await service.status(name))["cycles"]
    lives = await asyncio.gather(*(guest.ask("life") for guest in guests))
    assert len({life["incarnation"] for life in lives}) == 1
    assert all(len(life["restored"]) == len(guests) for life in lives)
    assert (await service.status(name))["cycles"] <= cycles + 1


@pytest.mark.threat(63)
async def test_a_room_that_falls_asleep_again_and_again_loses_and_doubles_nothing(
    service: Service, visit: Visit, room: str
) -> None:
    """The room sleeps between frames, also while the next ones are under way."""
    guests = [await visit(f"/tireless/{room}") for _ in range(3)]
    requests: list[list[int]] = []
    while (await service.status(f"tireless/{room}"))["cycles"] < 8:
        for guest in guests:
            await guest.send("doze")
        requests.append([await guest.request("echo", len(requests)) for guest in guests])
    for n, numbers in enumerate(requests):
        for guest, number in zip(guests, numbers, strict=True):
            assert await guest.answer(number) == n


async def test_a_user_is_kicked_by_a_call_while_the_room_sleeps(
    service: Service, visit: Visit, caller: Caller, name: str, room: str
) -> None:
    watcher, bob = await visit(userId="ann", channels="presence"), await visit(userId="bob")
    await watcher.heard()
    await service.asleep(name)
    assert await caller.room("chat", room).expel("bob") == 1
    assert await bob.closed() == (1000, "expelled")
    await bob.close()
    told = await watcher.next()
    assert (told["type"], told["user"], told["code"]) == ("left", "bob", 1000)
