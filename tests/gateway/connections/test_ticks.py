"""What is due for connections is done for a few at a time: sockets do not wait for all of them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from tests.raw import until
from tests.server import Serve
from verani.room.definition import define_room
from verani_gateway.connections.connection import Connection
from verani_gateway.connections.ticker import SLICE
from verani_gateway.gateway import Gateway


class Ticked:
    """A connection that only counts, and may fail."""

    def __init__(self, fails: bool) -> None:
        self.ticks = 0
        self._fails = fails

    def tick(self, now: float) -> None:
        self.ticks += 1
        if self._fails:
            raise RuntimeError("on purpose")


def _fill(gateway: Gateway, count: int, failing: int = -1) -> list[Ticked]:
    connections = [Ticked(n == failing) for n in range(count)]
    gateway.connections.update((f"c{n}", cast("Connection", each)) for n, each in enumerate(connections))
    return connections


async def test_a_pass_of_the_loop_ticks_some_connections_and_the_next_ones_the_rest(serve: Serve) -> None:
    gateway = (await serve(define_room("chat"))).gateway
    connections = _fill(gateway, 5 * SLICE + 1)
    gateway.ticker.tick()
    seen = []
    while (ticked := sum(each.ticks for each in connections)) < len(connections):
        seen.append(ticked)
        await asyncio.sleep(0)
    gateway.connections.clear()
    assert seen[:6] == [n * SLICE for n in range(1, 6)][: len(seen)]
    assert {each.ticks for each in connections} == {1}


async def test_a_connection_that_fails_its_tick_keeps_no_more_than_its_neighbours_from_theirs(
    serve: Serve, clean_log: list[str]
) -> None:
    clean_log.append("Ticker._tick_some")
    gateway = (await serve(define_room("chat"))).gateway
    connections = _fill(gateway, 4 * SLICE, failing=SLICE + 1)
    gateway.ticker.tick()
    await until(lambda: all(each.ticks for each in connections[2 * SLICE :]))
    gateway.connections.clear()


async def test_a_round_that_goes_on_is_ended_by_the_stop(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve(define_room("chat"))
    connections = _fill(server.gateway, 2 * SLICE)
    server.gateway.ticker.tick()
    server.gateway.connections.clear()
    await server.gateway.stop()
    ticked = sum(each.ticks for each in connections)
    await asyncio.sleep(0)
    assert sum(each.ticks for each in connections) == ticked
