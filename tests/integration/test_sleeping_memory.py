"""A room that sleeps costs its records and nothing else, without a single garbage collection."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.integration.conftest import Serve, Server
from tests.raw import PATIENCE

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs /proc to read the memory of other processes"
)

MIB = 1 << 20
ROOMS = 300
NAPS = 5

# What all rooms together may cost asleep; awake it is more than seven times as much.
ALLOWED = 40 * MIB

# The collector is off in every process that loads this. Every other room also fails, waits, spawns and calls.
APP = """
import asyncio
import gc

from verani import define_room

gc.disable()


class Load:
    def __init__(self):
        self.ballast = b"x" * (1 << 20)


chat = define_room("chat", state=Load, hibernate_after=None)


@chat.on_disconnect
def leave(ctx):
    ctx.actor.hibernate()


@chat.on("live")
async def live(ctx, way):
    state = ctx.actor.state
    if way == "fail":
        raise RuntimeError("on purpose")
    if way == "wait":
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
    if way == "spawn":
        async def spawned():
            ctx.actor.state.seen = True
            raise RuntimeError("on purpose")
        ctx.actor.spawn(spawned())
    if way == "call":
        await ctx.actor.stub("chat", "other").rest()
    return len(state.ballast)


@chat.on("doze")
def doze(ctx, data):
    ctx.actor.hibernate()


@chat.rpc
def rest(actor):
    actor.hibernate()
"""

WAYS = ("plain", "fail", "wait", "spawn", "call")


def _family(pid: int) -> list[int]:
    """List a process and all that it has started, by id."""
    rows = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True, text=True).stdout
    parents = [(int(child), int(parent)) for child, parent in (row.split() for row in rows.splitlines())]
    family = [pid]
    for member in family:
        family += [child for child, parent in parents if parent == member]
    return family


def _resident(pid: int) -> int:
    """Bytes that a process and all that it has started hold in memory, what they share counted each time."""
    pages = [int(Path(f"/proc/{member}/statm").read_text().split()[1]) for member in _family(pid)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


async def _states(server: Server) -> list[str]:
    async with aiohttp.ClientSession() as session, session.get(f"{server.internal}/admin/rooms") as response:
        return [room["state"] for room in await response.json()]


async def _until_asleep(server: Server, rooms: int) -> None:
    """Wait until so many rooms are known, and all of them are asleep."""
    async with asyncio.timeout(4 * PATIENCE):
        while await _states(server) != ["asleep"] * rooms:  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.05)


async def _until_free(server: Server, before: int) -> None:
    """Wait until the processes hold little more than before: what is freed goes back to the system soon after."""
    async with asyncio.timeout(PATIENCE):
        while (held := _resident(server.pid) - before) >= ALLOWED:
            await asyncio.sleep(0.1)
            print(f"{held / MIB:.1f} MiB are held")  # noqa: T201  # pytest shows it where the time is over


class _Guest:
    """One client of one room."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, way: str) -> None:
        self.ws = ws
        self._way = way

    async def live(self) -> None:
        """Have the room do something, and wait until it has."""
        await self.ws.send_json({"type": "live", "data": self._way, "id": 1})
        async with asyncio.timeout(PATIENCE):
            while (await self.ws.receive_json())["type"] != "ack":
                pass

    async def doze(self) -> None:
        """Let the room sleep, after it has woken if it slept."""
        await self.ws.send_json({"type": "doze"})


@asynccontextmanager
async def _guests(server: Server) -> AsyncIterator[Sequence[_Guest]]:
    """Enter every room; leave them all at the end."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        guests = []
        for n in range(ROOMS):
            ws = await stack.enter_async_context(session.ws_connect(f"{server.ws}/ws?room=r{n}"))
            guests.append(_Guest(ws, WAYS[n % len(WAYS)]))
        yield guests


@pytest.mark.parametrize("shape", [(), ("--hosts", "2")], ids=["embedded", "processes"])
async def test_three_hundred_rooms_that_sleep_hold_none_of_their_memory(
    serve: Serve, tmp_path: Path, shape: Sequence[str]
) -> None:
    (tmp_path / "app.py").write_text(APP)
    server = await serve("app:chat", "--rate-limit", "0", "--min-awake", "0.001", *shape, directory=tmp_path)
    # What is loaded with the first room is not the rooms'.
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.ws}/ws?room=first") as first:
        await _Guest(first, "call").live()
    await _until_asleep(server, 0)
    before = _resident(server.pid)
    async with _guests(server) as guests:
        await asyncio.gather(*(guest.live() for guest in guests))
        assert _resident(server.pid) - before > ROOMS * MIB
        for _ in range(1 + NAPS):
            await asyncio.gather(*(guest.doze() for guest in guests))
            await _until_asleep(server, ROOMS)
            await _until_free(server, before)
            await asyncio.gather(*(guest.live() for guest in guests))
    await _until_asleep(server, 0)
    await _until_free(server, before)
