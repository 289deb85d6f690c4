"""Every server that is measured does what the load expects of it; a peer that is not here is skipped."""

from __future__ import annotations

import pytest

from benchmarks.load import Scenario
from benchmarks.measuring import Crowd, measure, measure_crowd
from benchmarks.peers.catalogue import SERVERS, Server
from benchmarks.processes import Cores

SCENARIOS = (
    Scenario("echo", "echo", 3, 1, 1, 20, 4),
    Scenario("room", "cast", 2, 3, 2, 20, 4),
    Scenario("large", "echo", 1, 1, 1, 10, 2, size=65_536),
    Scenario("steady", "cast", 2, 3, 1, 10, 0, rate=200),
)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
async def test_everything_is_delivered_once_and_in_order(server: Server) -> None:
    if server.missing:
        pytest.skip(f"{server.missing} is not there")
    for scenario in SCENARIOS:
        measured = await measure(server, scenario, Cores.choose())
        assert (measured.lost, measured.out_of_order) == (0, 0), scenario
        assert measured.delivered > 0
        assert measured.cpu > 0


async def test_those_who_do_nothing_are_still_there_at_the_end() -> None:
    measured = await measure_crowd(SERVERS[0], Crowd("idle", 20, first=10), Cores.choose())
    assert (measured.delivered, measured.lost) == (20, 0)
