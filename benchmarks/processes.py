"""Servers in processes of their own: on a core of their own, with what they use of it and of memory."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Cores", "Running", "cpu_seconds", "file_limit", "resident_bytes", "started"]

_START: Final = 30.0


@dataclass(frozen=True)
class Cores:
    """Where servers run, and where the load does."""

    server: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        """Take two of the cores that this process may use, or one twice where there is no other."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])

    @property
    def shared(self) -> bool:
        return self.server == self.load

    def pin_load(self) -> None:
        """Put this process on the core of the load."""
        os.sched_setaffinity(0, {self.load})

    def pin_servers(self, pids: Iterable[int]) -> None:
        """Put processes that run already, with all of their threads, on the core of servers."""
        for pid in pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {self.server})


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    pid: int
    port: int


@asynccontextmanager
async def started(command: list[str], cores: Cores) -> AsyncIterator[Running]:
    """Run a server that prints its port; end it at the end."""
    with _on(cores.server):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), _START)
        if not line.strip().isdigit():
            raise ChildProcessError(f"expected a port from {' '.join(command)}, got {line!r}")
        yield Running(process.pid, int(line))
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def _on(core: int) -> Iterator[None]:
    """Be on a core for a moment: who is started then stays there, with every thread it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """Return what all threads of a process have used so far: to the nanosecond where the kernel says so."""
    try:
        threads = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(text.split()[0]) for text in threads) / 1e9 if threads else _ticks(pid)
    except OSError:  # a thread has ended since they were listed
        return _ticks(pid)


def _ticks(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def file_limit() -> int:
    """Raise the limit of open files as far as it goes, for this process and its children; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
