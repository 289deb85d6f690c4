"""Which rooms sleep and when, what wakes them, and what an operator is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.actors.conftest import FakeGateway, Recorder, Start
from tests.raw import until
from verani.link.messages import Connect, Ended, FrameInput, HostMessage, Kick, Record, Snapshot
from verani.link.shorthand import Longhand, Shorthand
from verani.room.definition import define_room
from verani.room.meta import ConnectionMeta
from verani_actors.rooms.host import RoomHost


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- which rooms sleep ---------------------------------------------------------------------------------------


async def test_above_the_cap_the_rooms_idle_for_the_longest_time_sleep(start: Start) -> None:
    recorder, clock = Recorder(), Clock()
    host = await start(recorder.room, clock=clock, max_awake_rooms=2, min_awake=0.5, hibernate_after=60)
    gateway = FakeGateway(host)
    for n in range(5):
        gateway.put(gateway.connect(recorder.room, f"c{n}", room=f"chat/{n}"))
        await until(lambda n=n: f"chat/{n}" in gateway.processed)  # type: ignore[misc]
        clock.now += 0.001
    gateway.put(gateway.frame("c0", 1, room="chat/0"))
    await until(lambda: recorder.numbers == [1])
    assert len(host.rooms()) == 5, "none is older than min_awake"
    clock.now += 1
    await until(lambda: len(host.rooms()) == 2)
    assert set(host.rooms()) == {"chat/0", "chat/4"}


async def test_the_cap_is_soft_and_spares_rooms_that_are_busy_or_never_sleep(start: Start) -> None:
    clock, gate = Clock(), asyncio.Event()
    busy, never = define_room("busy"), define_room("never", hibernate_after=None)

    @busy.on("n")
    async def work(ctx: Any, data: Any) -> None:
        await gate.wait()

    host = await start(busy, never, clock=clock, max_awake_rooms=1, min_awake=0.5, hibernate_after=60)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(busy, "b", room="busy/a"), gateway.frame("b", 1, room="busy/a"))
    gateway.put(gateway.connect(never, "n", room="never/a"))
    await until(lambda: "never/a" in gateway.processed and "busy/a" in gateway.processed)
    clock.now += 20
    assert list(host.sleeping.retire_idle()) == []
    assert set(host.rooms()) == {"busy/a", "never/a"}
    gate.set()
    await until(lambda: set(host.rooms()) == {"never/a"})


async def test_rooms_that_take_their_time_to_fall_asleep_count_as_gone_so_no_others_are_taken(start: Start) -> None:
    clock, gate = Clock(), asyncio.Event()

    async def on_hibernate(actor: Any) -> None:
        await gate.wait()

    recorder = Recorder(on_hibernate=on_hibernate)
    host = await start(recorder.room, clock=clock, max_awake_rooms=3, min_awake=0.5, hibernate_after=60)
    gateway = FakeGateway(host)
    for n in range(5):
        gateway.put(gateway.connect(recorder.room, f"c{n}", room=f"chat/{n}"))
    await until(lambda: len(gateway.processed) == 5)
    clock.now += 1
    await until(lambda: [*host.rooms().values()].count("retiring") == 2)
    for _ in range(3):  # what the manager does at each of its turns
        assert list(host.sleeping.retire_idle()) == []
    gate.set()
    await until(lambda: len(host.rooms()) == 3)
    assert set(host.rooms().values()) == {"awake"}


async def test_a_definition_may_keep_its_rooms_awake_for_longer(start: Start) -> None:
    recorder, clock = Recorder(min_awake=30), Clock()
    host = await start(recorder.room, clock=clock, max_awake_rooms=1, min_awake=0.5, hibernate_after=600)
    gateway = FakeGateway(host)
    for n in range(2):
        gateway.put(gateway.connect(recorder.room, f"c{n}", room=f"chat/{n}"))
    await until(lambda: len(gateway.processed) == 2)
    clock.now += 29
    assert list(host.sleeping.retire_idle()) == []
    assert len(host.rooms()) == 2
    clock.now += 2
    await until(lambda: len(host.rooms()) == 1)


async def test_a_room_that_wants_to_sleep_sleeps_at_once_even_if_it_never_would(start: Start) -> None:
    recorder = Recorder(hibernate_after=None)
    recorder.room.on("sleep")(lambda ctx, data: ctx.actor.hibernate())
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="sleep"), gateway.frame("c", 1))
    await until(lambda: not host.rooms())
    assert recorder.seen == [("connect", 1), 1], "what waits is handled first"


async def test_a_room_that_keeps_itself_awake_does_not_sleep_until_then(start: Start) -> None:
    recorder, clock = Recorder(), Clock()
    recorder.room.on("stay")(lambda ctx, data: ctx.actor.keep_awake(30))
    host = await start(recorder.room, clock=clock, hibernate_after=0.1)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="stay"))
    await until(lambda: gateway.processed.get("chat/a") == 2)
    clock.now += 29
    assert list(host.sleeping.retire_idle()) == []
    status = host.status("chat/a", 1)
    assert status is not None
    assert (status.state, status.kept_awake_by) == ("awake", "keep_awake")
    clock.now += 2
    await until(lambda: not host.sleeping._idle.due(clock.now - 0.1) or not host.rooms())
    clock.now += 1
    await until(lambda: not host.rooms())


async def test_what_comes_while_a_room_is_asked_to_sleep_and_stays_is_delivered_in_order(start: Start) -> None:
    recorder, gate = Recorder(hibernate_after=None), asyncio.Event()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    engine = host.directory.rooms["chat/a"].engine
    assert engine is not None
    engine.actor.hibernate()
    assert len(list(host.sleeping.retire_idle())) == 1
    assert host.rooms() == {"chat/a": "retiring"}
    task = engine.actor.spawn(_until(gate))  # it has begun something since
    gateway.put(gateway.frame("c", 1), gateway.frame("c", 2))
    assert recorder.numbers == []
    host.sleeping.stayed("chat/a")  # what its answer leads to
    gateway.put(gateway.frame("c", 3))
    await until(lambda: recorder.numbers == [1, 2, 3])
    assert host.rooms() == {"chat/a": "awake"}
    gate.set()
    await task
    await until(lambda: not host.rooms())


async def _until(gate: asyncio.Event) -> None:
    await gate.wait()


async def test_a_stop_forgets_the_rooms_that_wait_for_a_gateway(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.answers = False
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: gateway.pulls)
    await host.stop(0.01)
    assert host.rooms() == {}


# --- several gateways ----------------------------------------------------------------------------------------


async def test_a_wake_waits_for_every_gateway_so_that_nobody_misses_what_others_are_sent(start: Start) -> None:
    now = [100.0]
    recorder = Recorder(hibernate_after=None)
    recorder.room.on("sleep")(lambda ctx, data: ctx.actor.hibernate())
    recorder.room.on("all")(lambda ctx, data: recorder.seen.append(ctx.actor.broadcast("default", "hi")))
    host = await start(recorder.room, clock=lambda: now[0])
    first, second = FakeGateway(host, id="g1"), FakeGateway(host, id="g2")
    first.put(first.connect(recorder.room, "a"))
    second.put(second.connect(recorder.room, "b"), second.frame("b", 0, event="sleep"))
    await until(lambda: not host.rooms())
    recorder.seen.clear()
    second.answers = False
    first.put(first.frame("a", 1), first.frame("a", 0, event="all"))
    await until(lambda: len(second.pulls) == 2)
    now[0] += 3600.0
    await until(lambda: list(host.sleeping.retire_idle()) == [])
    assert (host.rooms(), recorder.seen) == ({"chat/a": "waking"}, [])
    assert (host.longest_wait("g1"), host.longest_wait("g2")) == (0.0, 3600.0)
    second.answer(second.pulls[-1])
    await until(lambda: recorder.seen == [("restore", 2, "frame"), 1, 2])
    assert host.longest_wait("g2") == 0.0
    assert [b"hi" in text for text in second.texts()] == [True]


async def test_a_gateway_that_is_given_up_while_a_room_waits_for_it_is_told_that_the_room_went_on(start: Start) -> None:
    recorder = Recorder(hibernate_after=None)
    recorder.room.on("sleep")(lambda ctx, data: ctx.actor.hibernate())
    host = await start(recorder.room)
    first, second = FakeGateway(host, id="g1"), FakeGateway(host, id="g2")
    second.put(second.connect(recorder.room, "b"), second.connect(recorder.room, "c"))
    second.put(second.frame("b", 0, event="sleep"))
    await until(lambda: not host.rooms())
    second.answers = False
    first.put(first.connect(recorder.room, "a"))
    await until(lambda: len(second.pulls) == 2)
    pull = second.pulls[-1]
    second.say(Snapshot(pull.room, pull.incarnation, second.records()[:1], last=False))
    assert host.unlink("g2") == ["chat/a"]
    await until(lambda: recorder.seen[-1] == ("connect", 1))


async def test_a_gateway_that_links_while_a_room_falls_asleep_and_stays_is_asked_too(start: Start) -> None:
    recorder = Recorder(hibernate_after=None)
    host = await start(recorder.room)
    first = FakeGateway(host, id="g1")
    first.put(first.connect(recorder.room, "a"))
    await until(lambda: "chat/a" in first.processed)
    engine = host.directory.rooms["chat/a"].engine
    assert engine is not None
    engine.actor.hibernate()
    assert len(list(host.sleeping.retire_idle())) == 1
    second = FakeGateway(host, id="g2")
    assert [pull.room for pull in second.pulls] == ["chat/a"]
    host.sleeping.stayed("chat/a")
    engine.actor.keep_awake(60)
    second.put(second.connect(recorder.room, "b"), second.frame("b", 1))
    await until(lambda: recorder.numbers == [1])


async def test_a_client_that_came_back_elsewhere_is_not_there_twice_when_its_old_records_come(start: Start) -> None:
    recorder = Recorder(hibernate_after=None)
    recorder.room.on("count")(lambda ctx, data: recorder.seen.append(ctx.actor.get_session_count()))
    host = await start(recorder.room)
    first = FakeGateway(host, id="g1")
    first.put(Connect("chat/a", first.number(), "new", first.connect(recorder.room, "b").attachment))
    await until(lambda: "chat/a" in first.processed)
    second = ReturningGateway(host, id="g2")
    await until(lambda: Kick("b", 4009, "another connection has this client id") in second.outputs)
    first.put(FrameInput("chat/a", first.number(), "new", "count"))
    await until(lambda: recorder.numbers == [1])


async def test_what_comes_after_the_stop_is_dropped_in_silence(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    await host.stop(1)
    gateway.put(gateway.close("c"))
    assert host.rooms() == {}
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_gateway_that_links_later_is_asked_for_its_records_of_awake_rooms(start: Start) -> None:
    recorder = Recorder(hibernate_after=None)
    host = await start(recorder.room)
    first = FakeGateway(host, id="g1")
    first.put(first.connect(recorder.room, "a"))
    await until(lambda: recorder.seen == [("connect", 1)])
    second = FakeGateway(host, id="g2")
    assert [pull.room for pull in second.pulls] == ["chat/a"]
    second.put(second.connect(recorder.room, "b"))
    await until(lambda: recorder.seen == [("connect", 1), ("connect", 2)])


class ReturningGateway(FakeGateway):
    """One that links again: it holds a connection from before."""

    def records(self, room: str = "chat/a") -> list[Record]:
        meta = ConnectionMeta(user_id="user of b", client_id="b")
        return [Record("b", define_room("chat").codec(16384).encode(meta))]


@pytest.mark.parametrize("has_actor", [False, True])
async def test_the_connections_of_a_gateway_that_links_while_a_room_wakes_are_there_when_it_opens(
    start: Start, has_actor: bool
) -> None:
    recorder = Recorder(hibernate_after=None)
    host = await start(recorder.room)
    first = FakeGateway(host, id="g1")
    first.answers = False
    first.put(first.connect(recorder.room, "a"))
    if has_actor:
        await until(lambda: first.pulls)
    assert host.rooms() == {"chat/a": "waking"}
    second = ReturningGateway(host, id="g2")
    second.put(second.frame("b", 1))
    await until(lambda: first.pulls and second.pulls)
    first.answer(first.pulls[0])
    await until(lambda: recorder.numbers == [1])
    assert set(recorder.seen) == {("restore", 1, "connect"), ("connect", 2), 1}
    assert recorder.seen[0] == ("restore", 1, "connect")


async def test_a_late_gateway_that_answers_while_the_room_falls_asleep_loses_nothing(start: Start) -> None:
    recorder = Recorder(hibernate_after=None)
    retiring, goes_on = asyncio.Event(), asyncio.Event()
    recorder.room.on("sleep")(lambda ctx, data: ctx.actor.hibernate())

    @recorder.room.on_hibernate
    async def on_hibernate(actor: Any) -> None:
        retiring.set()
        await goes_on.wait()

    host = await start(recorder.room)
    first = FakeGateway(host, id="g1")
    first.put(first.connect(recorder.room, "a"))
    await until(lambda: "chat/a" in first.processed)
    second = ReturningGateway(host, id="g2", answers=False)
    first.put(first.frame("a", 0, event="sleep"))
    await retiring.wait()
    second.put(second.frame("b", 1))
    second.answers = True
    second.answer(second.pulls[-1])
    goes_on.set()
    await until(lambda: 1 in recorder.seen)
    assert recorder.seen[-2:] == [("restore", 2, "frame"), 1]


# --- what an operator is told --------------------------------------------------------------------------------


async def test_a_status_says_since_when_why_and_how_often(start: Start) -> None:
    recorder, clock = Recorder(), Clock()
    recorder.room.on("sleep")(lambda ctx, data: ctx.actor.hibernate())
    host = await start(recorder.room, clock=clock, hibernate_after=600)
    gateway = FakeGateway(host)
    assert host.status("chat/a", 0) is None
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    clock.now += 5
    awake = host.status("chat/a", 1)
    assert awake is not None
    assert (awake.state, awake.state_seconds, awake.kept_awake_by) == ("awake", 5.0, "recent activity")
    assert (awake.woken_by, awake.wake_seconds, awake.cycles, awake.awake_seconds) == ("connect", 0.0, 0, 5.0)
    gateway.put(gateway.frame("c", 0, event="sleep"))
    await until(lambda: not host.rooms())
    clock.now += 7
    asleep = host.status("chat/a", 1)
    assert asleep is not None
    assert (asleep.state, asleep.state_seconds, asleep.kept_awake_by) == ("asleep", 7.0, None)
    assert (asleep.cycles, asleep.awake_seconds) == (1, 5.0)
    gateway.put(gateway.frame("c", 1))
    await until(lambda: recorder.numbers == [1])
    clock.now += 1
    again = host.status("chat/a", 1)
    assert again is not None
    assert (again.woken_by, again.cycles, again.awake_seconds) == ("frame", 1, 6.0)


async def test_a_status_tells_how_long_the_last_wake_took_and_nothing_while_one_goes_on(start: Start) -> None:
    recorder, clock = Recorder(), Clock()
    recorder.room.on("sleep")(lambda ctx, data: ctx.actor.hibernate())
    host = await start(recorder.room, clock=clock, hibernate_after=600)
    gateway = FakeGateway(host)

    def told() -> tuple[str, float | None]:
        status = host.status("chat/a", 1)
        assert status is not None
        return status.state, status.wake_seconds

    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="sleep"))
    await until(lambda: not host.rooms())
    assert told() == ("asleep", 0.0)
    gateway.answers = False
    gateway.put(gateway.frame("c", 1))
    await until(lambda: len(gateway.pulls) == 2)
    assert told() == ("waking", None)
    clock.now += 1.5
    gateway.answer(gateway.pulls[-1])
    await until(lambda: recorder.numbers == [1])
    assert told() == ("awake", 1.5)


async def test_a_room_that_waits_for_the_close_of_its_last_connection_is_remembered_in_its_sleep(start: Start) -> None:
    recorder = Recorder(hibernate_after=0.01)
    recorder.room.on("leave")(lambda ctx, data: ctx.close(4000))
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.frame("c", 0, event="leave"))
    await until(lambda: gateway.processed.get("chat/a") == 2 and not host.rooms())
    status = host.status("chat/a", 1)
    assert status is not None
    assert (status.state, status.woken_by, status.cycles) == ("asleep", "connect", 1)
    gateway.put(gateway.close("c"))
    await until(lambda: ("disconnect", "user of c", 1000) in recorder.seen and not host.rooms())
    assert host.status("chat/a", 0) is None


async def test_a_room_without_connections_is_forgotten_when_it_sleeps(start: Start) -> None:
    recorder = Recorder(hibernate_after=0.01)
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"), gateway.close("c"))
    await until(lambda: "chat/a" in gateway.processed and not host.rooms())
    assert not host.known_rooms()


@pytest.mark.parametrize(("seconds", "error"), [(-1, ValueError), (float("nan"), ValueError)])
async def test_keep_awake_wants_a_number_of_seconds(start: Start, seconds: float, error: type[Exception]) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    engine = host.directory.rooms["chat/a"].engine
    assert engine is not None
    with pytest.raises(error):
        engine.actor.keep_awake(seconds)


class ListeningGateway(FakeGateway):
    """Keeps every message that the host sends, in order."""

    def __init__(self, host: RoomHost) -> None:
        self.messages: list[HostMessage] = []
        super().__init__(host)

    def _take(self, message: HostMessage) -> None:
        self.messages.append(message)
        super()._take(message)


async def test_links_learn_that_an_incarnation_is_over_after_all_it_said_and_so_they_forget_its_audiences(
    start: Start,
) -> None:
    recorder = Recorder(hibernate_after=None)
    recorder.room.on("sleep")(lambda ctx, data: ctx.actor.hibernate())
    recorder.room.on("all")(lambda ctx, data: ctx.actor.broadcast("default", "hi"))
    host = await start(recorder.room)
    gateway, silent = ListeningGateway(host), FakeGateway(host, id="g2")
    gateway.put(*(gateway.connect(recorder.room, f"c{number}") for number in range(10)))
    gateway.put(gateway.frame("c0", 0, event="all"), gateway.frame("c0", 0, event="sleep"))
    await until(lambda: Ended(["chat/a"]) in gateway.messages)
    assert gateway.messages[-1] == Ended(["chat/a"])
    assert gateway.entries[-1].asleep
    assert silent.entries == []
    shorthand, longhand = Shorthand(), Longhand()
    written = shorthand.write(gateway.messages[:-1])
    longhand.read(written)
    assert (shorthand.size, longhand.size) == (10, 10)
    longhand.read(shorthand.write(gateway.messages[-1:]))
    assert (shorthand.size, longhand.size) == (0, 0)
    # Also where nobody is left who could be told that the room sleeps.
    gateway.put(*(gateway.close(f"c{number}") for number in range(10)))
    gateway.messages.clear()
    await until(lambda: gateway.processed.get("chat/a", 0) >= gateway._number)
    gateway.put(gateway.call("get_session_count"))
    await until(lambda: gateway.replies)
    engine = host.directory.rooms["chat/a"].engine
    assert engine is not None
    engine.actor.hibernate()
    await until(lambda: gateway.messages[-1] == Ended(["chat/a"]))


async def test_rooms_fall_asleep_though_a_look_for_idle_ones_has_failed(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(hibernate_after=0.01)
    host = await start(recorder.room, min_awake=0.001)
    retire_idle, failures = host.sleeping.retire_idle, iter([RuntimeError("on purpose")] * 3)

    def failing() -> Any:
        if (error := next(failures, None)) is not None:
            raise error
        return retire_idle()

    monkeypatch.setattr(host.sleeping, "retire_idle", failing)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: host.directory.sleeps == 1)
    failed = [record.getMessage() for record in caplog.records if "could not handle" in record.getMessage()]
    assert failed == ["the hibernation manager could not handle WakeupMessage"] * 3


async def test_rooms_that_were_marked_before_a_look_failed_fall_asleep_all_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(hibernate_after=0.05)
    host = await start(recorder.room, min_awake=0.001)
    retire_idle = host.sleeping.retire_idle

    def failing() -> Any:
        for address in retire_idle():
            yield address
            raise RuntimeError("on purpose")

    monkeypatch.setattr(host.sleeping, "retire_idle", failing)
    gateway = FakeGateway(host)
    for n in range(5):
        gateway.put(gateway.connect(recorder.room, f"c{n}", f"chat/{n}"))
    await until(lambda: host.directory.sleeps == 5)
