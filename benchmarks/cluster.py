"""Start a service of several processes, as people do, and look at its members."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from verani_actors.operating.answers import HostStatus
from verani_gateway.operating.service_answers import ServiceStatus

__all__ = ["Cluster"]

# A loaded machine may take seconds to import everything in half a dozen processes; nothing waits this long otherwise.
PATIENCE = 60.0


class Cluster:
    """A running `verani serve`; what it writes to standard error is kept in `lines`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = self.internal = ""
        self.lines: list[str] = []
        self._listening = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def serve(cls, target: str, *options: str, hosts: int, gateways: int = 1) -> AsyncIterator[Cluster]:
        """Serve on free ports without a rate limit; stopped at the end."""
        shape = ["--hosts", str(hosts), "--gateways", str(gateways), "--admin-port", "0"] if hosts else []
        ports = ["--port", "0", "--internal-port", "0", "--rate-limit", "0", "--rate-limit-bytes", "0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "verani_gateway", "serve", target, *shape, *ports, *options),
            env=environment,
            stderr=PIPE,
        )
        cluster = cls(process)
        try:
            async with asyncio.timeout(PATIENCE):
                await cluster._listening.wait()
            assert cluster.internal, "\n".join(cluster.lines)
            yield cluster
        finally:
            await cluster.stop()

    @property
    def ws(self) -> str:
        """Where clients connect."""
        return self.url.replace("http", "ws", 1) + "/ws"

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())
            if match := re.search(r"(public|internal) listener: (\S+)", self.lines[-1]):
                if match[1] == "public":
                    self.url = match[2]
                else:
                    self.internal = match[2]
                    self._listening.set()
        self._listening.set()

    async def status(self) -> ServiceStatus:
        """Ask the internal listener who is there."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.internal}/admin/cluster") as response:
            return msgspec.json.decode(await response.read(), type=ServiceStatus)

    async def members(self, count: int) -> list[HostStatus]:
        """Wait until there are so many hosts, all in one epoch, and list them."""
        async with asyncio.timeout(PATIENCE):
            while True:
                status = await self.status()
                epochs = {host.epoch for host in status.members} | {gateway.epoch for gateway in status.gateways}
                if len(status.members) == count and len(epochs) == 1 and not status.missing:
                    return status.members
                await asyncio.sleep(0.05)  # each process answers

    async def stop(self) -> int:
        """Stop the service and return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await self._reader
        return code
