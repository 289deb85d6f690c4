"""The memory of a server does not grow with what bad clients send."""

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

from tests.raw import PATIENCE, Opcode, RawClient, frame, text

ROOT = Path(__file__).parents[2]
STATM = Path("/proc/self/statm")

APP = """
from verani.room.definition import define_room
chat = define_room("chat")
chat.on("say")(lambda ctx, data: None)
"""

# Every way to be no frame: no JSON, no object, no type, wrong types, bad names, too deep, binary, unfit for the room.
BAD_FRAMES = [
    text(b""),
    text(b"{"),
    text(b"[1,2,3]"),
    text(b'{"type":1}'),
    text(b'{"type":"say","channel":5}'),
    text(b'{"type":"say","id":-1}'),
    text(b'{"type":"a\\nb"}'),
    text(b'{"type":"\\ud80"}'),
    text(b'{"type":"' + b"x" * 300 + b'"}'),
    text(b'{"type":"say","data":NaN}'),
    text(b'{"type":"say","data":' + b"[" * 200 + b"]" * 200 + b"}"),
    text(b'{"type":"say","data":' + b"[" * 2000),
    text(b'{"type":"say","data":1e999}'),
    text('{"type":"say","data":"' + "ü" * 500 + '"} and more'),
    frame(Opcode.BINARY, b"\x00" * 100),
    frame(Opcode.BINARY),
    frame(Opcode.TEXT, b'{"type":', fin=False) + frame(Opcode.CONTINUATION, b"5}"),
]
BURST = b"".join(BAD_FRAMES) * 20
FRAMES_PER_BURST = len(BAD_FRAMES) * 20

# What 100,000 frames may add: an allocator's noise, 50 bytes a frame.
ALLOWED = 5 << 20


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[int, int]]:
    """Run `verani serve` and give its process id and its port."""
    (tmp_path / "app.py").write_text(APP)
    options = ["--port", "0", "--internal-port", "0", "--max-invalid-frames", "0"]
    options += ["--rate-limit", "0", "--rate-limit-bytes", "0"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verani_gateway", "serve", "app:chat", *options),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stderr=PIPE,
    )
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while not (match := re.search(r"public listener: http://127\.0\.0\.1:(\d+)", "".join(lines[-1:]))):
            line = await process.stderr.readline()
            assert line, "".join(lines)
            lines.append(line.decode())
    reading = asyncio.create_task(process.stderr.read())
    yield process.pid, int(match[1])
    process.send_signal(signal.SIGTERM)
    await process.wait()
    said = (await reading).decode()
    assert process.returncode == 0, said
    assert "Traceback" not in said, said


async def _send_bad_frames(client: RawClient, frames: int) -> None:
    for _ in range(frames // FRAMES_PER_BURST + 1):
        client.send(BURST)
        await client.pinged()


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc to read the memory of another process")
async def test_a_hundred_thousand_bad_frames_leave_nothing_behind(served: tuple[int, int]) -> None:
    pid, port = served
    client = await RawClient.open(port)
    await client.upgrade()
    await _send_bad_frames(client, 20_000)
    before = resident(pid)
    await _send_bad_frames(client, 100_000)
    grown = resident(pid) - before
    await client.end()
    assert grown < ALLOWED, f"{grown / (1 << 20):.1f} MiB"


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc to read the memory of another process")
async def test_a_thousand_connections_that_break_the_protocol_leave_nothing_behind(served: tuple[int, int]) -> None:
    pid, port = served

    async def offend(times: int) -> None:
        for _ in range(times):
            client = await RawClient.open(port)
            await client.upgrade(together=frame(3, b"x" * 1000))
            await client.rest()
            await client.end()

    await offend(300)
    before = resident(pid)
    await offend(1000)
    grown = resident(pid) - before
    assert grown < ALLOWED, f"{grown / (1 << 20):.1f} MiB"
