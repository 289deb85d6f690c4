"""Start two services at the same moment on one machine, and stop them: `python -m benchmarks.neighbours [TIMES]`.

Each has two room hosts and two gateways, and says nothing of ports but where its clients connect. Fails if one does
not become ready, does not stop with 0, or leaves a process, a folder or a socket behind.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
import time
import uuid
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

import aiohttp

__all__ = ["pair"]

_ROOT: Final = Path(__file__).parents[1]
_SHAPE: Final = ("--hosts", "2", "--gateways", "2", "--port", "0")
_PATIENCE: Final = 180.0


async def pair(folder: Path) -> None:
    """Run two services side by side, from the same start to the same stop; their runtime folders are in `folder`."""
    mark = uuid.uuid4().hex
    services = await asyncio.gather(_start(folder, mark), _start(folder, mark))
    try:
        async with asyncio.timeout(_PATIENCE):
            urls = await asyncio.gather(*(_ready(service) for service in services))
            await asyncio.gather(*(_use(url) for url in urls))
            for service in services:
                service.terminate()
            codes = await asyncio.gather(*(_end(service) for service in services))
    except BaseException:
        for service in services:
            if service.returncode is None:
                service.kill()
        raise
    if codes != [0, 0]:
        raise AssertionError(f"they ended with {codes}")
    if left := _leftovers(mark, folder):
        raise AssertionError(f"something is left: {left}")


async def _start(folder: Path, mark: str) -> Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verani_gateway", "serve", "examples.chat:chat", *_SHAPE),
        cwd=_ROOT,
        env={**inherited, "XDG_RUNTIME_DIR": str(folder), "NEIGHBOURS": mark},
        stderr=PIPE,
    )


async def _ready(service: Process) -> str:
    """Return the public address once it is told."""
    assert service.stderr is not None
    lines = []
    async for raw in service.stderr:
        lines.append(raw.decode())
        if match := re.search(r"public listener: (http://\S+)", lines[-1]):
            return match[1]
    raise AssertionError("it is not ready:\n" + "".join(lines))


async def _use(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for room in range(4):
            async with session.ws_connect(f"{url}/ws?room={room}") as ws:
                await ws.send_json({"type": "chat.join", "data": "general", "id": 1})
                while (await ws.receive_json())["type"] != "ack":
                    pass


async def _end(service: Process) -> int:
    """Read until nobody holds the pipe any more, and return the exit code."""
    assert service.stderr is not None
    lines = (await service.stderr.read()).decode().splitlines()
    if wrong := [line for line in lines if " INFO " not in line]:
        raise AssertionError("\n".join(wrong))
    return await service.wait()


def _leftovers(mark: str, folder: Path) -> list[str]:
    sockets = [line for line in Path("/proc/net/unix").read_text().splitlines() if str(folder) in line]
    return [*_processes(mark), *map(str, folder.iterdir()), *sockets]


def _processes(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # of another user, or gone
    return found


async def _main(times: int) -> None:
    with tempfile.TemporaryDirectory(prefix="vn") as folder:
        for number in range(1, times + 1):
            began = time.monotonic()
            await pair(Path(folder))
            print(f"pair {number} of {times}: ready and stopped in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
