"""Machines that are cut off, die and come back: every room has one owner at a time, and no frame is answered twice.

The machines are network namespaces; nobody gets a FIN when a cable is pulled. Of each answer is known which process
gave it and when, by a clock that all of them share (`tests.integration.cluster_room`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.cluster_room import now
from tests.integration.fleet import Crowd, Fleet, rooms_of
from tests.netns import why_not

TARGET = "tests.integration.cluster_room:hall"
THREE = ("one", "two", "three")
ROOMS = {name: rooms_of(name, THREE, 2) for name in THREE}


@pytest.fixture(scope="module")
def reason() -> str:
    return why_not()


@pytest.fixture(scope="module")
def started(reason: str) -> Iterator[Fleet]:
    if reason:
        pytest.skip(reason)
    with Fleet.run(TARGET, THREE) as fleet:
        yield fleet


@pytest.fixture
async def fleet(started: Fleet) -> AsyncIterator[Fleet]:
    """Three machines, each with a room host and a gateway, which are whole again after each test."""
    async with started.visited():
        await started.whole(*THREE)
        yield started
        started.heal()
        await started.whole(*THREE)


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
        cut = now()
        fleet.machine("three").cut()
        elsewhere = [*crowd.of("one", "three"), *crowd.of("two", "three")]
        await crowd.until(
            lambda: all(any(own.host != members["three"].pid for own in each.heard) for each in elsewhere), elsewhere
        )
        # It serves nothing any more, neither what it lost nor what it cannot reach.
        silent = {each.name: len(each.heard) for each in crowd.of("three")}
        last = max(heard.arrived for each in crowd.of("three") for heard in each.heard)
        for _ in range(20):
            await crowd.answered([*crowd.of("one"), *crowd.of("two")])
        assert {each.name: len(each.heard) for each in crowd.of("three")} == silent
        first = min(heard.at for each in elsewhere for heard in each.heard if heard.host != members["three"].pid)
        assert last < first
        assert (await fleet.status("three")).epoch < (await fleet.status("one")).epoch
        fleet.machine("three").heal()
        await fleet.whole(*THREE)
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        # Who was not cut off has noticed nothing; who was has waited, or was told to come again.
        assert {code for each in crowd.talkers if each.machine != "three" for code in each.codes} == set()
        assert {code for each in crowd.of("three") for code in each.codes} <= {1012}
        assert [code for each in crowd.of("three", "three") for code in each.codes] == []
        successor = (await fleet.whole(*THREE))["three"]
        assert successor.pid != members["three"].pid
        for hosts in crowd.hosts("three"):
            assert hosts[0] == members["three"].pid
            assert hosts[-1] == successor.pid
            assert len(hosts) == 3
        assert cut < last


@pytest.mark.threat(67)
async def test_a_leader_that_is_cut_off_takes_no_room_and_loses_none(fleet: Fleet) -> None:
    """Two of three go on without the registrar, which nobody tells that anybody is dead."""
    members = await fleet.whole(*THREE)
    epoch = (await fleet.status("one")).epoch
    async with Crowd(fleet, THREE, ROOMS) as crowd:
        cut = now()
        fleet.machine("one").cut()
        # For longer than any lease, and than an unreachable machine would have kept its rooms.
        await crowd.answered_after(
            cut + 4.0,
            [talker for name in ("two", "three") for other in ("two", "three") for talker in crowd.of(name, other)],
        )
        await crowd.answered_after(cut + 4.0, crowd.of("one", "one"))
        assert {(await fleet.status(name)).epoch for name in THREE} == {epoch}
        fleet.machine("one").heal()
        await fleet.whole(*THREE)
        await crowd.answered()
        await crowd.settled()
        assert crowd.judge() == []
        assert {name: crowd.hosts(name) for name in THREE} == {name: [[members[name].pid]] * 2 for name in THREE}
        assert {code for each in crowd.talkers for code in each.codes} <= {1012}


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
        await crowd.answered_after(killed + 4.0, theirs)
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
