"""What a host says of its rooms is true: what keeps them awake, since when, how often they slept."""

from __future__ import annotations

import asyncio
from typing import Any

from thespian.actors import ActorExitRequest

from tests.actors.conftest import FakeGateway, Recorder, Start
from tests.raw import until
from verani.link.messages import Record, Snapshot
from verani_actors.rooms.room_status import RoomStatus


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def known(status: RoomStatus | None) -> RoomStatus:
    assert status is not None
    return status


async def test_a_room_that_never_sleeps_says_so(start: Start) -> None:
    recorder, clock = Recorder(hibernate_after=None), Clock()
    host = await start(recorder.room, clock=clock)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    clock.now += 100_000
    assert known(host.status("chat/a", 1)).kept_awake_by == "hibernate_after never"


async def test_a_room_that_falls_asleep_is_retiring_since_it_was_asked(start: Start) -> None:
    free = asyncio.Event()
    recorder, clock = Recorder(), Clock()
    recorder.room.on_hibernate(lambda actor: free.wait())
    host = await start(recorder.room, clock=clock, hibernate_after=600)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    clock.now += 1000
    await until(lambda: known(host.status("chat/a", 1)).kept_awake_by == "running hook")
    clock.now += 2
    retiring = known(host.status("chat/a", 1))
    assert (retiring.state, retiring.state_seconds) == ("retiring", 2.0)
    assert (retiring.doing, retiring.doing_seconds) == ("on_hibernate", 2.0)
    free.set()
    await until(lambda: not host.rooms())
    assert (host.wakes, host.directory.sleeps, host.directory.sleeping_count) == (1, 1, 1)


async def test_a_room_that_is_kept_awake_says_by_which_hook_or_task_and_since_when(start: Start) -> None:
    free = {name: asyncio.Event() for name in ("say", "game", "clock")}
    recorder, clock = Recorder(), Clock()

    async def game() -> None:
        await free["game"].wait()

    async def ticks() -> None:
        await free["clock"].wait()

    @recorder.room.on("say")
    async def some_handler(ctx: Any, data: Any) -> None:
        ctx.actor.spawn(game())
        await free["say"].wait()
        ctx.actor.spawn(ticks())

    host = await start(recorder.room, clock=clock)
    gateway = FakeGateway(host)

    async def doing(name: str, seconds: float, reason: str) -> None:
        await until(lambda: (known(host.status("chat/a")).doing or "").endswith(name))
        clock.now += 2
        status = known(host.status("chat/a"))
        assert (status.doing_seconds, status.kept_awake_by) == (seconds, reason)

    gateway.put(gateway.connect(recorder.room, "c"))
    gateway.put(gateway.frame("c", 1, event="say"))
    await doing("say", 2.0, "running hook")
    free["say"].set()
    await doing("game and 1 more", 4.0, "spawned task")
    free["game"].set()
    await doing("ticks", 4.0, "spawned task")
    free["clock"].set()
    await until(lambda: known(host.status("chat/a")).doing is None)


async def test_an_actor_that_was_killed_has_not_slept(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    address = host.directory.rooms["chat/a"].address
    assert address is not None
    host.actors.tell(address, ActorExitRequest())
    await until(lambda: not host.rooms())
    assert (known(host.status("chat/a", 1)).cycles, host.directory.sleeps) == (0, 0)


async def test_rooms_above_the_cap_are_counted_as_long_as_they_cannot_sleep(start: Start) -> None:
    recorder = Recorder(min_awake=600)
    host = await start(recorder.room, max_awake_rooms=2, hibernate_after=600)
    gateway = FakeGateway(host)
    for number in range(5):
        gateway.put(gateway.connect(recorder.room, f"c{number}", room=f"chat/{number}"))
    await until(lambda: host.sleeping.excess == 3)


async def test_snapshots_that_nobody_asked_for_are_not_kept(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    room = host.directory.rooms["chat/a"]
    for _ in range(100):
        gateway.say(Snapshot("chat/a", room.pulled.incarnation, [Record("x", b"")]))
    assert not room.pulled.records


async def test_a_gateway_that_links_again_takes_nobody_away(start: Start) -> None:
    recorder = Recorder()
    host = await start(recorder.room)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed)
    host.link("g1", gateway._take)
    gateway.put(gateway.frame("c", 1))
    await until(lambda: recorder.numbers == [1])
    assert list(host.directory.rooms["chat/a"].engine.actor.sessions) == ["c"]  # type: ignore[union-attr]
    assert not gateway.outputs


async def test_a_wake_whose_restore_hook_was_abandoned_has_taken_its_time(start: Start) -> None:
    free = asyncio.Event()

    async def stubborn(actor: Any) -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    recorder = Recorder(hibernate_after=0.01)
    recorder.room.hooks.pop("on_hibernation_restore")
    recorder.room.on_hibernation_restore(stubborn)
    host = await start(recorder.room, hook_timeout=0.05)
    gateway = FakeGateway(host)
    gateway.put(gateway.connect(recorder.room, "c"))
    await until(lambda: "chat/a" in gateway.processed and not host.rooms())
    gateway.put(gateway.frame("c", 1))
    await until(lambda: recorder.numbers == [1])
    assert known(host.status("chat/a", 1)).wake_seconds is not None
    free.set()


async def test_a_sleeping_room_is_forgotten_with_the_last_gateway_that_has_connections_of_it(start: Start) -> None:
    recorder = Recorder(hibernate_after=0.01)
    host = await start(recorder.room, min_awake=0.001)
    first, second = FakeGateway(host, id="g1"), FakeGateway(host, id="g2")
    first.put(first.connect(recorder.room, "a"), first.connect(recorder.room, "b"))
    second.put(second.connect(recorder.room, "c"))
    await until(
        lambda: (
            host.directory.sleeping_count == 1
            and host.directory.sleeps > 0
            and known(host.status("chat/a")).connections == 3
        )
    )
    host.unlink("g1")
    assert known(host.status("chat/a")).connections == 1
    host.unlink("g2")
    assert (host.known_rooms(), host.directory.sleeping_count, host.status("chat/a")) == ([], 0, None)
