"""Print what sleep and waking cost: latency, tear-down, and bytes per awake and per sleeping room.

Run as `python -m benchmarks.hibernation [--quick]`. The gateway is synthetic: it makes the attachments up when it is
asked for them, so they are counted on neither side. Bytes are those that tracemalloc sees. Exits with 1 if sleeping
costs more than a fifth of being awake, or a small room takes 2 ms or more to wake (p50).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
import tracemalloc

from verani import ConnectionMeta, Settings, define_room
from verani.link.messages import (
    Connect,
    EntryBatch,
    FrameInput,
    HostMessage,
    Input,
    InputBatch,
    Pull,
    Record,
    Snapshot,
)
from verani_actors.rooms.host import RoomHost

room = define_room("bench")
room.on("n")(lambda ctx, data: None)
room.on("sleep")(lambda ctx, data: ctx.actor.hibernate())
_codec = room.codec(16384)


def attachment(name: str, member: int) -> bytes:
    return _codec.encode(ConnectionMeta(user_id=f"user-{member}", client_id=f"{name}-{member}"))


class SyntheticGateway:
    """Hold `members` connections in every room without remembering any."""

    def __init__(self, host: RoomHost, members: int) -> None:
        self._host = host
        self.members = members
        self._number = 0
        self.processed: dict[str, int] = {}
        self._awaited: tuple[str, int] | None = None
        self._done = asyncio.Event()
        # Of rooms that have been filled: before, there is nobody to restore.
        self.filled = False
        host.link("g", self._take)

    def put(self, *inputs: Input) -> None:
        self._host.receive("g", InputBatch(list(inputs)))
        self._host.run()

    def number(self) -> int:
        self._number += 1
        return self._number

    def fill(self, name: str) -> list[Input]:
        return [Connect(name, self.number(), f"{name}-{m}", attachment(name, m)) for m in range(self.members)]

    def frame(self, name: str, event: str) -> FrameInput:
        return FrameInput(name, self.number(), f"{name}-0", event)

    async def ask(self, name: str, event: str) -> None:
        """Send a frame and wait until it is acknowledged."""
        frame = self.frame(name, event)
        self._done.clear()
        self._awaited = (name, frame.number)
        self.put(frame)
        await self._done.wait()

    def _take(self, message: HostMessage) -> None:
        match message:
            case Pull():
                records = [
                    Record(f"{message.room}-{m}", attachment(message.room, m))
                    for m in range(self.members if self.filled else 0)
                ]
                self._host.receive("g", Snapshot(message.room, message.incarnation, records))
            case EntryBatch():
                for entry in message.entries:
                    if self._awaited is not None and self._awaited == (entry.room, entry.processed):
                        self._done.set()


async def until_asleep(host: RoomHost) -> None:
    while host.rooms():  # the loop's next pass is what is waited for
        await asyncio.sleep(0)


async def latency(members: int, wakes: int) -> tuple[float, float, float]:
    """Return p50 and p99 of a wake, and the CPU time of a tear-down, in milliseconds."""
    host = RoomHost([room], Settings(hibernate_after=None))
    await host.start()
    gateway = SyntheticGateway(host, members)
    gateway.put(*gateway.fill("bench/a"))
    await gateway.ask("bench/a", "sleep")
    gateway.filled = True
    await until_asleep(host)
    took: list[float] = []
    torn: list[float] = []
    for _ in range(wakes):
        began = time.perf_counter()
        await gateway.ask("bench/a", "n")
        took.append(1e3 * (time.perf_counter() - began))
        began = time.process_time()
        await gateway.ask("bench/a", "sleep")
        await until_asleep(host)
        torn.append(1e3 * (time.process_time() - began))
    await host.stop(5)
    cuts = statistics.quantiles(took, n=100)
    return cuts[49], cuts[98], statistics.median(torn)


async def memory(rooms: int) -> tuple[float, float]:
    """Return the bytes per awake and per sleeping room of two."""
    host = RoomHost(
        [room], Settings(hibernate_after=None, max_awake_rooms=rooms + 1, hook_blocked=600)
    )  # for the collector
    await host.start()
    gateway = SyntheticGateway(host, 2)
    names = [f"bench/{n}" for n in range(rooms)]
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for first in range(0, rooms, 500):
        gateway.put(*(input for name in names[first : first + 500] for input in gateway.fill(name)))
        await gateway.ask(names[min(first + 499, rooms - 1)], "n")
    gc.collect()
    awake = tracemalloc.get_traced_memory()[0] - before
    gateway.filled = True
    for first in range(0, rooms, 500):
        gateway.put(*(gateway.frame(name, "sleep") for name in names[first : first + 500]))
        await asyncio.sleep(0)
    await until_asleep(host)
    gc.collect()
    asleep = tracemalloc.get_traced_memory()[0] - before
    await host.stop(5)
    return awake / rooms, asleep / rooms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rooms and wakes")
    share = 20 if parser.parse_args().quick else 1
    failed = False
    for members, wakes in ((2, 4000 // share), (1000, 200 // share)):
        p50, p99, torn = asyncio.run(latency(members, wakes))
        print(f"room of {members:>5}: wake p50 {p50:.3f} ms, p99 {p99:.3f} ms; tear-down {torn:.3f} ms of CPU")
        failed |= members == 2 and p50 >= 2
    rooms = 100_000 // share
    tracemalloc.start()
    awake, asleep = asyncio.run(memory(rooms))
    print(f"{rooms:,} rooms of 2: {awake:,.0f} bytes awake, {asleep:,.0f} bytes asleep, ratio {awake / asleep:.1f}")
    failed |= awake < 5 * asleep
    print("FAILED" if failed else "sleeping costs less than a fifth; a small room wakes in less than 2 ms")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
