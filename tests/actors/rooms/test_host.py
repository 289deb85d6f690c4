"""A room host between a gateway that only pretends and real room actors: nothing lost, nothing twice, in order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from thespian.actors import ActorExitRequest

from tests.actors.conftest import FakeGateway, Recorder, Start
from tests.raw import until
from verani import Context
from verani.link.messages import (
    Attach,
    Deliver,
    Drain,
    Entry,
    EntryBatch,
    Invalid,
    Kick,
    Output,
    Pull,
)
from verani.room.definition import define_room
from verani.room.meta import ConnectionMeta
from verani.settings import Settings
from verani_actors.links.flow import ROOM_AHEAD
from verani_actors.rooms.host import RoomHost
from verani_actors.rooms.room_actor import Sleep
from verani_actors.rooms.tick_entries import MAX_PENDING

# --- waking --------------------------------------------------------------------------------------------------


async def test_no_input_is_handled_before_the_snapshots_of_all_gateways_are_merged(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    first, second = FakeGateway(host, id="g1"), FakeGateway(host, id="g2")
    second.put(second.connect(recorder.room, "old"))
    await until(lambda: recorder.seen == [("connect", 1)])
    await _sleep(host)
    recorder.seen.clear()
    first.answers = second.answers = False
    first.put(first.connect(recorder.room, "new"), first.frame("new", 1))
    await until(lambda: len(second.pulls) == 2)
    assert host.rooms() == {"chat/a": "waking"}
    first.answer(first.pulls[-1])
    first.put(first.frame("new", 2))
    await asyncio.sleep(0)
    assert recorder.seen == []
    second.answer(second.pulls[-1])
    await until(lambda: 2 in recorder.seen)
    assert recorder.seen == [("restore", 1, "connect"), ("connect", 2), 1, 2]


async def test_the_answer_to_an_earlier_pull_is_ignored(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.answers = False
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: gateway.pulls)
    gateway.answer(Pull("chat/a", gateway.pulls[0].incarnation - 1))
    gateway.answer(Pull("chat/unknown", 1))
    await asyncio.sleep(0)
    assert host.rooms() == {"chat/a": "waking"}
    gateway.answer(gateway.pulls[0])
    await until(lambda: recorder.seen)
    gateway.answer(gateway.pulls[0])
    gateway.put(gateway.frame("c", 1))
    await until(lambda: 1 in recorder.seen)
    assert recorder.seen == [("connect", 1), 1]


async def test_inputs_of_an_unknown_definition_close_the_connection_and_are_acknowledged(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    connect = gateway.connect(recorder.room, "c", room="game/a")
    close = gateway.close("c", room="game/a")
    gateway.put(connect)
    gateway.put(close)
    await until(lambda: gateway.processed.get("game/a") == close.number)
    assert gateway.outputs[0] == Kick("c", 1011, refused=True)
    assert "connection closed: no room definition for game/a" in caplog.messages
    assert host.rooms() == {}


# --- sleeping ------------------------------------------------------------------------------------------------


async def _sleep(host: RoomHost, room: str = "chat/a") -> None:
    """Put a room to sleep as if it had been idle."""
    await until(lambda: not host.directory.rooms[room].in_flight)
    engine = host.directory.rooms[room].engine
    assert engine is not None
    engine.actor.hibernate()
    await until(lambda: room not in host.rooms())


async def test_inputs_that_arrive_while_a_room_falls_asleep_go_to_its_next_incarnation_in_order(start: Start) -> None:
    recorder = Recorder(hibernate_after=0.02)
    retiring, goes_on = asyncio.Event(), asyncio.Event()

    @recorder.room.on_hibernate
    async def on_hibernate(actor: Any) -> None:
        recorder.seen.append("hibernate")
        retiring.set()
        await goes_on.wait()

    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await retiring.wait()
    assert host.rooms() == {"chat/a": "retiring"}
    gateway.put(gateway.frame("c", 1), gateway.frame("c", 2))
    gateway.put(gateway.frame("c", 3), gateway.close("c"))
    goes_on.set()
    await until(lambda: len(recorder.seen) >= 7)
    assert recorder.seen[:7] == [
        ("connect", 1),
        "hibernate",
        ("restore", 1, "frame"),
        1,
        2,
        3,
        ("disconnect", "user of c", 1000),
    ]


async def test_many_sleeps_lose_and_double_nothing(start: Start) -> None:
    recorder = Recorder(hibernate_after=0.001)
    host = await start(recorder.room)
    gateway = FakeGateway(host, coded=True)
    gateway.put(gateway.connect(recorder.room, "c"))
    for n in range(300):
        gateway.put(gateway.frame("c", n))
        if n % 10 == 0:
            await until(lambda: gateway.processed.get("chat/a") == gateway._number)
            await until(lambda: host.rooms().get("chat/a") != "awake")  # retiring or asleep, as it comes
    await until(lambda: len(recorder.numbers) >= 300)
    assert recorder.numbers == list(range(300))
    assert len(gateway.pulls) > 5, "the room did sleep meanwhile"
    assert {item[1] for item in recorder.seen if isinstance(item, tuple)} == {1}


async def test_the_idle_clock_is_that_of_the_definition_and_never_is_never(start: Start) -> None:
    now = 0.0
    rooms = [
        define_room("short", hibernate_after=1.0),
        define_room("setting"),
        define_room("never", hibernate_after=None),
    ]
    host = await start(*rooms, clock=lambda: now, hibernate_after=5.0)
    gateway = FakeGateway(host)
    gateway.put(*(gateway.connect(room, room.name, room=f"{room.name}/a") for room in rooms))
    await until(lambda: len(gateway.processed) == 3)
    now = 0.9
    gateway.put(gateway.frame("short", 1, room="short/a"))
    await until(lambda: gateway.processed["short/a"] > 3)
    now = 1.5
    await asyncio.sleep(0)
    assert "short/a" in host.rooms(), "a frame sets the clock back"
    now = 2.0
    await until(lambda: set(host.rooms()) == {"setting/a", "never/a"})
    now = 5.5
    await until(lambda: set(host.rooms()) == {"never/a"})
    now = 1e9
    gateway.put(gateway.frame("short", 1, room="short/a"))
    await until(lambda: gateway.processed["short/a"] == 5)
    now = 2e9
    await until(lambda: set(host.rooms()) == {"never/a"})


async def test_a_running_hook_and_a_spawned_task_keep_a_room_awake(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(hibernate_after=0.01)
    release, looks = asyncio.Event(), 0

    async def background() -> None:
        await release.wait()
        recorder.seen.append("task ends")

    @recorder.room.on("slow")
    async def slow(ctx: Any, data: Any) -> None:
        ctx.actor.spawn(background())
        await until(lambda: looks >= 5)
        recorder.seen.append("hook ends")

    recorder.room.on_hibernate(lambda actor: recorder.seen.append("hibernate"))
    host = await start(recorder.room)
    retire_idle = host.sleeping.retire_idle

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return retire_idle()

    monkeypatch.setattr(host.sleeping, "retire_idle", counted)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="slow"))
    await until(lambda: looks >= 12)
    assert host.rooms() == {"chat/a": "awake"}
    release.set()
    await until(lambda: host.rooms() == {})
    assert recorder.seen == [("connect", 1), "hook ends", "task ends", "hibernate"]


async def test_a_room_that_has_something_to_do_after_all_stays_and_gets_what_came_meanwhile(start: Start) -> None:
    recorder = Recorder()
    release = asyncio.Event()
    recorder.room.on("spawn")(lambda ctx, data: ctx.actor.spawn(release.wait()) and None)
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="spawn"))
    await until(lambda: gateway.processed.get("chat/a") == 2)
    # As if the task had begun after the manager chose this room.
    base, manager = host.actors.base, host.actors._manager
    assert base is not None
    assert manager is not None
    base._post(host.sleeping._retire(host.directory.rooms["chat/a"]), manager, Sleep())
    assert host.rooms() == {"chat/a": "retiring"}
    gateway.put(gateway.frame("c", 1), gateway.frame("c", 2))
    await until(lambda: 2 in recorder.seen)
    assert recorder.seen == [("connect", 1), 1, 2]
    assert host.rooms() == {"chat/a": "awake"}
    assert len(gateway.pulls) == 1
    release.set()


async def test_a_stop_cancels_spawned_tasks_and_puts_their_rooms_to_sleep() -> None:
    recorder = Recorder()
    recorder.room.on_hibernate(lambda actor: recorder.seen.append("hibernate"))
    recorder.room.on_shutdown(lambda: recorder.seen.append("shutdown"))

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            recorder.seen.append("cancelled")

    recorder.room.on("spawn")(lambda ctx, data: ctx.actor.spawn(forever()) and None)
    host = RoomHost([recorder.room], Settings())
    await host.start()
    before = asyncio.all_tasks()
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="spawn"))
    await until(lambda: gateway.processed.get("chat/a") == 2)
    await host.stop(10.0)
    assert sorted(map(str, recorder.seen[1:-1])) == ["cancelled", "hibernate"]
    assert recorder.seen[-1] == "shutdown"
    await until(lambda: asyncio.all_tasks() <= before)


async def test_a_stop_without_patience_cancels_what_runs_and_still_runs_on_shutdown() -> None:
    recorder = Recorder()
    recorder.hold = 1
    recorder.gate.clear()
    recorder.room.on_shutdown(lambda: recorder.seen.append("shutdown"))
    host = RoomHost([recorder.room], Settings())
    await host.start()
    before = asyncio.all_tasks()
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 1))
    await until(lambda: "held" in recorder.seen)
    await host.stop(0.01)
    assert recorder.seen == [("connect", 1), "held", "shutdown"]
    assert asyncio.all_tasks() <= before


async def test_an_on_startup_that_fails_stops_the_start() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    host = RoomHost([define_room("chat", on_startup=fail)], Settings())
    before = asyncio.all_tasks()
    with pytest.raises(ZeroDivisionError):
        await host.start()
    assert asyncio.all_tasks() <= before
    assert host.rooms() == {}


# --- dying ---------------------------------------------------------------------------------------------------


async def test_a_room_actor_that_is_killed_leaves_its_inputs_to_the_next_incarnation(start: Start) -> None:
    recorder = Recorder()
    recorder.hold = 1
    recorder.gate.clear()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 1))
    await until(lambda: "held" in recorder.seen)
    address = host.directory.rooms["chat/a"].address
    assert address is not None
    host.actors.tell(address, ActorExitRequest())
    gateway.put(gateway.frame("c", 2), gateway.frame("c", 3))
    recorder.gate.set()
    await until(lambda: 3 in recorder.seen)
    assert recorder.seen == [("connect", 1), "held", 1, ("restore", 1, "crash"), 2, 3]
    assert host.directory.rooms["chat/a"].address != address
    await until(lambda: gateway.processed["chat/a"] == 4)
    gateway.put(gateway.frame("c", 4))
    await until(lambda: 4 in recorder.seen)


async def test_an_idle_room_actor_that_is_killed_wakes_with_the_next_input(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: recorder.seen)
    address = host.directory.rooms["chat/a"].address
    assert address is not None
    host.actors.tell(address, ActorExitRequest())
    await until(lambda: host.rooms() == {})
    gateway.put(gateway.frame("c", 1))
    await until(lambda: 1 in recorder.seen)
    assert recorder.seen == [("connect", 1), ("restore", 1, "frame"), 1]


@pytest.mark.parametrize("shows", [True, False])
async def test_a_hook_that_died_runs_again_unless_it_had_shown_an_effect(start: Start, shows: bool) -> None:
    recorder = Recorder()
    recorder.gate.clear()

    @recorder.room.on("slow")
    async def slow(ctx: Any, data: Any) -> str:
        recorder.seen.append("slow")
        if shows:
            ctx.emit("begins")
        await recorder.gate.wait()
        return "done"

    recorder.room.on_error(lambda error, ctx: recorder.seen.append((type(error).__name__, ctx.frame.data)))
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(
        gateway.connect(recorder.room, "c"), gateway.frame("c", 5, event="slow", request=7), gateway.frame("c", 2)
    )
    await until(lambda: "slow" in recorder.seen)
    base, room = host.actors.base, host.directory.rooms["chat/a"]
    assert base is not None
    assert room.engine is not None
    assert room.address is not None
    room.engine.end()
    base.kill(room.address)
    recorder.gate.set()
    await until(lambda: 2 in recorder.seen)
    await until(lambda: gateway.processed["chat/a"] == 3)
    told = ("HookInterrupted", 5) if shows else "slow"
    assert recorder.seen == [("connect", 1), "slow", ("restore", 1, "crash"), told, 2]
    ack = b'"error":{"code":"interrupted"}' if shows else b'"data":"done"'
    (answer,) = [text for text in gateway.texts() if b"ack" in text]
    assert ack in answer


async def test_what_a_room_left_is_applied_before_its_gateway_answers_the_next_incarnation(start: Start) -> None:
    recorder = Recorder(hibernate_after=None)
    gate, entered = asyncio.Event(), asyncio.Event()

    @recorder.room.on("join")
    async def join(ctx: Any, data: Any) -> None:
        ctx.join("late")
        entered.set()
        await gate.wait()

    recorder.room.on("where")(lambda ctx, data: recorder.seen.append(ctx.meta.channels))
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="join"))
    await entered.wait()
    address = host.directory.rooms["chat/a"].address
    assert address is not None
    host.actors.tell(address, ActorExitRequest())
    gateway.put(gateway.frame("c", 0, event="where"))

    def receive() -> None:
        """A link that receives something lets the actors run, before the tick's entries have been sent."""
        for _ in range(20):
            host.run()
        assert len(gateway.pulls) == 2, "all of it happens in the tick in which the hook ended"

    gate.set()
    asyncio.get_running_loop().call_soon(receive)
    await until(lambda: gateway.processed["chat/a"] == 3)
    assert recorder.seen == [("connect", 1), ("restore", 1, "crash"), ("default", "late")]


async def test_an_abandoned_hook_is_acknowledged_once_and_the_room_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verani.engine.hook_runner.CANCEL_GRACE", 0.02)
    recorder = Recorder()
    ends = asyncio.Event()
    errors: list[str] = []
    recorder.room.on_error(lambda error, ctx: errors.append(type(error).__name__))

    @recorder.room.on("stubborn")
    async def stubborn(ctx: Any, data: Any) -> None:
        while not ends.is_set():
            try:
                await ends.wait()
            except asyncio.CancelledError:
                continue

    host = await start(recorder.room, hook_timeout=0.02)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="stubborn"), gateway.frame("c", 1))
    await until(lambda: 1 in recorder.seen)
    gateway.put(gateway.frame("c", 2))
    await until(lambda: gateway.processed["chat/a"] == 4)
    assert recorder.seen == [("connect", 1), 1, 2]
    assert errors == ["HookTimeout"]
    assert not host.directory.rooms["chat/a"].in_flight
    ends.set()


def _stubborn(ends: asyncio.Event) -> Any:
    """Make a hook that ignores its cancellation."""

    async def hook(actor: Any) -> None:
        while not ends.is_set():
            try:
                await ends.wait()
            except asyncio.CancelledError:
                continue

    return hook


async def test_an_on_hibernate_that_is_abandoned_does_not_keep_its_room_from_sleeping(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verani.engine.hook_runner.CANCEL_GRACE", 0.02)
    ends = asyncio.Event()
    recorder = Recorder(hibernate_after=0.05, on_hibernate=_stubborn(ends))
    host = await start(recorder.room, hook_timeout=0.02)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: host.rooms() == {"chat/a": "retiring"})
    gateway.put(gateway.frame("c", 1))
    await until(lambda: 1 in recorder.seen)
    assert recorder.seen == [("connect", 1), ("restore", 1, "frame"), 1]
    ends.set()


async def test_an_on_hibernation_restore_that_is_abandoned_does_not_keep_its_room_from_working(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verani.engine.hook_runner.CANCEL_GRACE", 0.02)
    ends = asyncio.Event()
    recorder = Recorder(hibernate_after=60.0)
    recorder.room.hooks["on_hibernation_restore"] = _stubborn(ends)
    host = await start(recorder.room, hook_timeout=0.02)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: recorder.seen)
    await _sleep(host)
    gateway.put(gateway.frame("c", 1), gateway.frame("c", 2))
    await until(lambda: 2 in recorder.seen)
    assert recorder.seen == [("connect", 1), 1, 2]
    ends.set()


async def test_a_message_that_no_room_knows_is_ignored(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: recorder.seen)
    address = host.directory.rooms["chat/a"].address
    assert address is not None
    host.actors.tell(address, "hello")
    gateway.put(gateway.frame("c", 1))
    await until(lambda: 1 in recorder.seen)
    assert "unexpected message str for a room" in caplog.messages


# --- effects -------------------------------------------------------------------------------------------------


async def test_outputs_attachments_and_acknowledgement_of_an_input_are_in_one_entry(start: Start) -> None:
    room = define_room("chat")

    @room.on("join")
    def join(ctx: Any, data: Any) -> str:
        ctx.join("b")
        ctx.emit("joined")
        return "ok"

    host = await start(room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(room, "c"))
    await until(lambda: gateway.processed)
    gateway.entries.clear()
    gateway.put(gateway.frame("c", 0, event="join", request=9))
    await until(lambda: gateway.processed["chat/a"] == 2)
    (entry,) = gateway.entries
    assert entry.processed == 2
    assert [type(output) for output in entry.outputs] == [Deliver, Deliver]
    assert entry.outputs[-1] == Deliver(("c",), b'{"type":"ack","id":9,"data":"ok"}')
    assert [type(attach) for attach in entry.attachments] == [Attach]
    assert entry.begun is None


async def test_an_input_is_marked_begun_while_its_hook_awaits_and_has_visible_outputs(start: Start) -> None:
    recorder = Recorder()

    @recorder.room.on("slow")
    async def slow(ctx: Any, data: Any) -> None:
        ctx.emit("begins")
        await recorder.gate.wait()
        ctx.emit("ends")

    recorder.gate.clear()
    recorder.hold = 1
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="slow"))
    await until(lambda: gateway.texts())
    assert (gateway.processed["chat/a"], gateway.entries[-1].begun) == (1, 2)
    recorder.gate.set()
    await until(lambda: gateway.processed["chat/a"] == 2)
    assert (gateway.entries[-1].processed, gateway.entries[-1].begun) == (2, None)
    assert len(gateway.texts()) == 2
    recorder.gate.clear()
    gateway.put(gateway.frame("c", 1))
    await until(lambda: "held" in recorder.seen)
    assert all(entry.begun in (None, 2) for entry in gateway.entries), "without a visible output it may run again"
    recorder.gate.set()


async def test_entries_count_up_within_an_incarnation_and_batches_within_the_link(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    for n in range(5):
        gateway.put(gateway.frame("c", n))
        await until(lambda n=n: n in recorder.numbers)  # type: ignore[misc]  # mypy has no types for defaults
    await until(lambda: gateway.processed["chat/a"] == 6)
    sequence = [entry.seq for entry in gateway.entries]
    assert sequence == list(range(1, len(sequence) + 1))


# --- the same over bytes -------------------------------------------------------------------------------------


async def _journey(start: Start, coded: bool) -> tuple[list[Any], list[Output], dict[str, int]]:
    """Do everything a room can do, sleeps included, and return what came of it."""
    seen: list[Any] = []
    room = define_room("chat", on_disconnect=lambda ctx: seen.append((ctx.meta.channels, ctx.close_reason)))
    room.on_connect(lambda ctx: ctx.emit("welcome", {"to": ctx.meta.user_id}))

    @room.on("do")
    async def do(ctx: Any, data: Any) -> int:
        ctx.join("b")
        ctx.actor.broadcast("default", {"type": "all", "data": data}, except_=ctx.ws)
        ctx.to_channel("b").emit("nobody")
        ctx.actor.emit_to_user(ctx.meta.user_id, "me", "ü")
        await ctx.drain()
        return ctx.actor.get_session_count()  # type: ignore[no-any-return]  # ctx is Any

    room.on("kick")(lambda ctx, data: ctx.actor.close_user("user of c2", 4000, "off") and None)
    host = await start(room)
    gateway = FakeGateway(host, coded=coded)
    gateway.put(*(gateway.connect(room, f"c{n}") for n in range(3)))
    gateway.put(gateway.frame("c1", '{"x":[1,null,"\\u0000"]}', event="do", request=1))
    await until(lambda: gateway.processed.get("chat/a") == 4)
    await _sleep(host)
    gateway.put(gateway.frame("c0", "1e999", event="do"), gateway.frame("c0", "{}", event="do", request=3))
    await until(lambda: gateway.processed["chat/a"] == 6)
    await _sleep(host)
    gateway.put(gateway.frame("c0", "{}", event="kick"), gateway.close("c2"), gateway.close("c1"), gateway.close("c0"))
    await until(lambda: gateway.processed["chat/a"] == 10)
    # Tokens of drains are never used twice in a process.
    return seen, [output for output in gateway.outputs if not isinstance(output, Drain)], gateway.processed


async def test_a_link_that_encodes_and_decodes_every_message_changes_nothing(start: Start) -> None:
    plain, coded = await _journey(start, False), await _journey(start, True)
    assert coded == plain
    seen, outputs, _ = plain
    assert seen == [(("default",), "bye"), (("default", "b"), "bye"), (("default", "b"), "bye")]
    assert Kick("c2", 4000, "off") in outputs
    assert Invalid("c0") in outputs


async def test_a_room_that_is_far_ahead_of_a_gateway_handles_nothing_more_until_that_has_caught_up(
    start: Start,
) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "a"), gateway.connect(recorder.room, "b", room="chat/b"))
    await until(lambda: len(gateway.processed) == 2)
    host.flow.sent("g2", 1, [EntryBatch([Entry("chat/a", outputs=[Deliver(("x",), bytes(ROOM_AHEAD))])])])
    gateway.put(gateway.frame("a", 1), gateway.frame("a", 2))
    gateway.put(gateway.frame("b", 3, room="chat/b"))
    await until(lambda: recorder.numbers == [3])
    assert list(host.sleeping.retire_idle()) == [], "it has something to do"
    host.flow.confirmed("g2", 1)
    await until(lambda: recorder.numbers == [3, 1, 2])


async def test_a_room_that_waits_for_a_gateway_can_be_torn_down(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "a"))
    await until(lambda: "chat/a" in gateway.processed)
    host.flow.sent("g2", 1, [EntryBatch([Entry("chat/a", outputs=[Deliver(("x",), bytes(ROOM_AHEAD))])])])
    gateway.put(gateway.frame("a", 1))
    await until(lambda: host.flow._held)
    await host.stop(0.01)
    assert (host.rooms(), recorder.numbers) == ({}, [])
    assert host.flow._held == {}


class Noted(ConnectionMeta, kw_only=True):
    note: str = ""


async def test_what_a_hook_commits_leaves_in_one_entry_however_long_it_is(start: Start) -> None:
    room = define_room("chat", meta=Noted)
    count = 2 * MAX_PENDING // 10_000

    @room.on("all")
    def mark_all(ctx: Context[Any, Any], data: Any) -> None:
        for session in ctx.actor.sessions.values():
            session.update(note="x" * 10_000)

    host = await start(room)
    gateway = FakeGateway(host)
    for number in range(count):
        meta = Noted(user_id=f"u{number}", client_id=f"c{number}")
        gateway.put(gateway.connect(room, f"c{number}", meta=meta))
    await until(lambda: gateway.processed.get("chat/a") == count)
    gateway.put(gateway.frame("c0", 0, event="all"))
    await until(lambda: gateway.processed["chat/a"] == count + 1)
    sizes = [len([each for each in entry.attachments if isinstance(each, Attach)]) for entry in gateway.entries]
    assert [size for size in sizes if size] == [count]
