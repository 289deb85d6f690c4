"""Machines that are cut off, die and come back: every room has one owner at a time, and no frame is answered twice.

The machines are network namespaces; nobody gets a FIN when a cable is pulled. Of each answer is known which process
gave it and when, by a clock that all of them share (`tests.integration.cluster_room`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.storm import Storm
from tests.integration.cluster_room import now
from tests.integration.fleet import PATIENCE, Crowd, Fleet, rooms_of
from tests.netns import why_not

TARGETS = ("tests.integration.cluster_room:hall", "benchmarks.storm:storm")
THREE = ("one", "two", "three")
TWO = ("east", "west")
ROOMS = {name: rooms_of(name, THREE, 2) for name in THREE}
ROOMS_OF_TWO = {name: rooms_of(name, TWO, 3) for name in TWO}

# Within this time after a cut, leases have ended and an unreachable machine has lost its rooms, if ever: 2 s and 1 s.
LONG_GONE = 4.0


# They share machines: what one of them starts again belongs to the next ones, too.
UNJUDGED = "what is left belongs to the machines that the tests share"


@pytest.fixture(scope="module")
def reason() -> str:
    return why_not()


@pytest.fixture(scope="module")
def started(reason: str) -> Iterator[Fleet]:
    if reason:
        pytest.skip(reason)
    with Fleet.run(TARGETS, THREE) as fleet:
        yield fleet


@pytest.fixture
async def fleet(started: Fleet) -> AsyncIterator[Fleet]:
    """Three machines, each with a room host and a gateway, which are whole again after each test."""
    async with started.visited():
        await started.whole(*THREE)
        yield started
        started.heal()
        await started.whole(*THREE)


@pytest.fixture(scope="module")
def started_pair(reason: str) -> Iterator[Fleet]:
    if reason:
        pytest.skip(reason)
    with Fleet.run(TARGETS, TWO, spare=1) as fleet:
        yield fleet


@pytest.fixture
async def pair(started_pair: Fleet) -> AsyncIterator[Fleet]:
    """Two machines, each with a room host and a gateway."""
    async with started_pair.visited():
        await started_pair.whole(*TWO)
        yield started_pair
        started_pair.heal()


async def cut_off(fleet: Fleet, crowd: Crowd, lost: str, pid: int) -> None:
    """Cut a machine off until others have its rooms; whoever is on it hears nothing any more, and before they do."""
    there, elsewhere = crowd.of(lost), [each for each in crowd.talkers if each.machine != lost]
    waiting = [each for each in elsewhere if each.room in crowd.rooms[lost]]
    fleet.machine(lost).cut()
    await crowd.until(lambda: all(any(own.host != pid for own in each.heard) for each in waiting), waiting)
    heard = {each.name: len(each.heard) for each in there}
    for _ in range(5):
        await crowd.answered(elsewhere)
    assert {each.name: len(each.heard) for each in there} == heard
    last = max(heard.arrived for each in there for heard in each.heard)
    first = min(heard.at for each in waiting for heard in each.heard if heard.host != pid)
    assert last < first


# First those with machines of their own: what the others share works on until the last one is done.


async def test_machines_that_join_drain_and_leave_under_load_cost_no_frame_and_no_answer(reason: str) -> None:
    if reason:
        pytest.skip(reason)
    # Nobody is lost here, so a machine that is loaded may keep its hosts waiting for longer than a second.
    with Fleet.run(TARGETS, TWO, spare=1, options=("--lease", "6")) as fleet:
        async with fleet.visited():
            await fleet.whole(*TWO)
            storm = Storm(f"{fleet.nodes['east'].public}/ws", rooms=100, frames_per_second=1000.0)
            await storm.start()
            await storm.answered()
            await fleet.start("south")
            await fleet.whole("east", "west", "south")
            await storm.answered()
            await fleet.drain("host:west-0", "east")
            await fleet.until(lambda status: {each.id for each in status.members} == {"east-0", "south-0"}, "east")
            await storm.answered()
            await fleet.stop("south")
            await fleet.until(lambda status: [each.id for each in status.members] == ["east-0"], "east")
            await storm.answered()
            assert await storm.finish() == []


async def test_one_command_ends_every_machine_also_those_without_a_gateway() -> None:
    with Fleet.run(TARGETS, ("east",), spare=1) as fleet:
        async with fleet.visited():
            await asyncio.to_thread(fleet.begin("west", gateways=0).wait)
            await fleet.until(lambda status: len(status.members) == 2, "east")
            await fleet.drain("--all", "east")
            codes = [await asyncio.to_thread(node.process.wait, PATIENCE) for node in fleet.nodes.values()]
            assert codes == [0, 0], fleet.log()


@pytest.mark.threat(66)
async def test_machines_that_join_share_the_rooms_and_agree_who_owns_which(fleet: Fleet) -> None:
    members = await fleet.whole(*THREE)
    assert len({member.pid for member in members.values()}) == 3
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        for owner, rooms in ROOMS.items():
            answers = [await fleet.call(name, room, "where") for room in rooms for name in THREE]
            assert answers == [(200, members[owner].pid)] * len(answers)
        await crowd.settled()
        assert crowd.judge() == []
        # Everybody came at once, through three gateways.
        assert {name: crowd.hosts(name) for name in THREE} == {name: [[members[name].pid]] * 2 for name in THREE}


@pytest.mark.threat(67)
async def test_a_machine_that_is_cut_off_falls_silent_before_its_rooms_wake_elsewhere(fleet: Fleet) -> None:
    members = await fleet.whole(*THREE)
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        await cut_off(fleet, crowd, "three", members["three"].pid)
        old, new = await fleet.epochs("three", "one")
        assert old < new
        fleet.machine("three").heal()
        await fleet.whole(*THREE)
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        # Who was not cut off has noticed nothing; who was has waited, or was told to come again.
        assert {code for each in crowd.talkers if each.machine != "three" for code in each.codes} == set()
        assert {code for each in crowd.of("three") for code in each.codes} <= {1012}
        # Its own rooms went on without it.
        assert all(each.codes for each in crowd.of("three", "three"))
        successor = (await fleet.whole(*THREE))["three"]
        assert successor.pid != members["three"].pid
        for hosts in crowd.hosts("three"):
            assert hosts[0] == members["three"].pid
            assert hosts[-1] == successor.pid
            assert len(hosts) == 3


@pytest.mark.threat(67)
async def test_a_leader_that_is_cut_off_takes_no_room_and_loses_none(fleet: Fleet) -> None:
    """Two of three go on without the registrar, which nobody tells that anybody is dead."""
    members = await fleet.whole(*THREE)
    before = await fleet.epochs(*THREE)
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        cut = now()
        fleet.machine("one").cut()
        # For longer than any lease, and than an unreachable machine would have kept its rooms.
        await crowd.answered_after(
            cut + LONG_GONE,
            [talker for name in ("two", "three") for other in ("two", "three") for talker in crowd.of(name, other)],
        )
        await crowd.answered_after(cut + LONG_GONE, crowd.of("one", "one"))
        assert await fleet.epochs(*THREE) == before
        fleet.machine("one").heal()
        await fleet.whole(*THREE)
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        assert {name: crowd.hosts(name) for name in THREE} == {name: [[members[name].pid]] * 2 for name in THREE}
        assert {code for each in crowd.talkers for code in each.codes} <= {1012}


@pytest.mark.threat(67)
async def test_a_host_that_only_the_registrar_has_lost_falls_silent_though_others_hear_it(fleet: Fleet) -> None:
    """Clients on the third machine are linked to the old owner and to the new ones all the time."""
    members = await fleet.whole(*THREE)
    one, two = fleet.machine("one"), fleet.machine("two")
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        one.part(two)
        try:
            moved = crowd.of("three", "two")
            await crowd.until(lambda: all(each.heard[-1].host != members["two"].pid for each in moved), moved)
            await crowd.answered([*moved, *crowd.of("three", "three")])
        finally:
            one.meet(two)
        successor = (await fleet.whole(*THREE))["two"]
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        for hosts in crowd.hosts("two"):
            assert (hosts[0], hosts[-1]) == (members["two"].pid, successor.pid)


@pytest.mark.threat(67)
async def test_a_host_that_was_stopped_does_not_go_on_with_rooms_that_others_have(fleet: Fleet) -> None:
    members = await fleet.whole(*THREE)
    stopped = members["three"].pid
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        # Whoever would kill it as one that hangs stands still with it.
        with standing_still(lineage(stopped, fleet.nodes["three"].process.pid)):
            everybody = [each for name in THREE for each in crowd.of(name, "three")]
            await crowd.until(lambda: all(each.heard[-1].host != stopped for each in everybody), everybody)
        await fleet.whole(*THREE)
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        assert [code for each in crowd.talkers for code in each.codes] == []


def lineage(pid: int, ancestor: int) -> list[int]:
    """List a process and those above it, up to one of them."""
    if pid == ancestor:
        return [pid]
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (parent,) = (line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    return [pid, *lineage(int(parent), ancestor)]


@contextmanager
def standing_still(pids: list[int]) -> Iterator[None]:
    """Stop processes, the last one first, and let them go on in the end."""
    try:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.threat(69)
async def test_calls_to_a_machine_that_swallows_everything_end_in_their_own_time_and_hold_up_no_other(
    fleet: Fleet,
) -> None:
    """Only one gateway loses it, so nobody moves its rooms."""
    members = await fleet.whole(*THREE)
    two, three = fleet.machine("two"), fleet.machine("three")
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        three.part(two)
        try:
            lost = [fleet.call("three", room, "where", timeout=0.5) for room in ROOMS["two"]]
            assert [status for status, _ in await asyncio.gather(*lost)] == [504] * len(lost)
            for owner in ("one", "three"):
                for room in ROOMS[owner]:
                    assert await fleet.call("three", room, "where", timeout=5.0) == (200, members[owner].pid)
            for room in ROOMS["two"]:
                assert await fleet.call("one", room, "where") == (200, members["two"].pid)
            begun = now()
            await crowd.answered_after(begun, crowd.of("one"))
            await crowd.answered_after(begun, crowd.of("two", "two"))
            await crowd.answered_after(begun, [*crowd.of("three", "one"), *crowd.of("three", "three")])
        finally:
            three.meet(two)
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        assert {name: crowd.hosts(name) for name in THREE} == {name: [[members[name].pid]] * 2 for name in THREE}
        others = [each for each in crowd.talkers if each not in crowd.of("three", "two") + crowd.of("two", "three")]
        assert [code for each in others for code in each.codes] == []


async def test_clients_of_a_gateway_that_a_room_host_has_given_up_are_told_to_come_again(fleet: Fleet) -> None:
    members = await fleet.whole(*THREE)
    two, three = fleet.machine("two"), fleet.machine("three")
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        two.part(three)
        two.give_up(three)
        three.give_up(two)
        try:
            for room in (*ROOMS["two"], *ROOMS["three"]):
                # Of the three who were in the room one is gone; it has not been told.
                await fleet.count("one", room, 2)
        finally:
            two.meet(three)
        lost = [*crowd.of("three", "two"), *crowd.of("two", "three")]
        await crowd.until(lambda: all(each.codes for each in lost), lost)
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        assert {each.name: each.codes for each in crowd.talkers if each.codes} == {each.name: [1012] for each in lost}
        assert {name: crowd.hosts(name) for name in THREE} == {name: [[members[name].pid]] * 2 for name in THREE}


@pytest.mark.threat(53)
async def test_a_room_host_that_is_killed_costs_nobody_on_any_machine_a_frame(fleet: Fleet) -> None:
    members = await fleet.whole(*THREE)
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        os.kill(members["two"].pid, signal.SIGKILL)
        await crowd.answered()
        successors = await fleet.whole(*THREE)
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        assert [code for each in crowd.talkers for code in each.codes] == []
        for hosts in crowd.hosts("two"):
            assert hosts[0] == members["two"].pid
            assert hosts[-1] == successors["two"].pid


@pytest.mark.threat(68)
async def test_rooms_elsewhere_outlive_the_machine_of_the_leader_and_their_hosts_are_members_again(
    fleet: Fleet,
) -> None:
    members = await fleet.whole(*THREE)
    async with Crowd(fleet, ("two", "three"), ROOMS) as crowd:
        killed = now()
        fleet.kill("one")
        theirs = [talker for name in ("two", "three") for other in ("two", "three") for talker in crowd.of(name, other)]
        await crowd.answered_after(killed + LONG_GONE, theirs)
        await fleet.start("one")
        # Whoever comes first to the new gateway must not wake what others still have.
        answers = [
            await fleet.call("one", room, "where", timeout=10.0) for name in ("two", "three") for room in ROOMS[name]
        ]
        again = await fleet.whole(*THREE)
        assert {name: again[name].pid for name in ("two", "three")} == {
            name: members[name].pid for name in ("two", "three")
        }
        assert answers == [(200, members[name].pid) for name in ("two", "three") for _ in ROOMS[name]]
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        assert [code for each in crowd.talkers for code in each.codes] == []
        assert {name: crowd.hosts(name) for name in ("two", "three")} == {
            name: [[members[name].pid]] * 2 for name in ("two", "three")
        }
        # The registrar had to find out that its own host of before is dead; meanwhile others had its rooms, or nobody.
        for hosts in crowd.hosts("one"):
            assert (hosts[0], hosts[-1]) == (members["one"].pid, again["one"].pid)


@pytest.mark.threat(67)
async def test_of_two_machines_the_registrar_s_goes_on_and_the_other_falls_silent(pair: Fleet) -> None:
    members = await pair.whole(*TWO)
    async with Crowd(pair, TWO, ROOMS_OF_TWO) as crowd:
        await cut_off(pair, crowd, "west", members["west"].pid)
        pair.machine("west").heal()
        successor = (await pair.whole(*TWO))["west"]
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        assert {code for each in crowd.of("east") for code in each.codes} == set()
        # What its rooms have said meanwhile is lost for those who were cut off.
        assert {code for each in crowd.of("west", "west") for code in each.codes} == {1012}
        assert crowd.hosts("east") == [[members["east"].pid]] * 3
        assert crowd.hosts("west") == [[members["west"].pid, members["east"].pid, successor.pid]] * 3


async def test_a_machine_that_serves_other_rooms_is_refused_with_a_reason(pair: Fleet) -> None:
    stranger = pair.begin("stranger", targets=["tests.integration.delivery_room:desk"])
    assert await asyncio.to_thread(stranger.process.wait, PATIENCE) == 1
    pair.nodes.pop("stranger").stop()
    assert any(
        "refuses this machine: it serves tests.integration.delivery_room:desk" in line for line in stranger.lines
    )
    assert any("machine stranger at" in line and "is refused" in line for line in pair.nodes["east"].lines)
    await pair.whole(*TWO)
