"""Print what an open inspector adds to the processor time of a delivery, in a service that is busy.

Run as `python -m benchmarks.inspector [--rooms N] [--hosts 0 2] [--pairs N]`: embedded, then with two room hosts. In
each of so many rooms (2,000) somebody sends as fast as the room answers, and somebody listens. The inspector lists
rooms and looks at one of them. Rounds with it and without take turns; what is printed is the median of the ratios of
each pair, because what slows down the machine for a while slows down both. Exits with 1 if that is more than
`MAX_MORE`, or if a delivery was lost or out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import aiohttp
from aiohttp import web

from verani import Context, define_room
from verani_gateway import setup

from .cluster import Cluster
from .comparing import median_ratio
from .load import Client, Report, Scenario, open_clients, sever
from .processes import cpu_seconds, file_limit

MAX_MORE: Final = 0.05

# Deliveries of one round: some seconds, in which the inspector looks more than once.
ROUND: Final = 100_000

_PATIENCE: Final = 300.0

OPTIONS: Final = ("--max-connections", "0", "--hibernate-after", "never", "--max-awake-rooms", "100000")

watched = define_room("watched")


@watched.on("echo")
def echo(ctx: Context[Any, Any], data: Any) -> None:
    ctx.emit("echo", data)


app = web.Application()
setup(app, watched)


class Load:
    """Everybody who is connected, and what came back to them."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.report, self.done = Report(), asyncio.Event()
        self.clients: list[Client] = []

    async def connect(self, port: int) -> None:
        self.clients = await open_clients(port, self.scenario, self.report, self.done)

    async def run(self, messages: int) -> int:
        """Have every sender send so many, wait for what comes back, and count it."""
        self.done.clear()
        before = self.report.delivered
        self.report.expected += replace(self.scenario, messages=messages).deliveries
        for client in self.clients:
            client.start(messages)
        async with asyncio.timeout(_PATIENCE):
            await self.done.wait()
        return self.report.delivered - before


@asynccontextmanager
async def inspecting(internal: str, watches: bool) -> AsyncIterator[list[int]]:
    """Have an inspector open; what it was sent is counted, in frames and bytes."""
    seen = [0, 0]
    if not watches:
        yield seen
        return

    async def read(ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            seen[0] += 1
            seen[1] += len(message.data)

    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{internal}/inspector/ws", max_msg_size=0) as ws,
    ):
        await ws.send_json({"type": "watch", "data": {"room": "watched/r0"}})
        reading = asyncio.create_task(read(ws))
        yield seen
        reading.cancel()


async def measure(rooms: int, hosts: int, pairs: int) -> bool:
    """Print the figures of one shape; False if something is wrong."""
    load = Load(Scenario("busy", "echo", rooms, 2, 1, 1, 1))
    messages = max(1, ROUND // rooms)
    async with Cluster.serve("benchmarks.inspector:app", *OPTIONS, hosts=hosts) as cluster:
        await load.connect(int(cluster.url.rpartition(":")[2]))
        status = await cluster.status()
        pids = [gateway.pid for gateway in status.gateways] + [host.pid for host in status.members]

        async def cost(watches: bool) -> float:
            async with inspecting(cluster.internal, watches) as seen:
                before = sum(map(cpu_seconds, pids))
                delivered = await load.run(messages)
                used = sum(map(cpu_seconds, pids)) - before
                told[0], told[1] = told[0] + seen[0], told[1] + seen[1]
            return used / delivered

        told = [0, 0]
        await load.run(messages)  # to warm up
        without: list[float] = []
        with_it: list[float] = []
        for number in range(pairs):
            # The one that goes first is not always the same.
            for watches in (number % 2 == 0, number % 2 == 1):
                (with_it if watches else without).append(await cost(watches))
        sever(load.clients)
    more = median_ratio(with_it, without) - 1
    alone, watched_too = (f"{1e6 * statistics.median(costs):.1f} us" for costs in (without, with_it))
    print(
        f"{hosts} hosts, {rooms:,} rooms: a delivery takes {alone} of processor time, with an open inspector"
        f" {watched_too}: {100 * more:+.1f} % (at most {100 * MAX_MORE:g} %);"
        f" it was told {told[0]:,} frames, {told[1]:,} bytes",
        flush=True,
    )
    return more <= MAX_MORE and load.report.out_of_order == 0


async def run(rooms: int, shapes: list[int], pairs: int) -> int:
    good = [await measure(rooms, hosts, pairs) for hosts in shapes]
    print("an open inspector is cheap" if all(good) else "an open inspector costs too much")
    return int(not all(good))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=2000)
    parser.add_argument("--hosts", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    file_limit()
    return asyncio.run(run(options.rooms, options.hosts, options.pairs))


if __name__ == "__main__":
    sys.exit(main())
