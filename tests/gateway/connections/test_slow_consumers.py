"""Clients that stop reading cost the server little, and cost those that read nothing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.raw import PATIENCE, Opcode, RawClient

ROOT = Path(__file__).parents[3]
# These very sources, wherever the package is installed from.
PATHS = (ROOT, ROOT / "actors", ROOT / "gateway")
STATM = Path("/proc/self/statm")

APP = """
import sys
from verani.room.definition import define_room
room = define_room("chat", on_disconnect=lambda ctx: print(ctx.close_code, flush=True))

@room.on("shout")
def shout(ctx, data):
    ctx.actor.broadcast("default", {"n": data, "x": "x" * 20_000})
"""

STALLED = 100
READERS = 10
BROADCASTS = 1000  # of 20 KB each: 20 MB to each client
# Frames of the driver under way: the room must not run ahead of those that read.
WINDOW = 16
ALLOWED = 150 << 20


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run `verani serve` and give the process and its port; what rooms print is on its standard output."""
    (tmp_path / "app.py").write_text(APP)
    options = ["--port", "0", "--internal-port", "0", "--rate-limit", "0"]
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "verani_gateway", "serve", "app:room", *options),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, *PATHS)))},
            stdout=PIPE,
            stderr=log,
        )
    said = (tmp_path / "log").read_text
    async with asyncio.timeout(PATIENCE):
        while not (match := re.search(r"public listener: http://127\.0\.0\.1:(\d+)", said())):
            assert process.returncode is None, said()
            await asyncio.sleep(0.01)
    yield process, int(match[1])
    process.send_signal(signal.SIGTERM)
    await process.wait()
    assert process.returncode == 0, said()
    assert "Traceback" not in said(), said()


async def stall(port: int, number: int) -> RawClient:
    """Connect and never read again."""
    client = await RawClient.open(port, receive_buffer=4096)
    await client.upgrade(f"/ws?userId=stalled-{number}")
    assert isinstance(client.writer.transport, asyncio.Transport)
    client.writer.transport.pause_reading()
    return client


async def read_all(client: RawClient, progress: asyncio.Semaphore | None = None) -> list[int]:
    """Read every broadcast; return the numbers in the order they came."""
    numbers: list[int] = []
    while len(numbers) < BROADCASTS:
        received = await client.receive()
        if received.opcode == Opcode.TEXT:
            match = re.match(rb'{"type":"event","channel":"default","data":{"n":(\d+),"x":"x', received.payload)
            assert match is not None, received.payload[:100]
            numbers.append(int(match[1]))
            if progress is not None:
                progress.release()
    return numbers


async def shout(driver: RawClient, may_go_on: asyncio.Semaphore) -> None:
    for n in range(BROADCASTS):
        await may_go_on.acquire()
        driver.send({"type": "shout", "data": n})
        await driver.flush()


async def watch(pid: int) -> int:
    """Note the most memory a process has used, until cancelled."""
    most = resident(pid)
    try:
        while True:
            await asyncio.sleep(0.02)
            most = max(most, resident(pid))
    except asyncio.CancelledError:
        return most


@pytest.mark.threat(13)
@pytest.mark.skipif(not STATM.exists(), reason="needs /proc to read the memory of another process")
async def test_a_hundred_clients_that_stop_reading_cost_bounded_memory_and_the_readers_nothing(
    served: tuple[asyncio.subprocess.Process, int],
) -> None:
    process, port = served
    assert process.stdout is not None
    stalled = [await stall(port, n) for n in range(STALLED)]
    readers = [await RawClient.open(port) for _ in range(READERS)]
    for number, reader in enumerate(readers):
        await reader.upgrade(f"/ws?userId=reader-{number}")
    before = resident(process.pid)
    watching = asyncio.create_task(watch(process.pid))
    progress = asyncio.Semaphore(WINDOW)
    shouting = asyncio.create_task(shout(readers[0], progress))
    got = await asyncio.gather(*(read_all(reader, progress if reader is readers[0] else None) for reader in readers))
    await shouting
    assert got == [list(range(BROADCASTS))] * READERS
    # Each of them is told to close, and aborted when it has not answered.
    async with asyncio.timeout(2 * PATIENCE):
        codes = [int(await process.stdout.readline()) for _ in range(STALLED)]
    assert codes == [1013] * STALLED
    watching.cancel()
    grown = await watching - before
    assert grown < ALLOWED, f"{grown / (1 << 20):.1f} MiB"
    for client in (*stalled, *readers):
        client.reset()
