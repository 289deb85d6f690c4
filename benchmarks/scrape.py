"""Print what a scrape of `/metrics` costs a service that has much to tell, and how long it keeps a loop from others.

Run as `python -m benchmarks.scrape [--connections N] [--hosts 0 2]`: embedded, then with two room hosts. There are so
many connections (8,000), each in a room of its own that is awake, and 96 hooks that have run; some of the connections
send frames all the while. Exits with 1 if a scrape costs the processes of the service together more than `MAX_CPU`
seconds of processor time, or makes the longest pass of an event loop take more than `MAX_PASS`. Both are processor
time, so that what else the machine does says little about them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp import web

from verani import Actor, Context, Service, connect, define_room
from verani_gateway import setup

from .cluster import Cluster
from .load import Report, Scenario, open_clients
from .processes import cpu_seconds, file_limit

MAX_CPU: Final = 0.050
MAX_PASS: Final = 0.020

# Rounds with scrapes and without, in turn; seconds of each, and between two scrapes.
ROUNDS, ROUND, PAUSE = 5, 2.0, 0.1

DEFINITIONS, METHODS = 8, 12

# How many connections send, and how often each, in seconds.
SENDERS, EVERY = 50, 0.1

OPTIONS: Final = ("--max-connections", "0", "--hibernate-after", "never", "--max-awake-rooms", "100000")


async def worst_pass(seconds: float) -> float:
    """Return the most processor time that one pass of the running loop takes meanwhile, in seconds."""
    until, worst, before = time.monotonic() + seconds, 0.0, time.thread_time()
    while time.monotonic() < until:
        await asyncio.sleep(0)
        now = time.thread_time()
        worst, before = max(worst, now - before), now
    return worst


scrape = define_room("scrape")


@scrape.on("echo")
def echo(ctx: Context[Any, Any], data: Any) -> None:
    ctx.emit("echo", data)


@scrape.rpc
async def watch_host(actor: Actor[Any, Any], seconds: float) -> float:
    return await worst_pass(seconds)


def busy(number: int) -> Any:
    """Define a room with many methods, each of which is measured apart."""
    room = define_room(f"busy{number}", websocket_path=f"/busy{number}")
    for method in range(METHODS):

        def run(actor: Actor[Any, Any]) -> None: ...

        run.__name__ = f"method_{method}"
        room.rpc(run)
    return room


async def watch_gateway(request: web.Request) -> web.Response:
    return web.json_response(await worst_pass(float(request.query["seconds"])))


# By names of this module, where room hosts look for them.
BUSY = busy0, busy1, busy2, busy3, busy4, busy5, busy6, busy7 = tuple(map(busy, range(DEFINITIONS)))

app = web.Application()
app.router.add_get("/watch", watch_gateway)
setup(app, scrape, *BUSY)


async def run_every_hook(rooms: Service) -> None:
    for number, method in itertools.product(range(DEFINITIONS), range(METHODS)):
        await getattr(rooms.room(f"busy{number}", "one"), f"method_{method}")()


@asynccontextmanager
async def traffic(url: str) -> AsyncIterator[None]:
    """Have connections send frames, evenly, whatever the service does."""

    async def send(session: aiohttp.ClientSession, number: int) -> None:
        async with session.ws_connect(f"{url}/ws?room=sender-{number}") as ws:
            while True:
                await ws.send_str('{"type":"echo","data":1}')
                await ws.receive()
                await asyncio.sleep(EVERY)

    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.create_task(send(session, number)) for number in range(SENDERS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Scraper:
    """Whoever scrapes, as Prometheus does."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = f"{url}/metrics"
        self.count = 0
        self.size = 0

    async def scrape(self, seconds: float) -> None:
        """Scrape again and again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            async with self._session.get(self._url) as response:
                self.size = len(await response.read())
                assert response.status == 200
            self.count += 1
            await asyncio.sleep(PAUSE)


async def cost(scraper: Scraper, pids: list[int]) -> float:
    """Return the processor time of one scrape in all processes, in seconds: what they use more than without."""

    def used() -> float:
        return sum(map(cpu_seconds, pids))

    costs = []
    for _ in range(ROUNDS):
        before = used()
        await asyncio.sleep(ROUND)
        without = used() - before
        before, count = used(), scraper.count
        await scraper.scrape(ROUND)
        costs.append((used() - before - without) / (scraper.count - count))
    return statistics.median(costs)


async def passes(scraper: Scraper, rooms: Service, session: aiohttp.ClientSession, url: str) -> float:
    """Return the processor time of the longest pass of any loop in a round with scrapes, in seconds."""

    async def gateway() -> float:
        async with session.get(f"{url}/watch", params={"seconds": ROUND}) as response:
            return float(await response.json())

    async def host(number: int) -> float:
        return float(await rooms.room("scrape", f"watch-{number}").watch_host(ROUND))

    scraping = asyncio.create_task(scraper.scrape(ROUND))
    worst = max(await asyncio.gather(gateway(), *map(host, range(4))))
    await scraping
    return worst


async def measure(connections: int, hosts: int) -> list[str]:
    """Print the figures of one shape and return what is wrong."""
    scenario = Scenario("idle", "echo", connections, 1, 1, 1, 1)
    async with Cluster.serve("benchmarks.scrape:app", *OPTIONS, hosts=hosts) as cluster:
        port = int(cluster.url.rpartition(":")[2])
        clients = await open_clients(port, scenario, Report(), asyncio.Event())
        async with (
            connect(cluster.internal) as rooms,
            aiohttp.ClientSession() as session,
            traffic(cluster.url),
        ):
            await run_every_hook(rooms)
            status = await cluster.status()
            scraper = Scraper(session, cluster.internal)
            pids = [gateway.pid for gateway in status.gateways] + [host.pid for host in status.members]
            cpu = await cost(scraper, pids)
            worst = max([await passes(scraper, rooms, session, cluster.url) for _ in range(2)])
        for client in clients:
            client.transport.abort()
    print(f"{hosts} hosts, {connections:,} connections and rooms: a scrape of {scraper.size:,} bytes takes "
          f"{1000 * cpu:5.1f} ms of processor time (at most {1000 * MAX_CPU:g}), "
          f"the longest pass of a loop {1000 * worst:5.1f} ms (at most {1000 * MAX_PASS:g})", flush=True)  # fmt: skip
    wrong = [f"{hosts} hosts: a scrape costs {1000 * cpu:.1f} ms"] if cpu > MAX_CPU else []
    return wrong + ([f"{hosts} hosts: a loop was kept for {1000 * worst:.1f} ms"] if worst > MAX_PASS else [])


async def run(connections: int, shapes: list[int]) -> int:
    wrong = [each for hosts in shapes for each in await measure(connections, hosts)]
    print(*(wrong or ["a scrape is cheap"]), sep="\n")
    return int(bool(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=8000)
    parser.add_argument("--hosts", type=int, nargs="+", default=[0, 2])
    options = parser.parse_args()
    file_limit()
    return asyncio.run(run(options.connections, options.hosts))


if __name__ == "__main__":
    sys.exit(main())
