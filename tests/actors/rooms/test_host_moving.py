"""Rooms change hosts and gateways come and go: nothing is handled twice, nothing is left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.actors.conftest import FakeGateway, Recorder, Start
from tests.actors.membership.test_share import OURS, THEIRS, epoch
from tests.raw import until
from verani.errors import VeraniError
from verani.link.messages import (
    Close,
    GatewayMessage,
    Input,
    InputBatch,
    InterruptedInput,
    Kick,
    Rebuild,
    Record,
    Snapshot,
)
from verani.room.definition import define_room
from verani.room.meta import ConnectionMeta
from verani_actors.membership.share import Share
from verani_actors.rooms.host import RoomHost
from verani_actors.rooms.hosted_room import RoomChange


def share_of(host: RoomHost) -> Share:
    assert isinstance(host.ownership, Share)
    return host.ownership


async def owner_of_all(start: Start, recorder: Recorder, **settings: Any) -> RoomHost:
    host = await start(recorder.room, ownership=Share("A"), **settings)
    share_of(host).commit(epoch(1, "a"))
    return host


async def test_inputs_for_rooms_of_others_are_left_to_their_gateways(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    share_of(host).commit(epoch(2, "a", "b"))
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "x", THEIRS), gateway.connect(recorder.room, "y", OURS))
    await until(lambda: gateway.processed)
    assert set(gateway.processed) == {OURS}
    assert set(host.rooms()) == {OURS}
    assert [input.room for input in gateway.unprocessed] == [THEIRS]


async def test_release_finishes_what_is_in_hand_and_refuses_what_comes_later(start: Start) -> None:
    recorder = Recorder()
    recorder.hold = 1
    recorder.gate.clear()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c", THEIRS), gateway.frame("c", 1, room=THEIRS))
    await until(lambda: "held" in recorder.seen)
    share_of(host).prepare(epoch(2, "a", "b"))
    releasing = asyncio.create_task(host.moving.release(10.0))
    await until(lambda: host.rooms() == {THEIRS: "moving"})
    gateway.put(gateway.frame("c", 2, room=THEIRS))
    recorder.gate.set()
    await releasing
    assert host.rooms() == {}
    assert host.known_rooms() == []
    assert recorder.numbers == [1]
    assert gateway.processed[THEIRS] == 2
    assert [input.number for input in gateway.unprocessed] == [3]
    assert not any(entry.asleep for entry in gateway.entries), "it is to wake at its next owner"


async def test_release_leaves_the_rooms_that_stay_alone(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c", OURS), gateway.connect(recorder.room, "d", THEIRS))
    await until(lambda: len(gateway.processed) == 2)
    share_of(host).prepare(epoch(2, "a", "b"))
    await host.moving.release(10.0)
    assert host.rooms() == {OURS: "awake"}
    gateway.put(gateway.frame("c", 5, room=OURS))
    await until(lambda: 5 in recorder.seen)


async def test_release_ends_the_tasks_of_rooms_and_runs_on_hibernate(start: Start) -> None:
    recorder = Recorder()
    ended: list[str] = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    recorder.room.on("spawn")(lambda ctx, data: ctx.actor.spawn(for_ever()) and None)
    recorder.room.on_hibernate(lambda actor: ended.append("hibernate"))
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c", THEIRS), gateway.frame("c", 0, event="spawn", room=THEIRS))
    await until(lambda: gateway.processed.get(THEIRS) == 2)
    share_of(host).prepare(epoch(2, "a", "b"))
    await host.moving.release(10.0)
    assert ended == ["task", "hibernate"]


async def test_a_room_that_does_not_end_in_time_is_torn_down_and_its_input_left_to_the_next_owner(start: Start) -> None:
    recorder = Recorder()
    recorder.hold = 1
    recorder.gate.clear()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c", THEIRS), gateway.frame("c", 1, room=THEIRS))
    await until(lambda: "held" in recorder.seen)
    share_of(host).prepare(epoch(2, "a", "b"))
    await host.moving.release(0.05)
    await until(lambda: host.rooms() == {})
    assert gateway.processed[THEIRS] == 1
    assert [input.number for input in gateway.unprocessed] == [2]


async def test_a_move_that_is_taken_back_keeps_the_room_and_takes_what_was_refused(start: Start) -> None:
    recorder = Recorder()
    recorder.hold = 1
    recorder.gate.clear()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c", THEIRS), gateway.frame("c", 1, room=THEIRS))
    await until(lambda: "held" in recorder.seen)
    share_of(host).prepare(epoch(2, "a", "b"))
    releasing = asyncio.create_task(host.moving.release(10.0))
    await until(lambda: host.rooms() == {THEIRS: "moving"})
    refused = gateway.frame("c", 2, room=THEIRS)
    gateway.put(refused)
    share_of(host).commit(epoch(3, "a"))
    host.moving.abandon()
    host.moving.keep()
    await releasing
    assert host.rooms() == {THEIRS: "awake"}
    gateway.say(InputBatch([refused], 3, True))
    gateway.say(InputBatch([gateway.frame("c", 3, room=THEIRS)], 3))
    recorder.gate.set()
    await until(lambda: 3 in recorder.seen)
    assert recorder.numbers == [1, 2, 3]


async def test_what_waited_for_a_room_whose_move_is_taken_back_is_taken_when_it_is_sent_again(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.answers = False
    inputs: list[Input] = [gateway.connect(recorder.room, "c", THEIRS), gateway.frame("c", 1, room=THEIRS)]
    gateway.put(*inputs)
    await until(lambda: gateway.pulls)
    share_of(host).prepare(epoch(2, "a", "b"))
    releasing = asyncio.create_task(host.moving.release(10.0))
    await asyncio.sleep(0)
    share_of(host).commit(epoch(3, "a"))
    host.moving.keep()
    gateway.say(InputBatch([*inputs], 3, True))
    gateway.answer(gateway.pulls[0])
    await releasing
    await until(lambda: recorder.seen == [("connect", 1), 1])


async def test_a_room_that_fell_asleep_for_a_move_that_is_taken_back_wakes_again(start: Start) -> None:
    recorder = Recorder()
    gate = asyncio.Event()

    @recorder.room.on_hibernate
    async def hibernate(actor: Any) -> None:
        recorder.seen.append("sleeps")
        await gate.wait()

    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c", THEIRS))
    await until(lambda: gateway.processed)
    share_of(host).prepare(epoch(2, "a", "b"))
    releasing = asyncio.create_task(host.moving.release(10.0))
    await until(lambda: "sleeps" in recorder.seen)
    share_of(host).commit(epoch(3, "a"))
    host.moving.keep()
    gateway.say(Rebuild(THEIRS, "moved", 3))
    gate.set()
    await releasing
    await until(lambda: ("restore", 1, "moved") in recorder.seen)
    assert host.rooms() == {THEIRS: "awake"}


@pytest.mark.parametrize("how", ["emits", "raises"])
async def test_nothing_leaves_a_room_that_is_torn_down_whatever_its_hook_still_does(start: Start, how: str) -> None:
    recorder = Recorder()
    entered, ended = asyncio.Event(), asyncio.Event()

    @recorder.room.on("slow")
    async def slow(ctx: Any, data: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
            if how == "emits":
                ctx.emit("last words")
            raise ValueError("not a cancellation")

    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(
        gateway.connect(recorder.room, "c", THEIRS), gateway.frame("c", 0, event="slow", room=THEIRS, request=1)
    )
    await entered.wait()
    share_of(host).prepare(epoch(2, "a", "b"))
    await host.moving.release(0.01)
    await ended.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert gateway.texts() == []
    assert gateway.processed[THEIRS] == 1, "its next owner runs it"


async def test_a_waking_room_that_moves_wakes_first_and_handles_nothing(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.answers = False
    gateway.put(gateway.connect(recorder.room, "c", THEIRS))
    await until(lambda: gateway.pulls)
    share_of(host).prepare(epoch(2, "a", "b"))
    releasing = asyncio.create_task(host.moving.release(10.0))
    await asyncio.sleep(0)
    gateway.answer(gateway.pulls[0])
    await releasing
    assert recorder.seen == []
    assert gateway.processed == {}


async def test_a_host_that_lost_its_place_drops_everything_at_once(start: Start) -> None:
    recorder = Recorder()
    recorder.hold = 1
    recorder.gate.clear()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)

    @recorder.room.on("say")
    def say(ctx: Any, data: Any) -> None:
        ctx.emit("said")
        # As if the news came in this very tick, before anything has left.
        share_of(host).commit(epoch(2, "b"))
        host.moving.abandon()

    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="say"), gateway.frame("c", 2))
    await until(lambda: host.rooms() == {} and share_of(host).epoch == 2)
    assert gateway.texts() == [], "the next owner will say it"
    assert recorder.numbers == []


async def test_a_room_that_is_given_up_before_it_has_an_actor_ends_with_it(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    assert host.rooms() == {"chat/a": "waking"}
    share_of(host).commit(epoch(2, "b"))
    host.moving.abandon()
    await until(lambda: host.rooms() == {})
    assert (recorder.seen, gateway.pulls) == ([], [])


async def test_of_an_input_in_hand_at_a_room_that_is_given_up_nothing_is_said(start: Start) -> None:
    recorder = Recorder()
    entered = asyncio.Event()

    @recorder.room.on("say")
    async def say(ctx: Any, data: Any) -> None:
        ctx.emit("said")
        share_of(host).commit(epoch(2, "b"))
        host.moving.abandon()
        entered.set()
        await asyncio.Event().wait()

    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: gateway.processed)
    before = len(gateway.entries)
    gateway.put(gateway.frame("c", 0, event="say"))
    await entered.wait()
    await until(lambda: host.rooms() == {})
    assert gateway.entries[before:] == [], "what the next owner is to run has not begun"


async def test_a_room_that_was_awake_elsewhere_is_rebuilt_without_an_input(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: gateway.processed)
    host.directory.rooms["chat/a"].enter(RoomChange.RELEASED)
    host.actors.base.kill(host.directory.rooms["chat/a"].address)  # type: ignore[arg-type]  # it is there
    await until(lambda: host.rooms() == {})
    recorder.seen.clear()
    gateway.say(Rebuild("chat/a", "moved", 1))
    gateway.say(Rebuild("chat/a", "moved", 1))
    await until(lambda: recorder.seen == [("restore", 1, "moved")])
    status = host.status("chat/a")
    assert status is not None
    assert (status.woken_by, status.connections) == ("moved", 1)


async def test_a_room_of_another_host_is_not_rebuilt(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    share_of(host).commit(epoch(2, "a", "b"))
    gateway = FakeGateway(host)
    gateway.say(Rebuild(THEIRS, "crash", 2))
    assert host.rooms() == {}


# --- inputs that come twice ----------------------------------------------------------------------------------


async def test_inputs_that_are_sent_again_are_taken_once(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    first: list[Input] = [gateway.connect(recorder.room, "c"), gateway.frame("c", 1)]
    gateway.put(*first)
    again: GatewayMessage = InputBatch([*first, gateway.frame("c", 2)], 1, True)
    gateway.say(again)
    gateway.say(again)
    await until(lambda: 2 in recorder.seen)
    gateway.say(again)
    gateway.put(gateway.frame("c", 3))
    await until(lambda: 3 in recorder.seen)
    assert recorder.seen == [("connect", 1), 1, 2, 3]


async def test_an_input_that_an_earlier_owner_has_done_is_not_done_again(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    gateway = FakeGateway(host)
    gateway.answers = False
    frames = [gateway.frame("c", n) for n in (1, 2, 3)]
    gateway.say(InputBatch([*frames], 1, True))
    await until(lambda: gateway.pulls)
    pull = gateway.pulls[0]
    connect = gateway.connect(recorder.room, "c")
    gateway.held["chat/a"] = {}
    gateway.put(connect)  # not yet processed, so it is in no snapshot
    gateway.say(Snapshot("chat/a", pull.incarnation, [], processed=2))
    await until(lambda: gateway.processed.get("chat/a") == connect.number)
    assert recorder.seen == [("connect", 1)], "the third frame is of nobody, the first two are long done"


async def test_inputs_of_an_earlier_spell_of_ownership_are_refused(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    share = share_of(host)
    share.prepare(epoch(2, "a", "b"))
    share.commit(epoch(3, "a"))
    gateway = FakeGateway(host)
    gateway.say(InputBatch([gateway.connect(recorder.room, "c", THEIRS)], 1))
    assert host.rooms() == {}
    gateway.say(InputBatch([gateway.connect(recorder.room, "d", OURS)], 1))
    await until(lambda: recorder.seen == [("connect", 1)])
    assert set(host.rooms()) == {OURS}


# --- inputs that were begun elsewhere ------------------------------------------------------------------------


async def test_an_interrupted_close_ends_the_session_without_on_disconnect(start: Start) -> None:
    recorder = Recorder()
    errors: list[Any] = []
    recorder.room.on_error(lambda error, ctx: errors.append((type(error).__name__, ctx.close_code, ctx.meta.user_id)))
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: gateway.processed)
    close = gateway.close("c")
    gateway.unprocessed.append(close)
    gateway.say(InputBatch([InterruptedInput(close)]))
    await until(lambda: gateway.processed["chat/a"] == 2)
    assert errors == [("HookInterrupted", 1000, "user of c")]
    assert recorder.seen == [("connect", 1)]
    assert gateway.records() == []


async def test_an_interrupted_connect_is_turned_away_and_told_with_its_meta(start: Start) -> None:
    recorder = Recorder()
    errors: list[Any] = []
    recorder.room.on_error(lambda error, ctx: errors.append((type(error).__name__, ctx.meta.user_id)))
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    connect = gateway.connect(recorder.room, "c")
    gateway.put()
    gateway.held["chat/a"] = {}
    gateway.say(InputBatch([InterruptedInput(connect), gateway.frame("c", 1)]))
    await until(lambda: gateway.processed.get("chat/a") == 2)
    assert errors == [("HookInterrupted", "user of c")]
    assert recorder.seen == []
    assert [(kick.code, kick.refused) for kick in gateway.outputs] == [(1011, True)]  # type: ignore[union-attr]


async def test_an_interrupted_call_is_answered_so(start: Start) -> None:
    room = define_room("chat")
    errors: list[str] = []
    room.on_error(lambda error, ctx: errors.append(type(error).__name__))
    host = await start(room)
    gateway = FakeGateway(host)
    gateway.say(InputBatch([InterruptedInput(gateway.call("get_session_count"))]))
    await until(lambda: gateway.replies)
    assert gateway.replies[1].code == "interrupted"
    assert errors == ["HookInterrupted"]


# --- gateways that are gone ----------------------------------------------------------------------------------


async def test_a_gateway_that_is_given_up_takes_its_sessions_along_once_each(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gone, stays = FakeGateway(host, id="gone"), FakeGateway(host, id="stays")
    gone.put(gone.connect(recorder.room, "a"), gone.connect(recorder.room, "b"))
    stays.put(stays.connect(recorder.room, "c"), stays.connect(recorder.room, "d", "chat/other"))
    await until(lambda: len(recorder.seen) == 4)
    assert host.unlink("gone") == ["chat/a"]
    assert host.unlink("gone") == []
    stays.put(stays.frame("c", 1))
    await until(lambda: 1 in recorder.seen)
    assert recorder.seen[4:] == [("disconnect", "user of a", 1006), ("disconnect", "user of b", 1006), 1]
    status = host.status("chat/a")
    assert status is not None
    assert status.connections == 1


async def test_what_a_lost_gateway_has_sent_to_a_waking_room_is_dropped(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gone, stays = FakeGateway(host, id="gone"), FakeGateway(host, id="stays")
    gone.answers = False
    stays.put(stays.connect(recorder.room, "a"))
    gone.put(gone.connect(recorder.room, "b"))
    await until(lambda: gone.pulls)
    assert host.unlink("gone") == ["chat/a"]
    await until(lambda: stays.processed)
    assert recorder.seen == [("connect", 1)]


async def test_what_a_lost_gateway_did_not_hear_the_end_of_is_taken_when_it_comes_back(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    stays, gone = FakeGateway(host, id="stays"), FakeGateway(host, id="gone")
    stays.put(stays.connect(recorder.room, "a"))
    gone.put(gone.connect(recorder.room, "b"))
    await until(lambda: len(recorder.seen) == 2)
    close = gone.close("b")
    gone._take = lambda message: None  # type: ignore[method-assign]  # it hears nothing more
    host.gateways["gone"] = lambda message: None
    gone.put(close)
    await until(lambda: ("disconnect", "user of b", 1000) in recorder.seen)
    assert host.unlink("gone") == []
    back = FakeGateway(host, id="gone")
    back.unprocessed.append(close)
    back.say(InputBatch([close], 0, True))
    await until(lambda: back.processed.get("chat/a") == close.number)
    assert recorder.seen.count(("disconnect", "user of b", 1000)) == 1


async def test_a_hook_does_not_wait_for_a_gateway_that_is_gone(start: Start) -> None:
    recorder = Recorder()
    waiting: list[str] = []

    @recorder.room.on("drain")
    async def drain(ctx: Any, data: Any) -> None:
        waiting.append("drain")
        await ctx.drain()
        waiting.append("drained")

    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway._output = lambda *_: None  # type: ignore[method-assign]  # it never answers
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="drain"))
    await until(lambda: waiting == ["drain"])
    host.unlink("g1")
    await until(lambda: waiting == ["drain", "drained"])
    await until(lambda: ("disconnect", "user of c", 1006) in recorder.seen)


async def test_a_room_of_a_lost_gateway_sleeps_and_does_not_wake_for_its_closes(start: Start) -> None:
    recorder = Recorder(hibernate_after=0.01)
    gate = asyncio.Event()

    @recorder.room.on_hibernate
    async def hibernate(actor: Any) -> None:
        recorder.seen.append("sleeps")
        await gate.wait()

    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "sleeps" in recorder.seen)
    host.unlink("g1")
    gate.set()
    await until(lambda: host.rooms() == {})
    assert recorder.seen == [("connect", 1), "sleeps"]


async def test_sleep_is_told_to_the_gateways_that_have_connections(start: Start) -> None:
    recorder = Recorder(hibernate_after=0.01)
    host = await start(recorder.room)
    has, has_none = FakeGateway(host, id="has"), FakeGateway(host, id="has none")
    has.put(has.connect(recorder.room, "c"))
    await until(lambda: any(entry.asleep for entry in has.entries))
    assert has.entries[-1].asleep
    assert has_none.entries == []
    has.put(Close("chat/a", has.number(), "c", 1000))
    await until(lambda: ("disconnect", "user of c", 1000) in recorder.seen)


@pytest.mark.parametrize("linked", [True, False])
async def test_a_call_carried_by_a_gateway_that_is_lost_is_interrupted(start: Start, linked: bool) -> None:
    recorder = Recorder()
    outcomes: list[str] = []

    @recorder.room.on("call")
    async def call(ctx: Any, data: Any) -> None:
        try:
            await ctx.actor.stub("chat", "other").get_session_count()
        except VeraniError as error:
            outcomes.append(error.code)

    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="call"))
    await until(lambda: "chat/a" in host.calls._carried)
    if linked:
        FakeGateway(host, id="another")
    host.unlink("g1")
    await until(lambda: outcomes == ["interrupted"])


async def test_rooms_of_a_new_member_wait_until_every_gateway_is_linked(start: Start) -> None:
    """The first to link may hold less than half of a room's connections."""
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    host.settle(lambda: len(host.gateways) == 2, 3600.0)
    first = FakeGateway(host, id="g1")
    first.put(first.connect(recorder.room, "c", OURS))
    await until(lambda: first.pulls)
    assert host.rooms() == {OURS: "waking"}
    second = FakeGateway(host, id="g2", answers=False)
    await until(lambda: second.pulls)
    (pull,) = second.pulls
    assert host.rooms() == {OURS: "waking"}
    second.say(Snapshot(pull.room, pull.incarnation, [record_of(recorder, "other")]))
    await until(lambda: OURS in first.processed)
    assert not second.outputs
    # From now on all are known.
    first.put(first.connect(recorder.room, "d", "chat/elsewhere"))
    await until(lambda: len(second.pulls) == 2)
    second.say(Snapshot("chat/elsewhere", second.pulls[1].incarnation, []))
    await until(lambda: "chat/elsewhere" in first.processed)


async def test_rooms_of_a_new_member_do_not_wait_for_gateways_that_do_not_come(start: Start) -> None:
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    host.settle(lambda: False, 0.05)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c", OURS))
    await until(lambda: OURS in gateway.processed)
    assert host._opening._settling is None


async def test_connections_that_a_room_went_on_without_are_closed_and_left_by_their_hooks(start: Start) -> None:
    """What the room has said meanwhile did not reach them, and silence would hide it."""
    recorder = Recorder()
    host = await owner_of_all(start, recorder)
    first = FakeGateway(host, id="g1")
    first.put(first.connect(recorder.room, "c", OURS), first.frame("c", 1, room=OURS))
    await until(lambda: recorder.numbers == [1])
    late = FakeGateway(host, id="g2", answers=False)
    (pull,) = late.pulls
    late.say(Snapshot(pull.room, pull.incarnation, [record_of(recorder, "other"), record_of(recorder, "going", True)]))
    await until(lambda: late.outputs)
    assert late.outputs == [Kick("other", 1012, "the room went on without this connection")]
    late.put(Close(OURS, late.number(), "other", 1012, ""), Close(OURS, late.number(), "going", 1000, ""))
    await until(lambda: late.processed.get(OURS) == 2)
    assert recorder.seen[-2:] == [("disconnect", "other", 1012), ("disconnect", "going", 1000)]


def record_of(recorder: Recorder, connection: str, closing: bool = False) -> Record:
    meta = ConnectionMeta(user_id=connection, client_id=connection)
    return Record(connection, recorder.room.codec(16384).encode(meta), closing)


async def test_a_room_that_sleeps_is_no_room_of_this_host_once_an_epoch_has_moved_it(start: Start) -> None:
    recorder = Recorder(hibernate_after=0.01)
    host = await owner_of_all(start, recorder, min_awake=0.001)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c", OURS), gateway.connect(recorder.room, "d", THEIRS))
    await until(lambda: host.directory.sleeping_count == 2)
    share_of(host).commit(epoch(2, "a", "b"))
    host.moving.abandon()
    assert (host.known_rooms(), host.directory.sleeping_count) == ([OURS], 1)
    assert host.status(THEIRS) is None
