"""A room of many in processes that are really killed and stopped: nobody is closed, every frame is there once.

How long others have to wait meanwhile is measured by `benchmarks/crowd.py`, with 3,000 members.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from benchmarks.cluster import Cluster
from benchmarks.crowd import place
from tests.raw import until

TARGET = "benchmarks.crowd:crowd"
MEMBERS = int(os.environ.get("VERANI_TEST_CROWD", "100"))
NUMBER = re.compile(r'"n":(\d+)')

# A gateway that stands still is not killed as one that hangs.
STANDS_STILL = ("--hook-blocked", "60")


class Member:
    """One client; what it hears, and how it was closed."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.heard: list[int] = []
        self.closed: int | None = None
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.ws:
            if found := NUMBER.search(message.data):
                self.heard.append(int(found[1]))
        self.closed = self.ws.close_code

    async def send(self, kind: str, data: Any) -> None:
        await self.ws.send_json({"type": kind, "data": data})


Join = Callable[[str, int], Any]


@asynccontextmanager
async def members(cluster: Cluster, room: str, count: int) -> AsyncIterator[list[Member]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        joined = [Member(await session.ws_connect(f"{cluster.ws}?room={room}")) for _ in range(count)]
        try:
            yield joined
        finally:
            for member in joined:
                member.reading.cancel()


def everything(joined: list[Member], count: int) -> bool:
    return all(len(member.heard) >= count or member.closed is not None for member in joined)


@pytest.mark.parametrize("hosts", [0, 2])
async def test_everybody_in_a_room_of_many_gets_everything_once_and_nobody_is_closed(hosts: int) -> None:
    async with Cluster.serve(TARGET, "--max-connections", "0", hosts=hosts) as cluster:
        victim, room, beside = await place(cluster, hosts)
        async with members(cluster, room, MEMBERS) as many, members(cluster, beside, 2) as two:
            for number, member in enumerate(many):
                await member.send("cast", number)
            await until(lambda: everything(many, MEMBERS))
            sent = MEMBERS
            for member in many[:25]:
                for number in range(16):
                    await member.send("cast", sent + number)
                sent += 16
            await until(lambda: everything(many, sent))
            await many[0].send("burst", [sent, 3000])
            sent += 3000
            await until(lambda: everything(many, sent))
            if hosts:
                for member in many:
                    for number in range(4000 // MEMBERS):
                        await member.send("cast", sent + number)
                    sent += 4000 // MEMBERS
                os.kill(victim, signal.SIGKILL)
                await until(lambda: everything(many, sent))
            await two[0].send("cast", 1)
            await until(lambda: everything(two, 1))
            assert [member.closed for member in (*many, *two)] == [None] * (MEMBERS + 2)
            assert all(sorted(member.heard) == list(range(sent)) for member in many)
        assert [line for line in cluster.lines if "given up" in line or "Traceback" in line] == []


# --- gateways that are stopped -----------------------------------------------------------------------------


async def asleep(cluster: Cluster) -> None:
    """Wait until every room is asleep."""
    while True:
        if all(set(host.rooms) <= {"asleep"} for host in (await cluster.status()).members):
            return
        await asyncio.sleep(0.05)


def missing(everybody: list[Member]) -> set[int]:
    """Name the frames of members that stay which one that stays has not heard."""
    stay = {number: frozenset(member.heard) for number, member in enumerate(everybody, 1) if member.closed is None}
    return {number for number in stay if any(number not in heard for heard in stay.values())}


@pytest.mark.parametrize("until_given_up", [False, True])
async def test_who_is_at_a_gateway_that_is_stopped_while_the_room_sleeps_misses_nothing_in_silence(
    until_given_up: bool,
) -> None:
    async with Cluster.serve("tests.integration.sleepy_room:sleepy", *STANDS_STILL, hosts=1, gateways=2) as cluster:
        gateways = [gateway.pid for gateway in (await cluster.status()).gateways]
        async with members(cluster, "night", 16) as everybody:
            for member in everybody:  # who has an answer is in the room
                await member.send("cast", 0)
            await until(lambda: everything(everybody, 1))
            await asleep(cluster)
            os.kill(gateways[0], signal.SIGSTOP)
            try:
                for number, member in enumerate(everybody, 1):
                    await member.send("cast", number)
                if until_given_up:
                    await until(lambda: any("gateway given up" in line for line in cluster.lines))
                else:
                    await asyncio.sleep(3.5)
            finally:
                os.kill(gateways[0], signal.SIGCONT)
            if until_given_up:
                await until(lambda: any(member.closed is not None for member in everybody))
            await until(lambda: not missing(everybody))
            assert {member.closed for member in everybody} <= {None, 1012}
            numbers = [member.heard for member in everybody if member.closed is None]
            assert all(len(heard) - heard.count(0) == len({*heard}) - 1 for heard in numbers), "nothing twice"
            assert len({frozenset(heard) for heard in numbers}) == 1
