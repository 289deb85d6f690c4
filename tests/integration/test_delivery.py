"""What `docs/delivery.md` promises, clause by clause, with processes that are really killed.

What happens under load is shown by `test_failover.py`, what between machines by `test_machines.py`, and what hooks may
do to their host by `test_faults.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster import Cluster
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
    """A service of two hosts, who calls it, and what its hooks wrote down."""

    def __init__(self, cluster: Cluster, caller: Caller, folder: Path) -> None:
        self.cluster = cluster
        self.caller = caller
        self.folder = folder

    def notes(self) -> list[str]:
        file = self.folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    async def noted(self, line: str) -> None:
        await until(lambda: line in self.notes())

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    def stub(self, room: str) -> RoomStub:
        return self.caller.room("desk", room)

    async def host_of(self, room: str) -> int:
        return int(await self.stub(room).where())

    async def kill_host_of(self, room: str) -> None:
        os.kill(await self.host_of(room), signal.SIGKILL)

    async def client(self, room: str, user: str = "ann") -> VeraniClient:
        client = VeraniClient(f"{self.cluster.ws}?room={room}&userId={user}")
        await client.connect()
        return client


Start = Callable[..., Awaitable[World]]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("DELIVERY_FOLDER", str(tmp_path))
    async with (
        Cluster.serve(TARGET, "--link-grace", "0.3", hosts=2, gateways=2) as cluster,
        connect(cluster.internal, timeout=PATIENCE) as caller,
    ):
        yield World(cluster, caller, tmp_path)


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
    async with await world.client("a") as client:
        heard: list[int] = []
        client.on("said", lambda data: heard.append(data["number"]))
        for number in range(300):
            client.emit("say", number)
            if number % 100 == 50:
                await until(lambda: heard)  # a room is restored to those only whom it had taken
                await world.kill_host_of("a")
        await until(lambda: len(heard) >= 300)
        assert heard == list(range(300))
        assert client.state == "connected"
    assert {"restored crash 1", "restored call 1"} & {*world.notes()}, "the first to ask may have been who kills"


async def test_a_hook_that_visibly_began_is_not_run_again_and_the_application_is_told(world: World) -> None:
    async with await world.client("a") as client:
        assert await client.request("change") == 1
        asking = asyncio.create_task(client.request("emit-then-wait", "gate"))
        assert await event(client, "begun") == {"type": "begun", "name": "gate"}
        await world.noted("at gate")
        os.kill(await client_host(world), signal.SIGKILL)
        told = await event(client, "interrupted")
        assert (told["name"], told["changes"]) == ("gate", 1), "with the last committed meta"
        with pytest.raises(Interrupted):
            await asking
        assert world.notes().count("at gate") == 1
        assert await client.request("change") == 2


async def client_host(world: World) -> int:
    """Find the host of room `a`, whose hook waits: ask who has it in the epoch."""
    members = await world.cluster.members(2)
    return next(member.pid for member in members if member.rooms.get("awake"))


async def test_a_hook_that_showed_nothing_is_run_again_from_its_beginning(world: World) -> None:
    async with await world.client("a") as client:
        asking = asyncio.create_task(client.request("wait-then-emit", "gate"))
        await world.noted("at gate")
        os.kill(await client_host(world), signal.SIGKILL)
        await until(lambda: world.notes().count("at gate") == 2)
        world.open("gate")
        assert await asking == "done"
        assert (await event(client, "ended"))["changes"] == 1, "what the first run changed is undone"
        assert world.notes().count("at gate") == 2, "effects outside repeat"


async def test_a_call_that_is_made_again_runs_once_while_the_callee_is_awake(world: World) -> None:
    here = "a"
    there = await room_elsewhere(world, here)
    async with await world.client(here) as client:
        victim = await world.host_of(here)
        asking = asyncio.create_task(client.request("call-then-wait", {"room": there, "name": "gate"}))
        await world.noted("at gate")
        os.kill(victim, signal.SIGKILL)
        await until(lambda: world.notes().count("at gate") == 2)
        world.open("gate")
        assert await asking == 1
    assert await world.stub(there).add() == 2


async def room_elsewhere(world: World, room: str) -> str:
    """Find a room that another host has."""
    host = await world.host_of(room)
    for name in (f"b{number}" for number in range(50)):
        if await world.host_of(name) != host:
            return name
    raise AssertionError("one host has all rooms")


async def test_a_caller_whose_call_visibly_began_is_told_that_it_was_interrupted(world: World) -> None:
    async with await world.client("a") as client:
        victim = await world.host_of("a")
        calling = asyncio.create_task(world.stub("a").stuck("gate"))
        await event(client, "stuck")
        await world.noted("at gate")
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(Interrupted):
            await calling
        await world.noted("interrupted rpc stuck")


async def test_an_interrupted_on_connect_closes_its_connection_and_the_client_comes_again(world: World) -> None:
    async with VeraniClient(f"{world.cluster.ws}?room=a&userId=slow-to-come") as client:
        await event(client, "welcome")
        await world.noted("at slow-to-come")
        os.kill(await client_host(world), signal.SIGKILL)
        await event(client, "welcome")
        await world.noted("interrupted on_connect")
        world.open("slow-to-come")
        assert await client.request("change") == 1
        assert [line for line in world.notes() if line.startswith("gone")] == []


async def test_an_interrupted_on_disconnect_is_not_repeated(world: World) -> None:
    async with await world.client("a", "stays") as stays:
        goes = await world.client("a", "slow-to-go")
        await goes.close()
        await event(stays, "left")
        await world.noted("at slow-to-go")
        os.kill(await client_host(world), signal.SIGKILL)
        assert await stays.request("change") == 1
        assert await world.stub("a").get_connected_user_ids() == ["stays"]
    assert world.notes().count("gone slow-to-go 1000") == 1
    assert len([line for line in world.notes() if line.startswith("interrupted")]) == 1


async def test_a_gateway_that_dies_takes_its_connections_along_once_each(world: World) -> None:
    clients = {user: await world.client("a", user) for user in ("ann", "bob", "cid", "dan", "eve", "fay")}
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
    assert await world.stub("a").add() == 1
    assert await world.stub("a").add() == 2
    victim = await world.host_of("a")
    os.kill(victim, signal.SIGKILL)
    await until_other(world, victim)
    assert await world.stub("a").add() == 1


async def until_other(world: World, pid: int) -> None:
    """Wait until room `a` is at another process."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await world.host_of("a") != pid:
                    return
            except (CallFailed, Interrupted):
                continue
