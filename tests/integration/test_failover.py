"""Room hosts die, come and go under load, and nobody but the operator notices.

1,000 frames a second over 100 rooms, each with two members, through one gateway (`benchmarks.storm`).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE

import pytest

from benchmarks.cluster import Cluster
from benchmarks.hosts import OPTIONS, wake
from benchmarks.marked import marked
from benchmarks.storm import Kind, Storm

ROOMS = 100
FRAMES_PER_SECOND = 1000.0
KILLS = 6
# On a busy machine it may take more until one of them meets a hook that waits.
MOST_KILLS = 30
TARGET = "benchmarks.storm:storm"


async def verani(*arguments: str) -> str:
    """Run a command of the command line that is to succeed, and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verani_gateway", *arguments), stdout=PIPE, stderr=PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.threat(53)
@pytest.mark.parametrize("kind", ["fast", "slow"])
async def test_killed_hosts_cost_no_client_no_frame_and_no_answer(kind: Kind) -> None:
    """Hooks that do not wait lose nothing and double nothing; of those that do, each missing end was told."""
    async with Cluster.serve(TARGET, hosts=2) as cluster:
        storm = Storm(cluster.ws, rooms=ROOMS, frames_per_second=FRAMES_PER_SECOND, kind=kind)
        await storm.start()
        await storm.answered()
        kills = 0
        while kills < KILLS or (kind == "slow" and not storm.interrupted and kills < MOST_KILLS):
            victim = random.choice(await cluster.members(2))
            os.kill(victim.pid, signal.SIGKILL)
            await storm.answered()
            kills += 1
        assert await storm.finish() == []
    assert storm.sent > KILLS * ROOMS
    assert storm.interrupted == 0 if kind == "fast" else storm.interrupted > 0
    assert cluster.process.returncode == 0


@pytest.mark.parametrize("kind", ["fast", "slow"])
async def test_hosts_that_are_drained_and_come_back_cost_nothing(kind: Kind) -> None:
    """A planned move interrupts nothing, not even hooks that wait."""
    async with Cluster.serve(TARGET, hosts=3) as cluster:
        storm = Storm(cluster.ws, rooms=ROOMS, frames_per_second=FRAMES_PER_SECOND, kind=kind)
        await storm.start()
        members = await cluster.members(3)
        await storm.answered()
        await verani("drain", f"host:{members[0].id}", "--url", cluster.internal)
        await storm.answered()
        left = await cluster.members(2)
        assert {member.incarnation for member in left} == {member.incarnation for member in members[1:]}
        before = storm.interrupted
        await storm.answered()
        await verani("drain", f"host:{left[0].id}", "--url", cluster.internal)
        await storm.answered()
        (last,) = await cluster.members(1)
        assert storm.interrupted == before == 0
        # Its successor is a host that joins: the rooms have nowhere to go meanwhile, and wait.
        os.kill(last.pid, signal.SIGKILL)
        await storm.answered()
        (successor,) = await cluster.members(1)
        assert (successor.id, successor.incarnation != last.incarnation) == (last.id, True)
        assert await storm.finish() == []


async def test_all_hosts_at_once_may_die() -> None:
    async with Cluster.serve(TARGET, hosts=2) as cluster:
        storm = Storm(cluster.ws, rooms=ROOMS, frames_per_second=FRAMES_PER_SECOND)
        await storm.start()
        await storm.answered()
        for member in await cluster.members(2):
            os.kill(member.pid, signal.SIGKILL)
        await storm.answered()
        assert await storm.finish() == []


async def test_nothing_is_left_of_a_service_that_stops_with_many_rooms_awake() -> None:
    with marked() as processes:
        async with Cluster.serve("benchmarks.servers:bench", *OPTIONS, hosts=2, gateways=2) as cluster:
            assert sum(await wake(cluster, 1000)) == 1000
            # Supervisor, launcher, Admin, Thespian's logger, registrar, two hosts and two gateways.
            assert len(processes.pids()) == 9
        assert processes.pids() == []
    assert cluster.process.returncode == 0
