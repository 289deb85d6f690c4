"""Measure one server under one load: processor time of a delivery, waits, memory, and what the load itself took."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import msgspec

from .comparing import quantile
from .load import Client, Report, Scenario, open_clients, sever
from .peers.catalogue import Server
from .processes import Cores, Running, cpu_seconds, resident_bytes, started

__all__ = ["Crowd", "Measurement", "measure", "measure_crowd"]

# What comes after the last delivery is one too many.
_SETTLE = 0.05
_TIMEOUT = 120.0
# Node goes on compiling for about so many deliveries: before, echo costs its servers up to half as much again.
_COMPILED = 30_000


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of one server in one scenario gave. Times are microseconds, memory is bytes.

    `server_share` and `load_share` say which part of its core each of the two used: a load that uses all of its
    core while the server does not is what holds up the run.
    """

    scenario: str
    server: str
    cpu: float
    per_second: float
    p50: float = 0.0
    p99: float = 0.0
    memory: float = 0.0
    server_share: float = 0.0
    load_share: float = 0.0
    delivered: int = 0
    lost: int = 0
    out_of_order: int = 0

    @property
    def as_promised(self) -> bool:
        return not self.lost and not self.out_of_order


@dataclass(frozen=True)
class Crowd:
    """Connections that do nothing: `first` before anything is counted, then `connections`, in rooms of `members`."""

    name: str
    connections: int
    first: int = 200
    members: int = 10


class _Span:
    """Processor and wall time of server and load, from here to `end`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begun = self._now()

    def _now(self) -> tuple[float, float, float]:
        return cpu_seconds(self._pid), time.process_time(), time.perf_counter()

    def end(self) -> None:
        self.server, self.load, self.wall = (now - then for now, then in zip(self._now(), self._begun, strict=True))


@asynccontextmanager
async def _quiet() -> AsyncIterator[None]:
    """Let no collection of garbage of the load be somebody's latency."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def measure(server: Server, scenario: Scenario, cores: Cores) -> Measurement:
    """Start a server, connect everybody, send something to warm up, and then what is measured."""
    share = 1 if scenario.rate else server.share  # what is sent at a rate takes its time anyway
    count = max(1, round(scenario.messages * share))
    scenario = replace(scenario, messages=count)
    warm_up = _warm_up(scenario, compiles=server.runtime != "python")
    async with started(server.command, cores) as running, _quiet():
        report, done = Report(), asyncio.Event()
        clients = await open_clients(running.port, scenario, report, done, server.wire)
        await _send(clients, scenario, report, done, warm_up)
        report.latencies.clear()
        before, span = report.delivered, _Span(running.pid)
        await _send(clients, scenario, report, done, count)
        span.end()
        await asyncio.sleep(_SETTLE)
        sever(clients)
    delivered = report.delivered - before
    return Measurement(
        scenario=scenario.name,
        server=server.name,
        cpu=1e6 * span.server / max(1, delivered),
        per_second=delivered / span.wall,
        p50=1e6 * quantile(report.latencies, 0.50),
        p99=1e6 * quantile(report.latencies, 0.99),
        server_share=span.server / span.wall,
        load_share=span.load / span.wall,
        delivered=delivered,
        lost=abs(report.expected - report.delivered),  # what came twice is as wrong
        out_of_order=report.out_of_order,
    )


def _warm_up(scenario: Scenario, *, compiles: bool) -> int:
    """Return how many messages of each sender go before: a tenth, or as many as a compiler needs, but never more."""
    wanted = math.ceil(_COMPILED / replace(scenario, messages=1).deliveries) if compiles and not scenario.rate else 0
    return max(1, scenario.messages // 10, min(scenario.messages, wanted))


async def _send(clients: list[Client], scenario: Scenario, report: Report, done: asyncio.Event, count: int) -> None:
    """Have every sender send so many messages, and wait until all are delivered, or for `_TIMEOUT`."""
    done.clear()
    report.expected += replace(scenario, messages=count).deliveries
    try:
        async with asyncio.timeout(_TIMEOUT):
            if scenario.rate:
                await _pace([client for client in clients if client.sends], scenario.rate, count)
            else:
                for client in clients:
                    client.start(count)
            await done.wait()
    except TimeoutError:
        pass  # the measurement shows what is missing


async def _pace(senders: list[Client], rate: float, count: int) -> None:
    """Send in turn, at a rate; who is late catches up."""
    begun = time.perf_counter()
    for number in range(count * len(senders)):
        if (wait := begun + number / rate - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        senders[number % len(senders)].send(1)


async def measure_crowd(server: Server, crowd: Crowd, cores: Cores) -> Measurement:
    """Connect many who then do nothing: the cost of a handshake, and the memory of who is there."""
    async with started(server.command, cores) as running, _quiet():
        clients = await _join(server, running, "first", crowd.first, crowd.members)
        await asyncio.sleep(0.5)
        before, span = resident_bytes(running.pid), _Span(running.pid)
        clients += await _join(server, running, crowd.name, crowd.connections, crowd.members)
        span.end()
        await asyncio.sleep(0.5)
        memory = resident_bytes(running.pid) - before
        open_still = sum(not client.transport.is_closing() for client in clients)
        sever(clients)
    return Measurement(
        scenario=crowd.name,
        server=server.name,
        cpu=1e6 * span.server / crowd.connections,
        per_second=crowd.connections / span.wall,
        memory=memory / crowd.connections,
        server_share=span.server / span.wall,
        load_share=span.load / span.wall,
        delivered=crowd.connections,
        lost=len(clients) - open_still,
    )


async def _join(server: Server, running: Running, prefix: str, connections: int, members: int) -> list[Client]:
    nobody_sends = Scenario(prefix, "echo", connections // members, members, 0, 0, 0)
    return await open_clients(running.port, nobody_sends, Report(), asyncio.Event(), server.wire, prefix=prefix)
