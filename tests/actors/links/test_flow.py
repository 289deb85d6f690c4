"""Which rooms are held, by which gateways, and until when."""

from __future__ import annotations

import asyncio

import pytest

from verani.link.messages import Attach, Deliver, Entry, EntryBatch, Outcome, Pull, Reply
from verani_actors.links.flow import LINK_AHEAD, OVERHEAD, ROOM_AHEAD, Flow, weight_of


def batch(room: str, size: int) -> list[EntryBatch]:
    return [EntryBatch([Entry(room, outputs=[Deliver(("c",), bytes(size))])])]


def test_everything_that_an_entry_holds_weighs() -> None:
    assert weight_of(Entry("chat/a")) == OVERHEAD
    assert weight_of(Entry("chat/a", attachments=[Attach("c", bytes(16_000))])) >= 16_000 + OVERHEAD
    assert weight_of(Entry("chat/a", outputs=[Reply(1, Outcome(bytes(5000)))])) >= 5000
    assert weight_of(Entry("chat/a", outputs=[Deliver(("c",), b"")])) >= 2 * OVERHEAD
    few, many = (Deliver(tuple(map(str, range(count))), bytes(60)) for count in (1, 3000))
    assert weight_of(Entry("chat/a", outputs=[many])) > 50 * weight_of(Entry("chat/a", outputs=[few]))


def test_a_room_is_held_while_it_is_far_ahead_of_one_of_its_gateways() -> None:
    flow = Flow()
    flow.sent("g1", 1, batch("chat/a", ROOM_AHEAD // 2))
    assert not flow.is_held("chat/a")
    flow.sent("g1", 2, batch("chat/a", ROOM_AHEAD // 2))
    flow.sent("g2", 1, batch("chat/a", 10))
    assert (flow.is_held("chat/a"), flow.is_held("chat/b")) == (True, False)
    assert (flow.holds("g1"), flow.holds("g2"), flow.holds("g3")) == (True, False, False)
    flow.confirmed("g2", 1)
    assert flow.is_held("chat/a")
    flow.confirmed("g1", 1)
    assert not flow.is_held("chat/a")
    flow.confirmed("g1", 2)
    assert flow.ahead("chat/a") == 0


def test_a_gateway_that_is_lost_holds_nobody() -> None:
    flow = Flow()
    flow.sent("g1", 1, batch("chat/a", 2 * ROOM_AHEAD))
    flow.lost("g1")
    flow.lost("g1")
    flow.confirmed("g1", 1)
    assert not flow.is_held("chat/a")


def test_a_link_for_which_much_waits_holds_those_who_have_part_in_it_and_nobody_else() -> None:
    flow = Flow()
    rooms = [f"chat/{n}" for n in range(2 * LINK_AHEAD // ROOM_AHEAD)]
    for number, room in enumerate(rooms, 1):
        flow.sent("g1", number, batch(room, ROOM_AHEAD * 3 // 4))
    assert all(map(flow.is_held, rooms))
    assert not flow.is_held("chat/quiet")
    flow.confirmed("g1", len(rooms) // 2)
    assert not any(map(flow.is_held, rooms))


def test_what_says_nothing_of_a_room_counts_for_nobody() -> None:
    flow = Flow()
    flow.sent("g1", 1, [Pull("chat/a", 1)])
    assert (flow.ahead("chat/a"), flow.holds("g1")) == (0, False)


async def test_who_waits_goes_on_once_the_room_is_held_no_more() -> None:
    flow = Flow()
    await flow.wait("chat/a")
    for room in ("chat/a", "chat/b"):
        flow.sent("g1", 1, batch(room, ROOM_AHEAD + 1))
    flow.sent("g2", 1, batch("chat/a", ROOM_AHEAD + 1))
    waits = [asyncio.create_task(flow.wait(room)) for room in ("chat/a", "chat/b")]
    await asyncio.sleep(0)
    flow.confirmed("g1", 1)
    await waits[1]
    assert not waits[0].done()
    flow.lost("g2")
    await waits[0]
    assert flow._held == {}


async def test_a_confirmation_looks_only_at_rooms_that_it_may_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are held: there is a confirmation every few kilobytes."""
    flow = Flow()
    rooms = [f"chat/{n}" for n in range(200)]
    for number, room in enumerate(rooms, 1):
        flow.sent("g1", number, batch(room, LINK_AHEAD // 100))
    waiting = {room: asyncio.create_task(flow.wait(room)) for room in rooms}
    await asyncio.sleep(0)
    looked: list[str] = []
    is_held = flow.is_held

    def look(room: str) -> bool:
        looked.append(room)
        return is_held(room)

    monkeypatch.setattr(flow, "is_held", look)
    flow.confirmed("g1", 1)
    flow.confirmed("g1", 3)
    assert looked == rooms[:3]
    await asyncio.gather(*[waiting.pop(room) for room in rooms[:3]])
    # All others go on at once, when no more waits than may.
    flow.confirmed("g1", 120)
    await asyncio.gather(*waiting.values())


async def test_who_is_torn_down_while_it_waits_takes_nothing_from_its_successor() -> None:
    flow = Flow()
    flow.sent("g1", 1, batch("chat/a", ROOM_AHEAD + 1))
    first = asyncio.create_task(flow.wait("chat/a"))
    await asyncio.sleep(0)
    second = asyncio.create_task(flow.wait("chat/a"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    flow.confirmed("g1", 1)
    await second
    assert flow._held == {}
