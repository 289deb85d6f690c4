"""What `docs/delivery.md` promises, clause by clause, with processes that are really killed.

What happens under load is shown by `test_failover.py`, what between machines by `test_machines.py`, and what hooks may
do to their host by `test_faults.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from benchmarks.cluster import Cluster
from tests.integration.browsers import _function_scoped_runner  # noqa: F401  # the loop of the service
from tests.raw import PATIENCE, until
from verani import CallFailed, Interrupted, RoomStub, connect
from verani import Service as Caller
from verani.client import VeraniClient

TARGET = "tests.integration.delivery_room:desk"
PROMISE = """\
No output of a room is doubled, and none is missing at a connection that stays open.
No accepted frame is lost, except one whose hook was interrupted after it visibly began, and then the application is
told.
Effects a hook had outside (a database) may repeat; calls to other rooms carry an idempotency key
(room, input number, call index) that the callee remembers while awake."""


class World:
    """A service of two hosts, who calls it, and one of its rooms with what its hooks wrote down."""

    def __init__(self, cluster: Cluster, caller: Caller, room: str, folder: Path) -> None:
        self.cluster = cluster
        self.caller = caller
        self.room = room
        self.folder = folder / room

    def notes(self) -> list[str]:
        file = self.folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    async def noted(self, line: str) -> None:
        await until(lambda: line in self.notes())

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    def stub(self, room: str = "") -> RoomStub:
        return self.caller.room("desk", room or self.room)

    async def host(self, room: str = "") -> int:
        """Ask in which process a room is; one whose hook waits would answer later."""
        return int(await self.stub(room).where())

    async def kill_host(self) -> None:
        """Kill the host of the room, whatever its hooks are at."""
        members = {member.id: member.pid for member in await self.cluster.members(2)}
        os.kill(members[await self._owner()], signal.SIGKILL)

    async def _owner(self) -> str:
        url = f"{self.cluster.internal}/admin/rooms/desk/{self.room}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return str((await response.json())["host"])

    async def client(self, user: str = "ann") -> VeraniClient:
        client = VeraniClient(f"{self.cluster.ws}?room={self.room}&userId={user}")
        await client.connect()
        return client


class Service:
    """What the tests share; each has a room of its own."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.rooms = 0

    async def whole(self) -> None:
        """Wait until there are both hosts and both gateways, and nobody is connected."""
        await self.cluster.members(2)
        async with asyncio.timeout(PATIENCE):
            while await self._connections() != [0, 0]:  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.02)

    async def _connections(self) -> list[int]:
        return [each.connections for each in (await self.cluster.status()).gateways]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    folder = tmp_path_factory.mktemp("rooms")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("DELIVERY_FOLDER", str(folder))
        async with Cluster.serve(TARGET, "--link-grace", "0.3", hosts=2, gateways=2) as cluster:
            yield Service(cluster, folder)


@pytest.fixture
async def world(service: Service) -> AsyncIterator[World]:
    await service.whole()
    service.rooms += 1
    async with connect(service.cluster.internal, timeout=PATIENCE) as caller:
        yield World(service.cluster, caller, f"room-{service.rooms}", service.folder)


async def event(client: VeraniClient, kind: str) -> Any:
    """Wait for the next event of a type."""
    async with asyncio.timeout(PATIENCE):
        async for found in client:
            if found.type == kind:
                return found.data
    raise AssertionError(f"the connection ended without {kind}")


def test_the_promise_stands_in_the_guide_word_for_word() -> None:
    text = Path("docs/delivery.md").read_text()
    assert "\n".join(line.removeprefix("> ") for line in text.splitlines() if line.startswith("> ")) == PROMISE


async def test_no_accepted_frame_is_lost_and_no_output_doubled(world: World) -> None:
    async with await world.client() as client:
        heard: list[int] = []
        client.on("said", lambda data: heard.append(data["number"]))
        for number in range(300):
            client.emit("say", number)
            if number % 100 == 50:
                await until(lambda: heard)  # a room is restored to those only whom it had taken
                await world.kill_host()
        await until(lambda: len(heard) >= 300)
        assert heard == list(range(300))
        assert client.state == "connected"
    assert "restored crash 1" in world.notes()


async def test_a_hook_that_visibly_began_is_not_run_again_and_the_application_is_told(world: World) -> None:
    async with await world.client() as client:
        assert await client.request("change") == 1
        asking = asyncio.create_task(client.request("emit-then-wait", "gate"))
        assert await event(client, "begun") == {"type": "begun", "name": "gate"}
        await world.noted("at gate")
        await world.kill_host()
        told = await event(client, "interrupted")
        assert (told["name"], told["changes"]) == ("gate", 1), "with the last committed meta"
        with pytest.raises(Interrupted):
            await asking
        assert world.notes().count("at gate") == 1
        assert await client.request("change") == 2


async def test_a_hook_that_showed_nothing_is_run_again_from_its_beginning(world: World) -> None:
    async with await world.client() as client:
        asking = asyncio.create_task(client.request("wait-then-emit", "gate"))
        await world.noted("at gate")
        await world.kill_host()
        await until(lambda: world.notes().count("at gate") == 2)
        world.open("gate")
        assert await asking == "done"
        assert (await event(client, "ended"))["changes"] == 1, "what the first run changed is undone"
        assert world.notes().count("at gate") == 2, "effects outside repeat"


async def test_a_call_that_is_made_again_runs_once_while_the_callee_is_awake(world: World) -> None:
    there = await room_elsewhere(world)
    async with await world.client() as client:
        victim = await world.host()
        asking = asyncio.create_task(client.request("call-then-wait", {"room": there, "name": "gate"}))
        await world.noted("at gate")
        os.kill(victim, signal.SIGKILL)
        await until(lambda: world.notes().count("at gate") == 2)
        world.open("gate")
        assert await asking == 1
    assert await world.stub(there).add() == 2


async def room_elsewhere(world: World) -> str:
    """Find a room that another host has."""
    host = await world.host()
    for name in (f"{world.room}-{number}" for number in range(50)):
        if await world.host(name) != host:
            return name
    raise AssertionError("one host has all rooms")


async def test_a_caller_whose_call_visibly_began_is_told_that_it_was_interrupted(world: World) -> None:
    async with await world.client() as client:
        victim = await world.host()
        calling = asyncio.create_task(world.stub().stuck("gate"))
        await event(client, "stuck")
        await world.noted("at gate")
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(Interrupted):
            await calling
        await world.noted("interrupted rpc stuck")


async def test_an_interrupted_on_connect_closes_its_connection_and_the_client_comes_again(world: World) -> None:
    async with VeraniClient(f"{world.cluster.ws}?room={world.room}&userId=slow-to-come") as client:
        await event(client, "welcome")
        await world.noted("at slow-to-come")
        await world.kill_host()
        await event(client, "welcome")
        await world.noted("interrupted on_connect")
        world.open("slow-to-come")
        assert await client.request("change") == 1
        assert [line for line in world.notes() if line.startswith("gone")] == []


async def test_an_interrupted_on_disconnect_is_not_repeated(world: World) -> None:
    async with await world.client("stays") as stays:
        await stays.request("pid")  # who is not in yet hears nothing
        goes = await world.client("slow-to-go")
        await goes.close()
        await event(stays, "left")
        await world.noted("at slow-to-go")
        await world.kill_host()
        assert await stays.request("change") == 1
        assert await world.stub().get_connected_user_ids() == ["stays"]
    assert world.notes().count("gone slow-to-go 1000") == 1
    assert len([line for line in world.notes() if line.startswith("interrupted")]) == 1


async def test_a_gateway_that_dies_takes_its_connections_along_once_each(world: World) -> None:
    clients = {user: await world.client(user) for user in ("ann", "bob", "cid", "dan", "eve", "fay")}
    gateways = (await world.cluster.status()).gateways
    counts = {each.id: each.connections for each in gateways}
    victim = max(gateways, key=lambda each: each.connections)
    os.kill(victim.pid, signal.SIGKILL)
    await until(lambda: len([line for line in world.notes() if line.endswith(" 1006")]) == counts[victim.id])
    for user, client in clients.items():
        assert await client.request("pid") > 0, f"{user} is back or never left"
    gone = [line for line in world.notes() if line.startswith("gone")]
    assert len(gone) == len({*gone}) == counts[victim.id]
    for client in clients.values():
        await client.close()


async def test_state_of_a_room_is_lost_with_its_host(world: World) -> None:
    assert await world.stub().add() == 1
    assert await world.stub().add() == 2
    victim = await world.host()
    os.kill(victim, signal.SIGKILL)
    await until_other(world, victim)
    assert await world.stub().add() == 1


async def until_other(world: World, pid: int) -> None:
    """Wait until the room is at another process."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await world.host() != pid:
                    return
            except (CallFailed, Interrupted):
                continue
