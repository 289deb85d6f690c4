"""Processes of every kind are killed and stopped at random, under load: nobody misses anything without being closed.

Rooms that are busy and rooms that sleep between two words, with clients at two gateways. Every word is numbered by the
connection that says it, and everybody writes down what they hear; what is written down is judged at the end. The seed
is random, and named where the test fails: `VERANI_CHAOS_SEED` repeats it, `VERANI_CHAOS_SECONDS` makes it longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest

from benchmarks.cluster import Cluster
from benchmarks.marked import Marked, marked
from verani_actors.upkeep.runtime import Runtime

SECONDS: Final = float(os.environ.get("VERANI_CHAOS_SECONDS", "12"))
SEED: Final = int(os.environ.get("VERANI_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)

LEASE: Final = 1.0
OPTIONS: Final = ("--lease", str(LEASE), "--drain-seconds", "5", "--hook-blocked", "20")
ROOMS: Final = {"busy0": 0.05, "busy1": 0.05, "busy2": 0.05, "drowsy0": 2.0, "drowsy1": 3.0, "drowsy2": 4.0}
CLIENTS_PER_ROOM: Final = 4

# When the service is whole again after the last fault; nothing waits this long when all is well.
PATIENCE: Final = 60.0

# Beyond the lease within which a process that stands still is noticed: what a loaded machine adds to that.
NOTICED: Final = LEASE + 2.0
# What a word may take beyond that.
SERVED: Final = 5.0

_decode: Final = msgspec.json.Decoder().decode


class Connection:
    """One WebSocket of a client, and all it has heard; `audience` had been answered in the room before it came."""

    def __init__(self, name: str, room: str, ws: aiohttp.ClientWebSocketResponse, audience: set[str]) -> None:
        self.name = name
        self.room = room
        self.ws = ws
        self.audience = audience
        self.said = 0
        self.answered = 0
        # Since when a word waits for its answer.
        self.waits_since = 0.0
        self.closed = False
        self.refusals: list[Any] = []
        # Of each connection of the room, the numbers that were heard.
        self.heard: defaultdict[str, list[int]] = defaultdict(list)
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.ws:
            frame = _decode(message.data)
            if frame["type"] == "ack":
                self.answered, self.waits_since = frame["id"], time.monotonic()
                if "error" in frame:
                    self.refusals.append(frame)
            elif frame["type"] == "event":
                self.heard[frame["data"]["by"]].append(frame["data"]["number"])
        self.closed = True

    async def say(self) -> None:
        if self.is_settled:
            self.waits_since = time.monotonic()
        self.said += 1
        word = {"type": "say", "data": {"by": self.name, "number": self.said}, "id": self.said}
        with suppress(ConnectionError):  # it has just been closed
            await self.ws.send_json(word)

    @property
    def is_settled(self) -> bool:
        """Whether all that was said was answered, or is lost with the connection."""
        return self.closed or self.answered == self.said


class Crowd:
    """Clients that talk in their rooms all the time, and come back whenever their connection is gone."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self.connections: list[Connection] = []
        self.refusals: list[str] = []
        self._url = url
        self._chance = chance

    async def talk(self, session: aiohttp.ClientSession, room: str, name: str) -> None:
        connection: Connection | None = None
        for number in count():
            while connection is None or connection.closed:
                connection = await self._connect(session, room, f"{name}.{number}")
                await self._pause(0.05)
            await connection.say()
            await self._pause(ROOMS[room])

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._chance.uniform(0.5, 1.5))

    async def _connect(self, session: aiohttp.ClientSession, room: str, name: str) -> Connection | None:
        audience = {each.name for each in self.connections if each.room == room and each.answered and not each.closed}
        try:
            async with asyncio.timeout(3):  # whoever has it may stand still
                ws = await session.ws_connect(f"{self._url}?room={room}&userId={name}")
        except aiohttp.WSServerHandshakeError as error:
            self.refusals.append(f"{name} was refused with {error.status}")
        except (aiohttp.ClientError, TimeoutError):
            pass  # its gateway has just been killed
        else:
            self.connections.append(Connection(name, room, ws, audience))
            return self.connections[-1]
        return None

    @property
    def is_settled(self) -> bool:
        """Whether nobody waits for an answer."""
        return all(each.is_settled for each in self.connections)

    def judge(self) -> list[str]:
        """Return all that no fault may ever cause.

        What a connection says is passed on in its order, up to some number. Who was there has heard it once and without
        a gap, and up to that number unless they were closed.
        """
        wrong = list(self.refusals)
        furthest: defaultdict[str, int] = defaultdict(int)
        for each in self.connections:
            for by, numbers in each.heard.items():
                furthest[by] = max(furthest[by], *numbers)
        speakers = {each.name: each for each in self.connections}
        for each in self.connections:
            there = {speaker.name for speaker in speakers.values() if each.name in speaker.audience and not each.closed}
            for by in there | set(each.heard):
                known = set(heard := each.heard.get(by, []))
                if heard != sorted(known):
                    wrong.append(f"{each.name} heard {by} say {heard}")
                first = 1 if each.name in speakers[by].audience else min(known)
                last = max(known) if each.closed else furthest[by]
                if missing := sorted(set(range(first, last + 1)) - known):
                    wrong.append(f"{each.name} missed {missing} of {by}, of which there were {furthest[by]}")
            own = each.heard.get(each.name, [])
            if own[:1] not in ([], [1]):
                wrong.append(f"{each.name} heard itself begin with {own[0]}")
            if each.refusals or not each.is_settled:
                wrong.append(f"{each.name} got {each.answered} answers to {each.said} words, and {each.refusals}")
        return wrong


class Standing:
    """A process that was stopped."""

    def __init__(self, kind: str, pid: int) -> None:
        self.kind = kind
        self.pid = pid
        self.since = time.monotonic()

    @property
    def stands(self) -> bool:
        """Whether it is stopped still, and not being killed."""
        return b"State:\tT" in _read(self.pid, "status")

    def takes_connections(self, supervisor: int) -> bool:
        """Whether its event loop watches a socket of the supervisor's, as that of a gateway does that has begun."""
        shared = _sockets(supervisor)
        return any(
            str(int(watched, 16)) in shared
            for each in _descriptors(self.pid)
            for watched in re.findall(rb"^tfd:.* ino:(\w+)", _read(self.pid, f"fdinfo/{each.name}"), re.MULTILINE)
        )


class Chaos:
    """What is done to the processes of a service."""

    def __init__(self, cluster: Cluster, processes: Marked, chance: random.Random) -> None:
        self.done: list[str] = []
        self.standing: list[Standing] = []
        self._cluster = cluster
        self._processes = processes
        self._chance = chance
        (gateway, *_) = self._children(cluster.process.pid, b"\0gateway\0")
        self.runtime = Runtime(_read(gateway, "cmdline").split(b"\0gateway\0")[1].split(b"\0")[0].decode())

    async def go_on(self, seconds: float) -> None:
        """Do harm for so long, and often enough on a slow machine; then let everything that stands go on."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as stopping:
            while time.monotonic() < end or len(self.done) < seconds / 3:
                kind = self._chance.choice(["host", "gateway", "launcher", "admin", "registrar"])
                kills, duration = self._chance.random() < 0.5, self._chance.uniform(0.1, 4.0)
                if victims := sorted(self._find(kind)):
                    victim = victims[self._chance.randrange(len(victims))]
                    self.done.append(f"{'kill' if kills else f'stop for {duration:.1f} s'} {kind} {victim}")
                    if kills:
                        _signal(victim, signal.SIGKILL)
                    else:
                        stopping.create_task(self._stop(kind, victim, duration))
                await asyncio.sleep(self._chance.uniform(0.2, 2.0))

    async def _stop(self, kind: str, pid: int, seconds: float) -> None:
        _signal(pid, signal.SIGSTOP)
        self.standing.append(Standing(kind, pid))
        await asyncio.sleep(seconds)
        self.standing = [each for each in self.standing if each.pid != pid]
        _signal(pid, signal.SIGCONT)

    def members(self) -> set[int]:
        """Read the hosts of the published epoch."""
        with suppress(OSError, msgspec.MsgspecError):
            return {member.pid for member in self.runtime.read_epoch().members}
        return set()

    def _find(self, kind: str) -> list[int]:
        supervisor, members = self._cluster.process.pid, self.members()
        launchers = self._children(supervisor, b"verani_actors.processes.launcher")
        admins = [pid for launcher in launchers for pid in self._children(launcher)]
        parts = [pid for admin in admins for pid in self._children(admin)]
        match kind:
            case "host":
                return [pid for pid in parts if pid in members]
            case "gateway":
                return self._children(supervisor, b"\0gateway\0")
            case "launcher":
                return launchers
            case "admin":
                return admins
            case _:
                # The oldest is Thespian's logger.
                return [pid for pid in parts if pid not in members][1:2]

    def _children(self, parent: int, word: bytes = b"") -> list[int]:
        line = f"PPid:\t{parent}\n".encode()
        return [pid for pid in self._processes.pids() if line in _read(pid, "status") and word in _read(pid, "cmdline")]


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def _sockets(pid: int) -> set[str]:
    """Find the inodes of the sockets that a process has."""
    found = set()
    for each in _descriptors(pid):
        with suppress(OSError):
            found.update(re.findall(r"^socket:\[(\d+)\]$", str(each.readlink())))
    return found


class Watch:
    """Asks all the time whether the service is ready, and writes down whatever that should not have been said of."""

    def __init__(self, cluster: Cluster, chaos: Chaos, crowd: Crowd) -> None:
        self.wrong: list[str] = []
        self.answers = {200: 0, 503: 0}
        # When it last was not so.
        self._ready_since = time.monotonic()
        self._cluster = cluster
        self._chaos = chaos
        self._crowd = crowd

    async def run(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(0.05)

    async def ask(self) -> bool:
        """Ask once, on a connection of its own: whichever gateway takes it answers."""
        asked, before = time.monotonic(), self._unserved()
        timeout = aiohttp.ClientTimeout(total=1)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self._cluster.internal}/ready") as response,
            ):
                status = response.status
        except (aiohttp.ClientError, TimeoutError):
            return False
        self.answers[status] += 1
        if status != 200:
            self._ready_since = time.monotonic()
            return False
        unserved = before & self._unserved()
        self.wrong += [f"ready, though {each} has stood still for {NOTICED:g} s" for each in unserved]
        for each in self._crowd.connections:
            if not each.is_settled and asked - max(each.waits_since, self._ready_since) > NOTICED + SERVED:
                self.wrong.append(f"ready for {NOTICED + SERVED:g} s, and as long has {each.name} waited")
        return True

    def _unserved(self) -> set[str]:
        """Find processes that have stood still for longer than may go unnoticed, and that clients may depend on.

        Nobody depends on a gateway that was stopped before it took connections: the others have them all.
        """
        members, supervisor = self._chaos.members(), self._cluster.process.pid
        return {
            f"{each.kind} {each.pid}"
            for each in self._chaos.standing
            if time.monotonic() - each.since > NOTICED
            and each.stands
            and (
                (each.kind == "gateway" and each.takes_connections(supervisor))
                or (each.kind == "host" and each.pid in members)
            )
        }


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # in other processes
            await asyncio.sleep(0.2)


@pytest.mark.timeout(SECONDS + 4 * PATIENCE)
async def test_nobody_misses_anything_without_being_closed_whatever_is_killed_or_stopped() -> None:
    chance = random.Random(SEED)
    with marked() as processes:
        async with Cluster.serve("tests.integration.chaos_room:chaos", *OPTIONS, hosts=2, gateways=2) as cluster:
            await cluster.members(2)
            crowd, chaos = Crowd(cluster.ws, chance), Chaos(cluster, processes, chance)
            watch = Watch(cluster, chaos, crowd)
            try:
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                    talking = [
                        asyncio.create_task(crowd.talk(session, room, f"{room}.{number}"))
                        for room in ROOMS
                        for number in range(CLIENTS_PER_ROOM)
                    ]
                    watching = asyncio.create_task(watch.run())
                    await until(lambda: len({each.room for each in crowd.connections if each.answered}) == len(ROOMS))
                    await chaos.go_on(SECONDS)
                    for task in talking:
                        task.cancel()
                    await asyncio.gather(*talking, return_exceptions=True)
                    with suppress(TimeoutError):
                        await until(lambda: crowd.is_settled and not crowd.judge())
                    assert not (wrong := crowd.judge()), "\n".join(wrong)
                    await cluster.members(2)
                    async with asyncio.timeout(PATIENCE):
                        while not await watch.ask():  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
                    watching.cancel()
                    assert not watch.wrong, "\n".join(watch.wrong)
                    for each in crowd.connections:
                        await each.ws.close()
            except BaseException:
                print(f"VERANI_CHAOS_SEED={SEED}", *chaos.done, *cluster.lines, sep="\n")  # noqa: T201
                raise
        assert processes.pids() == []
    assert cluster.process.returncode == 0
    print(len(chaos.done), "faults,", len(crowd.connections), "connections, ready:", watch.answers)  # noqa: T201
