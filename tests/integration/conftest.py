"""Start services the way people do: `verani serve` in a process of its own."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest

from tests.integration.browsers import browser  # noqa: F401
from tests.judged import lifetimes, pytest_runtest_call, settled  # noqa: F401

ROOT = Path(__file__).parents[2]
NOTHING: Mapping[str, str] = MappingProxyType({})

# A loaded machine may take seconds to import everything; nothing waits this long when all is well.
PATIENCE = 60


class Server:
    """A running `verani serve` and what it has written to standard error."""

    def __init__(self, process: Process, target: str) -> None:
        self.target = target
        self.url = ""
        self.internal = ""
        self.lines: list[str] = []
        self._process = process
        self._listening = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def ws(self) -> str:
        """The service's address for WebSockets, without a path."""
        return self.url.replace("http", "ws", 1)

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    @property
    def port(self) -> int:
        """The public listener's port."""
        return int(self.url.rpartition(":")[2])

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            self.lines.append(raw.decode().rstrip("\n"))
            if match := re.search(r"(public|internal) listener: (\S+)", self.lines[-1]):
                if match[1] == "public":
                    self.url = match[2]
                else:
                    self.internal = match[2]
                if self.url and self.internal:
                    self._listening.set()
        self._listening.set()

    async def started(self) -> None:
        """Wait until it listens."""
        async with asyncio.timeout(PATIENCE):
            await self._listening.wait()
        assert self.url, "it ended without listening:\n" + "\n".join(self.lines)

    async def says(self, text: str) -> None:
        """Wait until a line of its log has this text."""
        async with asyncio.timeout(PATIENCE):
            while True:
                if any(text in line for line in self.lines):
                    return
                await asyncio.sleep(0.05)

    async def status(self, room: str) -> dict[str, Any]:
        """Ask the internal listener about a room; empty for one that it does not know."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.internal}/admin/rooms/{room}") as response:
            return dict(await response.json()) if response.status == 200 else {}

    async def until(self, room: str, **fields: object) -> None:
        """Wait until the status of a room has these fields."""
        async with asyncio.timeout(PATIENCE):
            while True:
                if fields.items() <= (await self.status(room)).items():
                    return
                await asyncio.sleep(0.05)

    async def asleep(self, room: str) -> None:
        """Wait until a room that has connections is asleep."""
        await self.until(room, state="asleep")

    async def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        return await self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it from doing anything, its sockets staying open, until `thaw`."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it as a crash would, without a chance to say goodbye."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: int) -> int:
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            code = await self._process.wait()
            await self._reader
        return code


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return ``await serve(target, *options)``, which starts a `Server`; those still running at the end are killed.

    The target is looked for in `directory`, and a `port` of 0 takes a free one.
    """
    servers: list[Server] = []

    async def start(
        target: str,
        *options: str,
        port: int = 0,
        directory: Path = ROOT,
        environ: Mapping[str, str] = NOTHING,
    ) -> Server:
        arguments = ["serve", target, "--port", str(port), "--internal-port", "0", *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
        environment |= environ
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "verani_gateway", *arguments, cwd=directory, env=environment, stderr=PIPE
        )
        server = Server(process, target)
        servers.append(server)
        await server.started()
        return server

    yield start
    for server in servers:
        await server.kill()
