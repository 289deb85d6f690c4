"""Kills, sleeps and slow gateways at once, over hundreds of connections: each accepted frame is handled once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from thespian.actors import ActorExitRequest

from tests.actors.conftest import FakeGateway
from tests.virtual_time import VirtualTimeLoop
from verani.errors import HookInterrupted
from verani.link.messages import FrameInput, Snapshot
from verani.room import handlers
from verani.room.definition import define_room
from verani.room.meta import ConnectionMeta
from verani.settings import Settings
from verani_actors.rooms.host import RoomHost

ROOMS = [f"chat/{n}" for n in range(12)]
CONNECTIONS = 360
FRAMES = 4000


class Counted(ConnectionMeta, kw_only=True):
    """Counts its frames, so that a lost commit shows."""

    handled: int = 0


class SlowGateway(FakeGateway):
    """Answers some pulls late, a chunk at a time."""

    def __init__(self, host: RoomHost, chance: random.Random, *, id: str, coded: bool) -> None:
        self.chance = chance
        self.late: list[Snapshot] = []
        self.slow_answers = 0
        super().__init__(host, id=id, coded=coded)

    def answer(self, pull: Any) -> None:
        if self.chance.random() < 0.3:
            self.late += self.chunks(pull)
            self.slow_answers += 1
        else:
            super().answer(pull)

    def say_some(self, count: int) -> None:
        now, self.late = self.late[:count], self.late[count:]
        for chunk in now:
            self.say(chunk)


class Storm:
    """The rooms, who is in them and what became of their frames."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.begun: list[tuple[str, int]] = []
        self.ended: list[tuple[str, int]] = []
        # Ended or interrupted, in the order of the room.
        self.settled: list[tuple[str, int]] = []
        self.connected = Counter[str]()
        self.gone = Counter[str]()
        self.metas: dict[str, int] = {}
        self.kills = self.cut = self.sleeps = 0
        self.room = define_room("chat", meta=Counted, hibernate_after=5.0)
        self.room.on("n")(self._n)
        self.room.on_error(self._interrupted)
        self.room.on_connect(lambda ctx: self.connected.update([ctx.ws.id]))
        self.room.on_disconnect(self._disconnected)
        self.room.on_hibernate(self._hibernates)

    async def _n(self, ctx: Any, data: int) -> None:
        connection = ctx.ws.id
        self.begun.append((connection, data))
        ctx.meta.handled += 1
        if data % 2:
            ctx.emit("begun")
        for _ in range(self.chance.choice((0, 0, 0, 1, 2, 10))):
            await asyncio.sleep(0)
        self.ended.append((connection, data))
        self.settled.append((connection, data))

    def _interrupted(self, error: BaseException, ctx: Any) -> None:
        assert isinstance(error, HookInterrupted)
        assert ctx.frame.data % 2, "what has shown no effect runs again"
        self.settled.append((ctx.ws.id, ctx.frame.data))

    def _disconnected(self, ctx: Any) -> None:
        self.gone.update([ctx.ws.id])
        self.metas[ctx.ws.id] = ctx.meta.handled

    async def _hibernates(self, actor: Any) -> None:
        self.sleeps += 1
        for _ in range(self.chance.choice((0, 0, 3, 10))):
            await asyncio.sleep(0)

    async def run(self, loop: VirtualTimeLoop) -> None:
        limits = Settings(hook_timeout=1e9, hook_blocked=1e9)
        self.host = RoomHost([self.room], limits, clock=loop.time)
        await self.host.start()
        self.gateways = [SlowGateway(self.host, self.chance, id=f"g{n}", coded=n == 1) for n in range(3)]
        sent = await self._blow(loop)
        await self._calm(loop)
        self._check(sent)
        await self.host.stop(10.0)

    async def _blow(self, loop: VirtualTimeLoop) -> dict[str, list[int]]:
        """Send everything; return what each connection sent."""
        chance = self.chance
        self.open: dict[str, tuple[SlowGateway, str]] = {}
        sent: dict[str, list[int]] = {}
        todo = ["connect"] * CONNECTIONS + ["frame"] * FRAMES + ["close"] * (CONNECTIONS // 3)
        chance.shuffle(todo)
        for n, what in enumerate(todo):
            if what == "connect" or not self.open:
                gateway, room, id = chance.choice(self.gateways), chance.choice(ROOMS), f"c{n}"
                self.open[id], sent[id] = (gateway, room), []
                meta = Counted(user_id=id, client_id=id)
                gateway.put(gateway.connect(self.room, id, room=room, meta=meta))
                continue
            id = chance.choice(tuple(self.open))
            gateway, room = self.open[id]
            if what == "close":
                del self.open[id]
                gateway.put(gateway.close(id, room=room))
                continue
            numbers = list(range(n * 10, n * 10 + chance.choice((1, 1, 3))))
            sent[id] += numbers
            gateway.put(*(FrameInput(room, gateway.number(), id, "n", b"%d" % number) for number in numbers))
            await self._disturb(loop)
        return sent

    async def _disturb(self, loop: VirtualTimeLoop) -> None:
        """Let a little or a lot happen between two inputs."""
        chance = self.chance
        for _ in range(chance.choice((0, 0, 1, 2))):
            await asyncio.sleep(0)
        what = chance.random()
        if what < 0.05:
            self._kill(cut=chance.random() < 0.5)
        elif what < 0.08:
            for _ in range(30):
                await asyncio.sleep(0)
            loop.pass_time(6.0)  # those that are idle sleep
        elif what < 0.3:
            chance.choice(self.gateways).say_some(chance.randrange(1, 20))

    def _kill(self, *, cut: bool) -> None:
        """Kill a room actor: after the hook that runs, or in the midst of it."""
        alive = [room for room in self.host.directory.rooms.values() if room.address is not None]
        busy = [room for room in alive if room.engine is not None and room.engine.busy == "running hook"]
        if cut and busy:
            room, base = self.chance.choice(busy), self.host.actors.base
            assert base is not None
            assert room.address is not None
            assert room.engine is not None
            room.engine.end()  # a dead hook does nothing more
            base.kill(room.address)
            self.host.run()  # the host learns of it before anything else can happen
            self.cut += 1
        elif alive:
            room = self.chance.choice(alive)
            assert room.address is not None
            self.host.actors.tell(room.address, ActorExitRequest())
            self.kills += 1

    async def _calm(self, loop: VirtualTimeLoop) -> None:
        """Answer all, let everybody leave and every room sleep."""
        for id, (gateway, room) in self.open.items():
            gateway.put(gateway.close(id, room=room))
        for _ in range(200):
            for gateway in self.gateways:
                gateway.say_some(len(gateway.late))
            for _ in range(50):
                await asyncio.sleep(0)
            loop.pass_time(6.0)
            if not self.host.rooms() and not any(gateway.unprocessed for gateway in self.gateways):
                break

    def _check(self, sent: dict[str, list[int]]) -> None:
        host = self.host
        assert (host.rooms(), host.known_rooms(), host.entries.pending, host.entries.working) == ({}, [], {}, 0)
        assert +host.directory.counts == {}
        assert not host._succession._by_address
        assert not host.sleeping._idle._timeouts
        for gateway in self.gateways:
            assert gateway.unprocessed == []
            assert not any(gateway.held.values()), "every record ends"
        settled: dict[str, list[int]] = {id: [] for id in sent}
        for id, number in self.settled:
            settled[id].append(number)
        assert settled == sent, "no frame is lost, none is handled twice, and each connection's are in order"
        assert len(self.begun) - len(self.ended) <= self.cut, "only those killed in the midst did not end"
        assert set(self.connected) == set(self.gone) == set(sent)
        assert {*self.connected.values(), *self.gone.values()} == {1}
        ended = Counter(id for id, _ in self.ended)
        assert self.metas == {id: ended[id] for id in sent}, "what a hook changed is kept if and only if it ended"


@pytest.mark.parametrize("in_tasks", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_storm_loses_doubles_and_leaves_nothing(seed: int, in_tasks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_tasks:
        monkeypatch.setattr(handlers, "is_async", lambda function: True)
    loop = VirtualTimeLoop()
    storm = Storm(seed)
    try:
        loop.run_until_complete(storm.run(loop))
    finally:
        loop.close()
    assert storm.kills > 20
    assert storm.cut > 20
    assert storm.sleeps > 20
    assert sum(gateway.slow_answers for gateway in storm.gateways) > 20
