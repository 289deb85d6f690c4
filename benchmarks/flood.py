"""Flood a server with 200 connections that send as fast as they can, once per policy, and watch a quiet room meanwhile.

Run as `python -m benchmarks.flood [--quick] [--loop uvloop]`. Server, flooders and prober (this process) are processes
of their own; the handlers do nothing. The baseline is the quiet room's latency in the same run, with the flooders
connected and silent. Exits with 1 if
- the quiet room's p99 under the flood is more than `MAX_RATIO` times its baseline,
- a room sees a frame above the rate, or does not see one below it under throttle,
- an unread client waits longer for a sign of life than the original client has patience,
- the policy close does not close with 1008, or throttle and drop close before their time.

The server has a core of its own, and flooders run on the other one when the prober has nothing to do: it is the server
that is measured, not who gets a core.
A closed flooder comes back as the original client does: after 1 s, then 1.5 times as long, from 1 s again once it
was open.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import signal
import socket
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import msgspec
from aiohttp import ClientSession, web

from verani import Context, Settings, define_room
from verani.settings import RatePolicy
from verani_actors.upkeep.memory import quieten_collector
from verani_gateway import setup

from .processes import Cores, cpu_seconds
from .servers import new_loop

FLOODERS = 200
FLOODED_ROOMS = 20
# What 200 flooders may send then, a core can handle: above, it is not for the rate limit to say who waits. With 200,
# the default, nobody ever gets above it, and there is nothing to drop or to close.
RATE = 50.0
MAX_RATIO = 3.0
# The original client hangs for ever after so many seconds without an answer to its ping.
PATIENCE = 10.0
SEND_BUFFER = 64 << 10
# Connections in the quiet room, and how often each sends: half the rate, often enough together for a p99.
PROBES = 20
PROBE_EVERY = 0.04
# What the original client waits before it comes back, and by what that grows until it is open again.
BACKOFF, GROWTH, LONGEST = 1.0, 1.5, 30.0
# The loop needs a moment between a flooder's start and its first frame above the rate.
SLACK = 1.1

_decode = msgspec.json.Decoder().decode


def burst(rate: float) -> int:
    """Return how many frames may come at once: the default, two seconds' worth."""
    return int(2 * rate)


def frame(payload: bytes) -> bytes:
    """Wrap at most 125 bytes; a mask of zeros is a mask: the payload stays as it is."""
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


# Numbered frames that are sent again and again: making them must not cost what reading them does.
CHUNK = 500
FLOOD = b"".join(frame(b'{"type":"f","data":%d}' % n) for n in range(CHUNK))


def handshake(room: str, client: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /ws?room={room}&userId={client} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


# --- the server ----------------------------------------------------------------------------------------------


class Counts(msgspec.Struct):
    """What the flooded rooms saw: frames, and frames that did not follow the one before."""

    handled: int = 0
    skipped: int = 0
    connects: int = 0


def application(policy: RatePolicy, rate: float) -> web.Application:
    """Serve one quiet room and the flooded ones."""
    counts = Counts()
    expected: dict[str, int] = {}
    room = define_room("bench", hibernate_after=None)

    @room.on_connect
    def on_connect(ctx: Context[Any, Any]) -> None:
        counts.connects += ctx.actor.name != "bench/quiet"
        expected[ctx.meta.client_id] = 0

    @room.on_disconnect
    def on_disconnect(ctx: Context[Any, Any]) -> None:
        del expected[ctx.meta.client_id]

    @room.on("f")
    def flooded(ctx: Context[Any, Any], data: int) -> None:
        client = ctx.meta.client_id
        counts.handled += 1
        counts.skipped += data != expected[client]
        expected[client] = (data + 1) % CHUNK

    @room.on("probe")
    def probe(ctx: Context[Any, Any], data: Any) -> None:
        ctx.emit("probe", data)

    app = web.Application()
    settings = Settings(rate_policy=policy, rate_limit=rate, rate_burst=burst(rate), max_connections=0)
    setup(app, room, settings=settings)

    async def stats(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(counts))

    app.router.add_get("/stats", stats)
    return app


async def serve(policy: RatePolicy, rate: float) -> None:
    runner = web.AppRunner(application(policy, rate), access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    quieten_collector()  # as `verani serve` does
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(runner.addresses[0][1], flush=True)
    await stop.wait()
    await runner.cleanup()


# --- connections ---------------------------------------------------------------------------------------------


class Line(asyncio.Protocol):
    """One WebSocket as its bytes."""

    def __init__(self, room: str, name: str) -> None:
        self._hello = handshake(room, name)
        self._buffer = b""
        self.is_open = False
        self.code: int | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, port: int) -> None:
        """Connect; raises ConnectionError if the handshake is refused."""
        raw = socket.socket()
        # What waits in the kernel of a client is on another machine, outside a benchmark.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", port))
        await loop.create_connection(lambda: self, sock=raw)
        await self.opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        position = 0
        if not self.is_open:
            end = data.find(b"\r\n\r\n")
            if end >= 0 and not data.startswith(b"HTTP/1.1 101"):
                self.transport.abort()
            if end < 0:
                self._buffer = data
                return
            position = end + 4
            self.is_open = True
            if not self.opened.done():  # the flood may be over
                self.opened.set_result(None)
        while len(data) - position >= 2 and len(data) - position - 2 >= data[position + 1]:
            opcode, start = data[position] & 15, position + 2
            position = start + data[position + 1]
            if opcode == 8:
                self.code = int.from_bytes(data[start : start + 2], "big")
                self.transport.close()
            else:
                self.take(data[start:position])
        self._buffer = data[position:]

    def take(self, payload: bytes) -> None:
        """Look at one frame of at most 125 bytes."""

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionError("refused"))
        if not self.ended.done():
            self.ended.set_result(None)


class Report(msgspec.Struct):
    """What the flooders saw."""

    sent: int = 0
    opened: int = 0
    lost: int = 0
    codes: dict[str, int] = {}
    longest_silence: float = 0.0


class Flooder(Line):
    """Send numbered frames as fast as they are taken; note how long the server is silent meanwhile."""

    def __init__(self, room: str, name: str, report: Report) -> None:
        super().__init__(room, name)
        self._report = report
        self._heard = 0.0
        self._paused = False
        self._flooding = False

    def flood(self) -> None:
        self._flooding = True
        self._heard = time.monotonic()
        self._pour()

    def stop(self) -> None:
        self._flooding = False
        self.note_silence()

    def _pour(self) -> None:
        if not self._flooding or self._paused or self.transport.is_closing():
            return
        self._report.sent += CHUNK
        self.transport.write(FLOOD)
        asyncio.get_running_loop().call_soon(self._pour)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pour()

    def note_silence(self) -> None:
        now = time.monotonic()
        if self._heard:
            self._report.longest_silence = max(self._report.longest_silence, now - self._heard)
        self._heard = now

    def take(self, payload: bytes) -> None:
        self.note_silence()


async def keep_flooding(port: int, number: int, report: Report, go: asyncio.Event, ready: asyncio.Semaphore) -> None:
    """Be one client: connect, flood once told to, come back when closed."""
    backoff = BACKOFF
    while True:
        flooder = Flooder(f"flooded-{number % FLOODED_ROOMS}", f"u{number}", report)
        try:
            await flooder.open(port)
        except OSError:
            await asyncio.sleep(backoff)
            backoff = min(LONGEST, backoff * GROWTH)
            continue
        backoff = BACKOFF
        report.opened += 1
        ready.release()
        try:
            await go.wait()
            flooder.flood()
            await flooder.ended
        finally:
            flooder.stop()
            if not flooder.ended.done():
                flooder.transport.abort()
        code = "lost" if flooder.code is None else str(flooder.code)
        report.codes[code] = report.codes.get(code, 0) + 1
        await asyncio.sleep(backoff)


async def flood(port: int) -> None:
    """Connect, say so, flood from the first line of standard input to the second, and report."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    report, go, ready = Report(), asyncio.Event(), asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep_flooding(port, n, report, go, ready)) for n in range(FLOODERS)]
        for _ in tasks:
            await ready.acquire()
        print("ready", flush=True)
        await lines.readline()
        go.set()
        await lines.readline()
        for task in tasks:
            task.cancel()
    print(msgspec.json.encode(report).decode(), flush=True)


class Probe(Line):
    """Ask in the quiet room, on time whatever comes back, and measure how long the answers take."""

    def __init__(self, name: str) -> None:
        super().__init__("quiet", name)
        self._asked: dict[int, float] = {}
        self._n = 0
        self.took: list[float] = []

    async def ask(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self.transport.is_closing():
            self._n += 1
            self._asked[self._n] = time.perf_counter()
            self.transport.write(frame(b'{"type":"probe","data":%d}' % self._n))
            due = max(due + PROBE_EVERY, loop.time())
            await asyncio.sleep(due - loop.time())

    def take(self, payload: bytes) -> None:
        self.took.append(time.perf_counter() - self._asked.pop(_decode(payload)["data"]["value"]))

    def reset(self) -> list[float]:
        """Return what was measured since, the answers that are still missing with what they took so far."""
        now = time.perf_counter()
        took, self.took = [*self.took, *(now - asked for asked in self._asked.values() if now - asked > 1)], []
        return took


# --- the run -------------------------------------------------------------------------------------------------


class Quantiles:
    """p50 and p99 of latencies, in milliseconds."""

    def __init__(self, took: list[float]) -> None:
        cuts = statistics.quantiles(took, n=100)
        self.count = len(took)
        self.p50, self.p99 = 1e3 * cuts[49], 1e3 * cuts[98]

    def __str__(self) -> str:
        return f"p50 {self.p50:7.2f} ms, p99 {self.p99:7.2f} ms"


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[Process]:
    """Run this module in another process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.flood", *arguments, stdin=PIPE, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def say(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await process.stdin.drain()


async def hear(process: Process) -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(120):
        return await process.stdout.readline()


async def run(policy: RatePolicy, options: argparse.Namespace, cores: Cores, flood_seconds: float) -> list[str]:
    """Measure one policy; return the promises that were broken."""
    async with child("--serve", policy, "--loop", options.loop, "--rate", str(options.rate)) as server:
        port = int(await hear(server))
        cores.pin_servers([server.pid])
        async with child("--flood", str(port)) as flooders, ClientSession() as session:
            assert await hear(flooders) == b"ready\n", "the flooders could not connect"
            probes = [Probe(f"p{n}") for n in range(PROBES)]
            for probe in probes:
                await probe.open(port)
            asking = [asyncio.create_task(probe.ask()) for probe in probes]
            await asyncio.sleep(0.5)  # the first answers warm everything up

            def quantiles() -> Quantiles:
                return Quantiles([seconds for probe in probes for seconds in probe.reset()])

            quantiles()
            await asyncio.sleep(2.0 if options.quick else 4.0)
            baseline = quantiles()
            await say(flooders)
            began, cpu = time.monotonic(), cpu_seconds(server.pid)
            await asyncio.sleep(flood_seconds)
            flooded = quantiles()
            cpu, lasted = cpu_seconds(server.pid) - cpu, time.monotonic() - began
            await say(flooders)
            report = msgspec.json.decode(await hear(flooders), type=Report)
            lasted = time.monotonic() - began
            async with session.get(f"http://127.0.0.1:{port}/stats") as response:
                counts = msgspec.json.decode(await response.read(), type=Counts)
            for task in asking:
                task.cancel()
            for probe in probes:
                probe.transport.abort()
    ratio = flooded.p99 / baseline.p99
    print(f"{policy}: baseline {baseline}; flooded {flooded}; ratio of p99 {ratio:.2f}")
    print(
        f"  server {100 * cpu / lasted:.0f} % of a core; sent {report.sent:,}, seen {counts.handled:,}; "
        f"connections {report.opened:,}, closed {report.codes or 'none'}; "
        f"longest silence {report.longest_silence:.1f} s",
        flush=True,
    )
    broken = [f"{policy}: p99 is {ratio:.1f} times the baseline"] if ratio > MAX_RATIO else []
    return broken + [f"{policy}: {each}" for each in judge(policy, options.rate, report, counts, lasted)]


def judge(policy: RatePolicy, rate: float, report: Report, counts: Counts, lasted: float) -> list[str]:
    """Say which promises were broken that have nothing to do with speed."""
    broken = []
    # Each connection may send a burst at once, and then at its rate.
    allowed = report.opened * burst(rate) + SLACK * FLOODERS * rate * lasted
    if counts.handled > allowed:
        broken.append(f"{counts.handled:,} frames reached rooms, of at most {allowed:,.0f}")
    if policy != "drop" and counts.skipped:
        broken.append(f"{counts.skipped:,} frames did not follow the one before")
    if policy == "close":
        if set(report.codes) != {"1008"} or report.codes["1008"] < FLOODERS:
            broken.append(f"closed with {report.codes}, expected 1008 for each, and nothing else")
    elif report.codes:
        broken.append(f"closed with {report.codes}")
    if policy == "throttle" and report.longest_silence > PATIENCE:
        broken.append(f"{report.longest_silence:.1f} s without a sign of life")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a shorter flood, too short for the silence to matter")
    parser.add_argument("--policy", choices=get_args(RatePolicy), action="append", help="only this policy")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio", help="event loop of the server")
    parser.add_argument("--rate", type=float, default=RATE, help="frames a second that each connection may send")
    parser.add_argument("--serve", choices=get_args(RatePolicy), help=argparse.SUPPRESS)
    parser.add_argument("--flood", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with asyncio.Runner(loop_factory=lambda: new_loop(options.loop)) as runner:
            runner.run(serve(options.serve, options.rate))
        return 0
    if options.flood:
        asyncio.run(flood(options.flood))
        return 0
    cores, broken = Cores.choose(), []
    cores.pin_load()
    for policy in options.policy or get_args(RatePolicy):
        # An unread client gets a pong every 4 s: with 14 s, three of them, beyond the original client's patience.
        seconds = 4.0 if options.quick else 14.0
        broken += asyncio.run(run(policy, options, cores, seconds))
    for each in broken:
        print(f"FAILED: {each}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
