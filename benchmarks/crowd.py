"""Flood a room of thousands, and print whether anything is lost and how a room of two fares beside it.

Run as `python -m benchmarks.crowd [--members N] [--hosts 0 2]`. In one room each of `--members` (3,000) sends one frame
to all; 250 of them send 16 each; one hook broadcasts 3,000 times; and with hosts, the one that has the room is killed
while 4,000 frames wait. Exits with 1 if a member is closed, a frame is not there exactly once, or the answers in a room
of two on the same host take more than `MAX_SECONDS` at the 99th percentile. That says something on a quiet machine
only; while a host is dead, nobody is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import resource
import signal
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from typing import Any

import aiohttp

from verani import Context, define_room
from verani.link.epoch import Epoch, Member

from .cluster import Cluster

MAX_SECONDS = 0.25
SENDERS, EACH = 250, 16
BURST = 3000

# Seconds without a frame after which no more is expected, and between two questions in the room of two.
PATIENCE = 30.0
PAUSE = 0.01

crowd = define_room("crowd", hibernate_after=None)


@crowd.on("cast")
def cast(ctx: Context[Any, Any], data: int) -> None:
    ctx.actor.broadcast("default", {"type": "cast", "n": data})


@crowd.on("burst")
def burst(ctx: Context[Any, Any], data: list[int]) -> None:
    first, count = data
    for number in range(first, first + count):
        ctx.actor.broadcast("default", {"type": "cast", "n": number, "text": "x" * 10})


@crowd.on("echo")
def echo(ctx: Context[Any, Any], data: int) -> int:
    return data


# --- the members, in a process of their own ----------------------------------------------------------------


_NUMBERS = re.compile(rb'"n":(\d+)')


class Crowd:
    """The members of the one room."""

    def __init__(self) -> None:
        self.members: list[Listener] = []
        self.received = 0
        self.sent: list[int] = []
        self.since = time.perf_counter()

    async def join(self, host: str, port: int, room: str, count: int) -> None:
        loop = asyncio.get_running_loop()
        for start in range(0, count, 100):
            for _ in range(start, min(start + 100, count)):
                _, member = await loop.create_connection(lambda: Listener(self, room), host, port)
                self.members.append(member)
            await asyncio.gather(*(member.open for member in self.members[start:]))

    def send(self, who: int, *frames: tuple[str, str]) -> None:
        """Send frames: type, and data as JSON."""
        self.members[who].transport.write(
            b"".join(_masked(b'{"type":"%b","data":%b}' % (kind.encode(), data.encode())) for kind, data in frames)
        )

    def expect(self, numbers: list[int]) -> None:
        self.sent += numbers
        self.since = time.perf_counter()

    async def wait(self) -> None:
        """Wait until everybody has everything, or nothing has come for long."""
        expected = len(self.sent) * len(self.members)
        while self.received < expected and time.perf_counter() - self.since < PATIENCE:
            await asyncio.sleep(0.01)

    def defects(self) -> list[str]:
        """Say what is not as promised."""
        closed = [member.closed for member in self.members if member.closed is not None]
        found = [f"{len(closed)} members were closed: {sorted(set(closed))}"] if closed else []
        count, total, squares = len(self.sent), sum(self.sent), sum(n * n for n in self.sent)
        wrong = [m for m in self.members if (m.count, m.total, m.squares) != (count, total, squares)]
        if wrong:
            counts = [member.count for member in wrong]
            found.append(f"{len(wrong)} members have {min(counts)} to {max(counts)} frames, not each of {count} once")
        return found


class Listener(asyncio.Protocol):
    """One member; what it hears is summed up."""

    def __init__(self, crowd: Crowd, room: str) -> None:
        self.crowd = crowd
        self.room = room
        self.count = self.total = self.squares = 0
        self.closed: int | None = None
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(
            f"GET /ws?room={self.room} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        if not self.open.done():
            if b"\r\n\r\n" not in data:
                self._tail = data
                return
            self.open.set_result(None)
        # A number is whole once something follows it.
        whole = data.rfind(b"}") + 1
        numbers = list(map(int, _NUMBERS.findall(data, 0, whole)))
        self._tail = data[whole:]
        self.count += len(numbers)
        self.total += sum(numbers)
        self.squares += sum(n * n for n in numbers)
        self.crowd.received += len(numbers)
        self.crowd.since = time.perf_counter()

    def connection_lost(self, exc: Exception | None) -> None:
        place = self._tail.rfind(b"\x88")
        self.closed = int.from_bytes(self._tail[place + 2 : place + 4], "big") if place >= 0 else 1006
        if not self.open.done():
            self.open.set_exception(ConnectionError(f"refused: {self._tail[:80]!r}"))


def _masked(payload: bytes) -> bytes:
    # A mask of zeros is a mask: the payload stays as it is.
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


async def run_members(url: str, room: str, count: int) -> None:
    """Do what standard input says, a phase a line; answer each when all of it has arrived."""
    host, _, port = url.removeprefix("http://").partition(":")
    everybody = Crowd()
    await everybody.join(host, int(port), room, count)
    print("joined", flush=True)
    numbers = itertools.count()
    senders = min(SENDERS, count)
    while phase := (await asyncio.to_thread(sys.stdin.readline)).strip():
        match phase:
            case "each":
                sent = {who: [next(numbers)] for who in range(count)}
            case "some" | "kill":
                sent = {who: [next(numbers) for _ in range(EACH)] for who in range(senders)}
            case _:
                sent = {}
                burst = [next(numbers) for _ in range(BURST)]
                everybody.expect(burst)
                everybody.send(0, ("burst", f"[{burst[0]},{BURST}]"))
        everybody.expect([number for each in sent.values() for number in each])
        for who, each in sent.items():
            everybody.send(who, *(("cast", str(number)) for number in each))
        print("sent", flush=True)
        await everybody.wait()
        print("; ".join(everybody.defects()) or "fine", flush=True)
    for member in everybody.members:
        member.transport.abort()


# --- beside it ---------------------------------------------------------------------------------------------


class Pair:
    """A room of two, one of whom asks for an answer again and again."""

    def __init__(self, url: str, room: str) -> None:
        self.url = f"{url}/ws?room={room}".replace("http", "ws", 1)
        self.seconds: list[float] = []
        self.closed = False

    async def ask(self) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self.url) as asks,
            session.ws_connect(self.url) as _,
        ):
            for number in itertools.count(1):
                begun = time.perf_counter()
                await asks.send_str(f'{{"type":"echo","data":1,"id":{number}}}')
                while True:
                    message = await asks.receive()
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        self.closed = True
                        return
                    if f'"id":{number}' in message.data:
                        break
                self.seconds.append(time.perf_counter() - begun)
                await asyncio.sleep(PAUSE)


async def place(cluster: Cluster, hosts: int) -> tuple[int, str, str]:
    """Choose two rooms of one host, and return its process id, too."""
    if not hosts:
        return 0, "all", "two"
    members = await cluster.members(hosts)
    epoch = Epoch(1, "", tuple(Member(each.id, each.incarnation, "", each.pid, "") for each in members))
    owner = epoch.owner("crowd/all")
    assert owner is not None
    beside = next(name for name in map("two-{}".format, itertools.count()) if epoch.owner(f"crowd/{name}") == owner)
    return owner.pid, "all", beside


async def measure(members: int, hosts: int) -> list[str]:
    """Run all phases in one shape and return what is wrong."""
    options = ("--max-connections", "0", "--hibernate-after", "never", "--ping-interval", "600")
    wrong: list[str] = []
    async with Cluster.serve("benchmarks.crowd:crowd", *options, hosts=hosts) as cluster:
        victim, room, beside = await place(cluster, hosts)
        arguments = (sys.executable, "-m", "benchmarks.crowd", "--join", cluster.url, room, "--members", str(members))
        process = await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        pair = Pair(cluster.url, beside)
        try:
            await process.stdout.readline()
            asking = asyncio.create_task(pair.ask())
            for phase in ("each", "some", "hook", "kill") if hosts else ("each", "some", "hook"):
                pair.seconds.clear()
                begun = time.perf_counter()
                process.stdin.write(f"{phase}\n".encode())
                await process.stdout.readline()
                if phase == "kill":
                    os.kill(victim, signal.SIGKILL)
                said = (await process.stdout.readline()).decode().strip()
                p99, most = _p99(pair.seconds), max(pair.seconds, default=0.0)
                print(f"{hosts} hosts, {members} members, {phase:<5} {time.perf_counter() - begun:6.2f} s; {said}; "
                      f"beside it p99 {p99 * 1000:5.0f} ms, at most {most * 1000:5.0f} ms "
                      f"of {len(pair.seconds)}", flush=True)  # fmt: skip
                if said != "fine":
                    wrong.append(f"{phase}: {said}")
                if phase != "kill" and p99 > MAX_SECONDS:
                    wrong.append(f"{phase}: answers beside it take {p99 * 1000:.0f} ms")
            if pair.closed:
                wrong.append("the room of two was closed")
            asking.cancel()
            await asyncio.wait([asking])
        finally:
            process.stdin.close()
            await process.wait()
        wrong += [line for line in cluster.lines if "given up" in line or "Traceback" in line]
    return wrong


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98] if len(seconds) > 1 else max(seconds, default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=3000)
    parser.add_argument("--hosts", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--join", nargs=2, metavar=("URL", "ROOM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.join:
        url, room = options.join
        asyncio.run(run_members(url, room, options.members))
        return 0
    wrong = [
        f"{hosts} hosts: {text}" for hosts in options.hosts for text in asyncio.run(measure(options.members, hosts))
    ]
    for text in wrong[:20]:
        print(text, file=sys.stderr)
    print(f"{len(wrong)} defects" if wrong else "nothing lost, nothing twice, nobody closed, the room beside answers")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
