"""Start `verani` in processes of its own, and look at them: the fixture `start`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

__all__ = ["APP", "ROOT", "Output", "Service", "Start", "start"]

ROOT = Path(__file__).parents[2]

APP = """
import os, sys
from verani.room.definition import define_room
print("what a module prints while it is imported is no answer")
chat = define_room("chat", websocket_path="/ws/{room}")

@chat.on("echo")
def echo(ctx, data):
    ctx.emit("echo", {"pid": os.getpid()})

def make():
    return define_room("hidden")

from aiohttp import web
from verani_gateway.application import setup
hidden = web.Application()
setup(hidden, make())
"""


class Output:
    """A started `verani`, and what it has written to standard error so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, pattern: str) -> re.Match[str]:
        """Read on until a line matches."""
        assert self.process.stderr is not None
        while raw := await self.process.stderr.readline():
            self.lines.append(raw.decode().rstrip("\n"))
            if match := re.search(pattern, self.lines[-1]):
                return match
        raise AssertionError(f"ended without a line like {pattern!r}:\n" + "\n".join(self.lines))

    async def end(self) -> int:
        """Read until nobody holds the pipe any more, and return the exit code."""
        if self.process.stderr is not None:
            self.lines += (await self.process.stderr.read()).decode().splitlines()
        return await self.process.wait()

    async def asleep(self) -> None:
        """Wait until it has handled its signals and sleeps: another one could go to a thread, which wakes nobody."""
        while not _sleeps(self.process.pid):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)


def _sleeps(pid: int) -> bool:
    """Tell whether the first thread of a process sleeps, and no signal waits for it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return "State:\tS" in status and not re.search(r"^(SigPnd|ShdPnd):\t0*[1-9a-f]", status, re.MULTILINE)


class Service(Output):
    """One whose processes can be found, and whose listeners are known."""

    def __init__(self, process: Process, mark: str) -> None:
        super().__init__(process)
        self.mark = mark.encode()
        self.public = self.internal = ""

    async def started(self) -> Service:
        self.public = (await self.line(r"public listener: (http://\S+)"))[1]
        self.internal = (await self.line(r"internal listener: (http://\S+)"))[1]
        return self

    def pids(self, *words: str) -> list[int]:
        """Find the processes of the service, by what they inherit, in whose command line a word is."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if not words or any(word in command for word in words):
                        found.append(int(entry.name))
            except OSError:
                continue
        return found

    async def nothing_left(self) -> None:
        """Wait until no process of the service is there."""
        while self.pids():  # noqa: ASYNC110  # nobody tells of the end of processes that are not one's own
            await asyncio.sleep(0.05)  # all of /proc is read each time


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    services: list[Service] = []

    async def start(
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        stderr: int = PIPE,
        ignoring: tuple[signal.Signals, ...] = (),
    ) -> Service:
        """Start it with the dispositions of signals that a shell gives it, but for those that it inherits ignored."""

        def dispose() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN if number in ignoring else signal.SIG_DFL)

        mark = uuid.uuid4().hex
        paths = [str(ROOT), str(ROOT / "actors"), str(ROOT / "gateway"), os.environ.get("PYTHONPATH", "")]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VERANI_")}
        inherited |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TEST_MARK": mark}
        # Tests run side by side.
        inherited |= {"VERANI_PORT": "0", "VERANI_LINK_PORT": "0", **(environ or {})}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "verani_gateway", *arguments),
            cwd=tmp_path,
            env=inherited,
            stderr=stderr,
            preexec_fn=dispose,
        )
        services.append(Service(process, mark))
        return services[-1]

    yield start
    for service in services:
        if service.process.returncode is None:
            service.process.kill()
        await service.nothing_left()
        await service.end()
